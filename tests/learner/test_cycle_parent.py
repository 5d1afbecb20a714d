"""What a run starts from, and what it does not train again because its parent knows it."""

from __future__ import annotations

import pytest

from learner.metrics import read_metrics
from learner.parents import Parents
from service.errors import BadInput, Conflict, NotFound
from service.store.queries import adapters, feedback, runs, serving
from tests.learner.pretend_training import Pretender, cycle, go_live, learn_v1, requested, withdraw
from tests.learner.pretend_training import small_base as small_base
from tests.learner.queued_runs import lease, queue, the_run
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


def test_the_base_s_replies_are_kept_while_nothing_but_corrections_was_learned(home: Home) -> None:
    keeps = []
    for number, learn in enumerate(("correction", "correction", "comparison", "correction")):
        if learn == "comparison":
            home.compare("yes", "certainly so", "b", prompt=(1, 9))
        else:
            home.correct("a", "bb", prompt=(1, 10 + number))
        trainer = Pretender()
        queue(home, number=number)
        cycle(home, lease(home), trainer).run()
        go_live(home, f"v{number + 1}")
        keeps += trainer.keeps
    assert keeps == ["base", "base", "policy", "policy"]


def test_what_an_imported_adapter_says_is_kept(home: Home) -> None:
    learn_v1(home)
    with home.store.begin() as tx:
        assert runs.of_corrections_alone(tx, "v1")
        imported = adapters.get_adapter(tx, "v1")
        assert imported is not None
        imported.run_id = None
    go_live(home, "v1")
    home.correct("a", "ccc", prompt=(1, 9))
    trainer = Pretender()
    queue(home, again=True)
    cycle(home, lease(home), trainer).run()
    assert trainer.keeps == ["policy"]


