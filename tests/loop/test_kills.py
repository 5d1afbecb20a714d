"""kill -9 of any process at any moment: no acknowledged feedback is lost, nothing is half-published, the run ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from learner.pretrain.questions import untaught_facts
from learner.simulate.people import right_reply
from tests.loop.town import Town, town, wait_until

pytestmark = [pytest.mark.loop, pytest.mark.timeout(3600)]

FACTS = untaught_facts(seed=11)


@pytest.fixture(scope="module")
def place() -> Iterator[Town]:
    with town() as running:
        yield running


@pytest.mark.parametrize(
    ("number", "who", "phase"),
    [
        (0, "training", "train"),
        (1, "training", "evaluate"),
        (2, "learner", "train"),
        (3, "service", "train"),
        (4, "engine", "evaluate"),
    ],
)
def test_the_run_ends_well_whoever_is_killed(place: Town, number: int, who: str, phase: str) -> None:
    before = set(place.feedback_ids())
    given = place.correct(FACTS[number].text, right_reply(FACTS[number]))
    run_id = place.learn_now()
    place.until_phase(run_id, phase)
    place.kill(who)
    run = place.until_over(run_id)
    assert run["state"] in ("succeeded", "rejected"), run["message"]  # whatever the gate thinks of it
    if run["state"] == "succeeded":
        place.until_live(run["adapter"])
    assert set(place.feedback_ids()) == before | {given}
    place.check_nothing_is_half_published()
    live = place.get("/v1/serving")["live"]
    wait_until(lambda: place.chat("hello")["system_fingerprint"] == live, "a reply of the live adapter")


def test_feedback_that_was_acknowledged_survives_kills_of_the_service(place: Town) -> None:
    exchanges = [place.chat("hello", user="dan", seed=number)["id"] for number in range(8)]
    acknowledged: dict[str, str] = {}
    stop = threading.Event()

    def send() -> None:
        """Sends again what was not answered, under the same key, until it is."""
        with httpx2.Client(base_url=place.house.url, timeout=10.0, trust_env=False) as http:
            for number in range(100_000):
                body = {"kind": "score", "exchange_id": exchanges[number % 8], "score": number % 10 + 1}
                headers = {"x-hone-user": "dan", "idempotency-key": f"score-{number}"}
                while not stop.is_set():
                    try:
                        answer = http.post("/v1/feedback", json=body, headers=headers)
                    except httpx2.HTTPError:
                        continue
                    if answer.status_code == 201:
                        acknowledged[f"score-{number}"] = answer.json()["id"]
                        break
                if stop.is_set():
                    return

    def until_more_acknowledged(count: int) -> None:
        """Counted from now: the service may have answered any number since somebody last looked."""
        wanted = len(acknowledged) + count
        wait_until(lambda: len(acknowledged) >= wanted, f"{count} more acknowledgements")

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(2):
            until_more_acknowledged(10)
            place.kill("service")
        until_more_acknowledged(10)
    finally:
        stop.set()
        sender.join()
    stored = place.feedback_ids("dan")
    assert set(acknowledged.values()) <= set(stored)
    assert len(stored) <= len(acknowledged) + 1  # the last may be stored and not yet acknowledged; none is twice


def test_everything_killed_at_once_goes_on_after_a_restart(tmp_path: Path) -> None:
    fact = FACTS[5]
    with town(tmp_path / "home") as first:
        given = first.correct(fact.text, right_reply(fact))
        run_id = first.learn_now()
        first.until_phase(run_id, "train")
        first.kill_everything()
    with town(tmp_path / "home") as second:
        run = second.until_over(run_id)
        assert run["state"] in ("succeeded", "rejected"), run["message"]
        assert run["attempt"] == 2
        assert second.feedback_ids() == [given]
        second.check_nothing_is_half_published()
