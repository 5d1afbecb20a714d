"""A judge that asks for time, and one that is gone: waited for, told of, and not for ever."""

from __future__ import annotations

import httpx2
import pytest

from learner.constitution import endpoint, waiting
from service.errors import TrainingFailed
from tests.learner.constitution.asked_judge import REQUEST, completion, judge


def gone(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused", request=request)


def test_a_judge_that_answered_and_is_gone_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(waiting, "WORTH_TELLING", 0.01)
    count, waits = list[int](), list[str]()

    def away_for_a_while(request: httpx2.Request) -> httpx2.Response:
        count.append(1)
        return gone(request) if 8 < len(count) <= 13 else completion("Better: A")

    patient = judge(away_for_a_while, retries=0, say=waits.append)
    assert patient.odds([REQUEST] * 40, False) == [1.0] * 40
    assert waits[0] == "does not answer, trying again in 0 s" and waits[-1] == ""
    assert "The judge at http://judge.test/v1 does not answer, trying again in" in caplog.text
    assert len([why for why in waits if why]) < 10  # each wait once, though eight questions were under way


def test_a_judge_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(waiting, "LONGEST_GONE", 0.1)
    count = list[int]()

    def away(request: httpx2.Request) -> httpx2.Response:
        count.append(1)
        return completion("Better: A") if len(count) == 1 else gone(request)

    with pytest.raises(TrainingFailed, match="no verdict on 24 questions in a row: ConnectError refused"):
        judge(away, retries=0).odds([REQUEST] * 100, False)


def test_a_judge_that_never_answered_is_not_waited_for() -> None:
    waits = list[str]()
    with pytest.raises(TrainingFailed, match="no verdict on 8 questions in a row: ConnectError refused"):
        judge(gone, say=waits.append).odds([REQUEST] * 10, False)
    assert not waits


def test_a_long_wait_that_a_judge_asks_for_is_told_and_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(endpoint, "LONGEST_ASKED_FOR", 1.0)
    said, waits = list[str](), list[str]()

    def busy_at_first(request: httpx2.Request) -> httpx2.Response:
        said.append("")
        busy = httpx2.Response(429, headers={"retry-after": "3600"}, text="slow down")
        return busy if len(said) == 1 else completion("Better: A")

    assert judge(busy_at_first, say=waits.append).odds([REQUEST], False) == [1.0]
    assert waits == ["asks to wait 1 s", ""]
    assert "The judge at http://judge.test/v1 asks to wait 1 s." in caplog.text


def test_what_is_waited_for_is_part_of_the_progress_until_it_is_over() -> None:
    told = list[tuple[str, int, int]]()
    progress = waiting.Interrupted(lambda phase, step, steps, metrics: told.append((phase, step, steps)))
    progress("judgements", 64, 200, {})
    progress.waits("asks to wait 300 s")
    progress.waits("")
    assert told == [
        ("judgements", 64, 200), ("waiting for the judge, which asks to wait 300 s", 0, 1), ("judgements", 64, 200)
    ]  # fmt: skip