def test_an_adapter_of_another_base_model_is_no_parent(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    learn_v1(home)
    with home.store.begin() as tx:
        serving.flip_live(tx, "v1", "test", "proven")
    monkeypatch.setattr("learner.parents.base_fingerprint", lambda model: "1" * 64)
    run_id = queue(home, again=True)
    trainer = Pretender()
    cycle(home, lease(home), trainer).run()
    assert trainer.parents == [None] and the_run(home, run_id).parent is None
    assert "It starts from the base: v1 was made for another one." in the_run(home, run_id).message


def test_the_next_run_starts_from_the_live_adapter(home: Home) -> None:
    learn_v1(home)
    with home.store.begin() as tx:
        serving.flip_live(tx, "v1", "test", "proven")
    home.correct("a", "ccc", prompt=(1, 9))
    run_id = queue(home, again=True)
    trainer = Pretender()
    cycle(home, lease(home), trainer).run()
    assert trainer.parents == [home.settings.adapters_folder / "v1"]
    assert the_run(home, run_id).parent == "v1"


@pytest.mark.parametrize("news", ["none", "another comparison", "a changed one"])
def test_a_correction_does_not_have_what_the_parent_prefers_trained_again(home: Home, news: str) -> None:
    home.correct("a", "bb")
    compared = home.compare("yes", "certainly so", "b", prompt=(1, 7))
    for number in range(3):
        if number == 2 and news == "another comparison":
            home.compare("no", "certainly not", "b", prompt=(1, 8))
        if number == 2 and news == "a changed one":
            with home.store.begin() as tx:
                judged = feedback.get_feedback(tx, "name:ann", compared).feedback
                changed = judged.model_copy(update={"strength": 3})
                feedback.change_feedback(tx, "name:ann", compared, changed)
        home.correct("a", "ccc", prompt=(1, 9 + number))
        run_id = queue(home, number=number)
        trainer = Pretender()
        cycle(home, lease(home), trainer).run()
        with home.store.begin() as tx:
            serving.flip_live(tx, f"v{number + 1}", "test", "proven")
        stages = {row["phase"] for row in read_metrics(home.settings.runs_folder / run_id / "metrics.jsonl")}
        assert stages == ({"sft"} if number == 1 or (number == 2 and news == "none") else {"sft", "dpo"})
    with home.store.read() as tx:
        learned_in = feedback.get_feedback(tx, "name:ann", compared).learned_in
    assert learned_in == (("v3",) if news == "a changed one" else ("v1", "v3"))


def test_a_run_starts_from_the_adapter_of_the_one_before_although_that_is_still_on_its_way(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.correct("a", "bb")
    queue(home)
    cycle(home, lease(home), Pretender()).run()
    assert requested(home) == "v1"
    looks: list[float] = []

    def the_rollout_goes_on(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            with home.store.begin() as tx:
                serving.fulfil_request(tx, "v1", "proven")

    monkeypatch.setattr("learner.cycle.time.sleep", the_rollout_goes_on)
    run_id = queue(home, again=True)
    cycle(home, lease(home), Pretender()).run()
    assert the_run(home, run_id).parent == "v1" and len(looks) == 3


def test_a_run_does_not_wait_for_ever_for_a_service_that_is_away(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.cycle.ROLLOUT_SECONDS", 0.2)
    home.correct("a", "bb")
    for again in (False, True):
        run_id = queue(home, again=again)
        cycle(home, lease(home), Pretender()).run()
    assert the_run(home, run_id).parent is None
    assert requested(home) == "v2"


def candidate_v1(home: Home) -> str:
    """An adapter that passed and that nobody asked to go live; returns the feedback that it learned."""
    learned = home.correct("a", "bb")
    queue(home, promote=False)
    cycle(home, lease(home), Pretender()).run()
    return learned


def learn_from(home: Home, parent: str) -> tuple[Pretender, str]:
    """A run that is asked to start from an adapter, or the base; returns its trainer and its id."""
    home.correct("a", "ccc", prompt=(1, 9))
    run_id, trainer = queue(home, parent=parent), Pretender()
    cycle(home, lease(home), trainer).run()
    return trainer, run_id


def test_a_run_starts_from_what_it_was_asked_to_and_may_go_live(home: Home) -> None:
    candidate_v1(home)
    trainer, run_id = learn_from(home, "v1")
    assert trainer.parents == [home.settings.adapters_folder / "v1"]
    run = the_run(home, run_id)
    assert run.parent == "v1" and "It starts from v1, as it was asked." in run.message
    assert requested(home) == "v2"  # that its parent isn't live means nothing: nobody rolled it back


def test_a_run_that_is_to_start_from_an_adapter_does_not_wait_for_that_to_go_live(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody_waits(seconds: float) -> None:
        raise AssertionError("It waited.")

    learn_v1(home)
    assert requested(home) == "v1"
    monkeypatch.setattr("learner.cycle.time.sleep", nobody_waits)
    assert the_run(home, learn_from(home, "v1")[1]).parent == "v1"


def test_a_run_may_be_asked_to_start_from_the_base(home: Home) -> None:
    learn_v1(home)
    go_live(home, "v1")
    trainer, run_id = learn_from(home, "base")
    assert trainer.parents == [None] and the_run(home, run_id).parent is None
    assert "It starts from the base, as it was asked." in the_run(home, run_id).message


@pytest.mark.parametrize(
    ("rank", "alpha", "kept", "names"),
    [
        (8, 4.0, "rank 2 of v1", "learner.rank is"),
        (2, 8.5, "alpha 4 of v1", "learner.alpha is"),
        (8, 8.5, "rank 2 and alpha 4 of v1", "learner.rank and learner.alpha are"),
        (2, 4.0, "", ""),
    ],
)
def test_a_parent_of_another_shape_keeps_it_and_the_run_says_so(
    home: Home, rank: int, alpha: float, kept: str, names: str
) -> None:
    candidate_v1(home)  # of rank 2, alpha 4
    learner = home.settings.learner.model_copy(update={"rank": rank, "alpha": alpha})
    home.settings = home.settings.model_copy(update={"learner": learner})
    trainer, run_id = learn_from(home, "v1")
    assert trainer.parents == [home.settings.adapters_folder / "v1"]
    remark = f"It keeps the {kept}; {names} for what starts from the base."
    message = the_run(home, run_id).message
    assert (remark in message) if kept else ("It keeps" not in message)


def test_what_knows_of_something_withdrawn_is_not_started_from_whoever_asks(home: Home) -> None:
    withdraw(home, candidate_v1(home))
    trainer, run_id = learn_from(home, "v1")
    assert trainer.parents == [None]
    assert "It starts from the base: v1 knows feedback that was withdrawn." in the_run(home, run_id).message


def test_only_an_adapter_of_this_base_that_nobody_rejected_can_be_asked_for(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate_v1(home)
    parents = Parents(home.settings, home.store)
    parents.check("v1")
    parents.check("base")
    for name in ("v2", "hone", ""):
        with pytest.raises(NotFound, match="There is no adapter"):
            parents.check(name)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("learner.parents.base_fingerprint", lambda model: "1" * 64)
        with pytest.raises(BadInput, match="v1 was made for another base model than sprout"):
            parents.check("v1")
    with home.store.begin() as tx:
        serving.set_state(tx, "v1", "rejected", "me", "Too odd.")
    with pytest.raises(Conflict, match="v1 was rejected: Too odd"):
        parents.check("v1")


def test_what_was_rejected_before_the_run_began_fails_it(home: Home) -> None:
    candidate_v1(home)
    with home.store.begin() as tx:
        serving.set_state(tx, "v1", "rejected", "me", "Too odd.")
    with pytest.raises(Conflict, match="v1 was rejected: Too odd"):
        learn_from(home, "v1")
