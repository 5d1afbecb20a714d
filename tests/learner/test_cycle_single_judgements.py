"""Thumbs and scores that stand alone teach too, where there are enough of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.metrics import read_metrics
from service.store.queries import feedback, runs, serving
from service.wire import Score, Thumb
from tests.learner.pretend_training import Pretender, cycle, go_live, requested, withdraw
from tests.learner.pretend_training import small_base as small_base
from tests.learner.queued_runs import lease, queue, the_run
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


def give_thumbs(home: Home, good: int, bad: int) -> list[str]:
    return [
        home.judge(Thumb(exchange_id=home.chat("yes", prompt=(1, 40 + number)), good=number < good))
        for number in range(good + bad)
    ]


def test_single_thumbs_teach_and_it_is_said_of_them(home: Home) -> None:
    names = give_thumbs(home, 4, 5)
    run_id, trainer = queue(home), Pretender()
    cycle(home, lease(home), trainer).run()
    run = the_run(home, run_id)
    assert (run.state, run.adapter) == ("succeeded", "v1")
    assert "It learned from 4 good and 5 bad replies of 1 person; 0 replies held out." in run.message
    assert "Not used" not in run.message
    assert trainer.keeps == ["policy"]
    assert {row["phase"] for row in read_metrics(home.settings.runs_folder / run_id / "metrics.jsonl")} == {"kto"}
    with home.store.read() as tx:
        assert {feedback.get_feedback(tx, "name:ann", name).learned_in for name in names} == {("v1",)}
    go_live(home, "v1")
    withdraw(home, names[0])
    again = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    assert the_run(home, again).state == "nothing_to_learn"  # three good ones are too few
    assert "8 single thumbs (" in the_run(home, again).message
    assert requested(home) == "base"


def test_thumbs_are_asked_for_by_name_and_wait_beside_pairs(tmp_path: Path) -> None:
    home = Home(tmp_path, held_out_share=0.001)
    names = give_thumbs(home, 4, 4)
    compared = [home.compare("yes", "certainly so", "b", prompt=(1, 80 + number, 2)) for number in range(4)]
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    with home.store.begin() as tx:
        run = runs.queue_run(tx, "thumbs only", "command", "kto", {})
    cycle(home, lease(home), Pretender()).run()
    assert run is not None and the_run(home, run.id).adapter == "v2"
    with home.store.read() as tx:
        learned = {name: feedback.get_feedback(tx, "name:ann", name).learned_in for name in (*names, *compared)}
        assert {learned[name] for name in names} == {("v2",)}
        assert {learned[name] for name in compared} == {("v1", "v2")}  # their better replies are good ones, too
        assert not runs.of_corrections_alone(tx, "v2")


def test_too_few_thumbs_of_a_kind_teach_nothing_and_it_is_said_why(home: Home) -> None:
    give_thumbs(home, 9, 1)
    run_id = queue(home)
    cycle(home, lease(home), Pretender()).run()
    run = the_run(home, run_id)
    assert run.state == "nothing_to_learn" and "(10 thumbs)" in run.message and "4 good and 4 bad" in run.message


@pytest.mark.parametrize(("good", "bad", "side", "other"), [(5, 0, "good", "bad"), (0, 5, "bad", "good")])
def test_thumbs_of_one_side_wait_for_the_other_where_kto_is_asked_for(
    home: Home, good: int, bad: int, side: str, other: str
) -> None:
    names = give_thumbs(home, good, bad)
    with home.store.begin() as tx:
        run = runs.queue_run(tx, "thumbs only", "command", "kto", {})
    cycle(home, lease(home), Pretender()).run()
    assert run is not None and the_run(home, run.id).state == "nothing_to_learn"
    assert the_run(home, run.id).message == (
        f"There is feedback (5 thumbs), but every reply is called {side}, and kto tells good ones from bad ones. All "
        f"of it is kept, and learned from once there are {other} replies or pairs, too."
    )
    names.append(home.judge(Thumb(exchange_id=home.chat("yes", prompt=(1, 80)), good=not good)))
    with home.store.begin() as tx:
        again = runs.queue_run(tx, "thumbs of both sides", "command", "kto", {})
    cycle(home, lease(home), Pretender()).run()
    assert again is not None and the_run(home, again.id).state == "succeeded"
    with home.store.read() as tx:
        assert {feedback.get_feedback(tx, "name:ann", name).learned_in for name in names} == {("v1",)}


def test_single_scores_teach_a_reward_model_and_no_other_method_which_says_so(home: Home) -> None:
    names = [
        home.judge(Score(exchange_id=home.chat("yes", prompt=(1, 30 + number)), score=9 if number % 2 else 2))
        for number in range(8)
    ]
    run_id = queue(home)
    cycle(home, lease(home), Pretender()).run()
    run = the_run(home, run_id)
    assert run.state == "nothing_to_learn" and "8 single scores (" in run.message
    with home.store.begin() as tx:
        by_reward = runs.queue_run(tx, "by reward", "command", "ppo", {})
    cycle(home, lease(home), Pretender()).run()
    assert by_reward is not None and "8 scored replies of 1 person" in the_run(home, by_reward.id).message
    with home.store.read() as tx:
        assert {feedback.get_feedback(tx, "name:ann", name).learned_in for name in names} == {("v1",)}


@pytest.mark.parametrize("news", ["none", "another thumb"])
def test_a_correction_does_not_have_the_thumbs_that_the_parent_learned_from_trained_again(
    home: Home, news: str
) -> None:
    give_thumbs(home, 4, 4)
    for number in range(2):
        if number == 1 and news == "another thumb":
            home.judge(Thumb(exchange_id=home.chat("yes", prompt=(1, 99)), good=False))
        home.correct("a", "ccc", prompt=(1, 9 + number))
        run_id = queue(home, number=number)
        cycle(home, lease(home), Pretender()).run()
        go_live(home, f"v{number + 1}")
        stages = {row["phase"] for row in read_metrics(home.settings.runs_folder / run_id / "metrics.jsonl")}
        assert stages == ({"sft"} if number == 1 and news == "none" else {"sft", "kto"})


def test_scores_that_are_new_are_learned_from_beside_what_the_parent_knows(home: Home) -> None:
    learner = home.settings.learner.model_copy(update={"preferences": "ppo"})
    home.settings = home.settings.model_copy(update={"learner": learner})

    def score(first: int) -> None:
        for number in range(10):
            exchange = home.chat("yes", prompt=(1, first + number))
            home.judge(Score(exchange_id=exchange, score=9 if number % 2 else 2))

    home.correct("a", "bb")
    score(40)
    for number, stages in enumerate(({"sft", "ppo"}, {"sft"}, {"sft", "ppo"})):
        if number:
            home.correct("a", "ccc", prompt=(1, 9 + number))
        if number == 2:
            score(60)
        run_id = queue(home, number=number)
        cycle(home, lease(home), Pretender()).run()
        with home.store.begin() as tx:
            serving.flip_live(tx, f"v{number + 1}", "test", "proven")
        assert {row["phase"] for row in read_metrics(home.settings.runs_folder / run_id / "metrics.jsonl")} == stages
