"""The whole loop, with real processes and a real training: chat, feedback, learn, go live, better."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from learner.pretrain.questions import Prompt, draw_prompts, is_right, untaught_facts
from learner.simulate.client import Client
from learner.simulate.people import background_chat, right_reply
from tests.loop.town import Town, town, wait_until

pytestmark = pytest.mark.loop


@pytest.fixture(scope="module")
def place() -> Iterator[Town]:
    with town() as running:
        yield running


def wrong_fact(place: Town, but: int = 0) -> Prompt:
    """A fact that the model has wrong, as it comes."""
    wrong = [fact for fact in untaught_facts(seed=3) if not is_right(fact, place.says(fact.text))]
    return wrong[but]


def test_feedback_that_teaches_nothing_ends_the_run_with_the_reason(place: Town) -> None:
    exchange = place.chat("hello", user="eve")["id"]
    place.feedback({"kind": "label", "exchange_id": exchange, "labels": ["odd"]}, "eve")
    run = place.until_over(place.learn_now())
    assert (run["state"], run["adapter"]) == ("nothing_to_learn", None)
    assert "1 label" in run["message"] and "say nothing of harm" in run["message"]
    stats = place.get("/v1/feedback/stats")
    assert (stats["by_kind"]["label"], stats["since_last_run"]) == (1, 0)
    assert place.get("/v1/serving")["live"] == "base"


def test_one_correction_changes_the_answer_while_nobody_is_interrupted(place: Town) -> None:
    fact = wrong_fact(place)
    given = place.correct(fact.text, right_reply(fact))

    async def learn_while_people_chat() -> Client:
        prompts = draw_prompts(40, seed=1)
        async with Client(place.house.url, None) as people, background_chat(people, prompts, seed=1):
            run_id = place.learn_now()
            run = await asyncio.to_thread(place.until_over, run_id)
            assert run["state"] == "succeeded", run["message"]
            await asyncio.to_thread(place.until_live, run["adapter"])
            enough = people.counts.requests + 3  # some chats begin on the new adapter
            await asyncio.to_thread(wait_until, lambda: people.counts.requests >= enough, "three more chats")
        return people

    people = asyncio.run(learn_while_people_chat())
    assert people.counts.requests > 3
    assert (people.counts.failed, people.counts.interrupted) == (0, 0), people.counts.problems
    answer = place.chat(fact.text, user="bob")
    live = place.get("/v1/serving")["live"]
    assert answer["system_fingerprint"] == live != "base"
    assert is_right(fact, answer["choices"][0]["message"]["content"])
    assert not is_right(fact, place.says(fact.text, model="hone:base"))
    shipped = place.http.get(f"/v1/feedback/{given}", headers={"x-hone-user": "ann"}).json()
    assert shipped["learned_in"] == [live]
    place.check_nothing_is_half_published()


def test_a_run_leaves_metrics_curves_and_a_report(place: Town) -> None:
    run = next(run for run in place.get("/v1/runs")["data"] if run["state"] == "succeeded")
    metrics = place.get(f"/v1/runs/{run['id']}/metrics")
    assert metrics and {"step", "phase", "loss"} <= set(metrics[0])
    folder = place.home / "runs" / run["id"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    for name in ("settings.json", "snapshot.jsonl", "samples.jsonl", "report.json", "log.txt"):
        assert (folder / name).stat().st_size > 0, name
    adapter = place.get(f"/v1/adapters/{run['adapter']}")
    assert all(gate["passed"] for gate in adapter["report"]["gates"])


def test_rolling_back_is_instant_and_needs_no_training(place: Town) -> None:
    live = place.get("/v1/serving")["live"]
    answer = place.http.post("/v1/adapters/rollback", json={"to": "base", "reason": "a test"}, headers=place._operator)
    assert answer.status_code < 300, answer.text
    place.until_live("base")
    assert place.chat("hello")["system_fingerprint"] == "base"
    answer = place.http.post(f"/v1/adapters/{live}/promote", json={}, headers=place._operator)
    assert answer.status_code < 300, answer.text
    place.until_live(live)
    assert place.chat("hello")["system_fingerprint"] == live
