"""A judge over HTTP: odds, written verdicts, silence, nonsense and refusals."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from itertools import cycle
from typing import Any

import httpx2
import pytest

from learner.constitution.endpoint import EndpointJudge
from service.constitution.prompts import verdict_messages
from service.errors import TrainingFailed
from tests.learner.constitution.asked_judge import OURS, REQUEST, completion, judge


def token(text: str, top: dict[str, float]) -> dict[str, object]:
    listed = [{"token": name, "logprob": nats} for name, nats in top.items()]
    return {"token": text, "logprob": top.get(text, -9.0), "top_logprobs": listed}


def test_the_odds_are_those_of_the_letters_where_the_verdict_stands() -> None:
    asked = list[httpx2.Request]()

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        letters = token(" A", {" A": math.log(0.6), " B": math.log(0.2), " C": math.log(0.2)})
        return completion("Better: A", {"content": [token("Better", {"Better": -0.1}), token(":", {}), letters]})

    assert judge(answer, key="secret").odds([REQUEST], False) == [pytest.approx(0.75)]
    (request,) = asked
    body = json.loads(request.content)
    assert str(request.url) == "http://judge.test/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer secret"
    assert body["model"] == "judge-7b" and body["temperature"] == 0 and body["logprobs"] is True
    assert body["messages"][-1]["content"].startswith(REQUEST[-1]["content"])


def test_a_letter_among_none_of_the_likeliest_was_as_good_as_never_said() -> None:
    told = {"content": [token("B", {"B": -0.01})]}
    assert judge(lambda request: completion("Better: B", told)).odds([REQUEST], False) == [0.0]


def test_a_reason_behind_the_verdict_does_not_speak_for_it() -> None:
    first = token(" A", {" A": math.log(0.6), " B": math.log(0.4)})
    last = token(" B", {" A": math.log(0.01), " B": math.log(0.99)})
    told = {"content": [token("Better", {}), token(":", {}), first, token(", as", {}), last, token(" harms", {})]}
    assert judge(lambda request: completion("Better: A, as B harms", told)).odds([REQUEST], False) == [
        pytest.approx(0.6)
    ]


@pytest.mark.parametrize(
    "told",
    [
        {"content": [None, 3, {"token": None, "top_logprobs": [5]}]},
        {"content": [{"token": " A", "logprob": "x", "top_logprobs": [3, None, {"token": "B", "logprob": None}]}]},
        {"content": [{"token": "A", "logprob": 1e308, "top_logprobs": [{"token": "A", "logprob": 900}]}]},
        {"content": [{"token": "A", "logprob": math.nan, "top_logprobs": "A"}]},
        {"content": {"token": "A"}},
        [1],
    ],
)
def test_log_probabilities_that_are_none_leave_the_written_verdict(told: object) -> None:
    body = json.dumps({"choices": [{"message": {"content": "Better: A"}, "logprobs": told}]})
    assert judge(lambda request: httpx2.Response(200, text=body)).odds([REQUEST], False) == [1.0]


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_without_log_probabilities_is_taken_at_its_word(status: int) -> None:
    bodies = list[dict[str, Any]]()

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        if "logprobs" in bodies[-1]:
            return httpx2.Response(status, json={"error": {"message": "logprobs are not supported"}})
        return completion("I see. Better: B")

    asked = judge(answer)
    assert asked.odds([REQUEST], False) == [0.0] and asked.odds([REQUEST], False) == [0.0]
    assert ["logprobs" in body for body in bodies] == [True, False, False]  # it is not asked for them again


def test_what_is_no_verdict_is_asked_again_and_then_given_up() -> None:
    said = iter(["I can't say.", "Better: A"])
    assert judge(lambda request: completion(next(said))).odds([REQUEST], False) == [1.0]
    count = list[int]()

    def nonsense(request: httpx2.Request) -> httpx2.Response:
        count.append(1)
        return completion("Both are fine, I will follow neither.")

    assert judge(nonsense, retries=2).odds([REQUEST], False) == [None]
    assert len(count) == 3


@pytest.mark.parametrize(
    "trouble",
    [
        lambda request: httpx2.Response(503, text="overloaded"),
        lambda request: httpx2.Response(200, text="<html>"),
        lambda request: httpx2.Response(200, json={"choices": []}),
        lambda request: httpx2.Response(200, json=[1]),
        lambda request: httpx2.Response(200, json={"choices": [{"message": "Better: A"}]}),
        lambda request: httpx2.Response(200, json={"choices": [{"message": {"content": None}}]}),
    ],
)
def test_a_server_in_trouble_gives_no_verdict(trouble: Callable[[httpx2.Request], httpx2.Response]) -> None:
    assert judge(trouble, retries=1).odds([REQUEST, REQUEST], False) == [None, None]


def test_a_server_that_does_not_answer_gives_no_verdict() -> None:
    def silence(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("too slow", request=request)

    assert judge(silence, retries=1).odds([REQUEST], False) == [None]


def test_a_server_whose_answer_never_ends_gives_no_verdict() -> None:
    class Drops(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0.001)

    asked = judge(lambda request: httpx2.Response(200, stream=Drops()), retries=0, timeout_seconds=0.05)
    assert asked.odds([REQUEST], False) == [None]


@pytest.mark.parametrize(("answered_before", "in_a_row"), [(0, 8), (1, 24)])
def test_a_server_that_answers_nothing_is_given_up_before_all_is_asked(answered_before: int, in_a_row: int) -> None:
    count = list[int]()

    def nonsense(request: httpx2.Request) -> httpx2.Response:
        count.append(1)
        return completion("Better: A" if len(count) <= answered_before else "I am a teapot.")

    asked = judge(nonsense, retries=0)
    with pytest.raises(
        TrainingFailed, match=rf"no verdict on {in_a_row} questions in a row: .*'I am a teapot\.'.*judge_retries"
    ):
        asked.odds([REQUEST] * 300, False)
    assert len(count) < 2 * in_a_row + 2


def test_a_server_that_answers_now_and_then_is_left_to_the_share_of_failures() -> None:
    said = cycle(["Better: A", *["I am a teapot."] * 9])
    asked = judge(lambda request: completion(next(said)), retries=0)
    assert asked.odds([REQUEST] * 100, False).count(None) == 90


@pytest.mark.parametrize("tell", [lambda: "1", lambda: formatdate(time.time() + 2.9, usegmt=True)])
def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(tell: Callable[[], str]) -> None:
    asked_at = list[float]()

    def busy_at_first(request: httpx2.Request) -> httpx2.Response:
        asked_at.append(time.monotonic())
        busy = httpx2.Response(429, headers={"retry-after": tell()}, text="slow down")
        return busy if len(asked_at) == 1 else completion("Better: A")

    assert judge(busy_at_first, retries=1).odds([REQUEST], False) == [1.0]
    assert asked_at[1] - asked_at[0] > 0.5


@pytest.mark.parametrize("told", ["soon", "-3", "Sun, 06 Nov 1994 08:49:37 GMT", ""])
def test_a_time_to_wait_that_is_none_is_not_waited_for(told: str) -> None:
    busy = httpx2.Response(503, headers={"retry-after": told}, text="overloaded")
    assert judge(lambda request: busy, retries=1).odds([REQUEST], False) == [None]


def test_an_address_that_is_none_ends_it_at_once() -> None:
    asked = EndpointJudge("http://judge:many/v1", "judge-7b", OURS)
    with pytest.raises(TrainingFailed, match="no address"):
        asked.odds([REQUEST], False)


@pytest.mark.parametrize(("status", "what_to_do"), [(401, "judge_key_variable"), (404, "judge_model"), (403, "key")])
def test_a_server_that_refuses_ends_it_at_once(status: int, what_to_do: str) -> None:
    count = list[int]()

    def refuse(request: httpx2.Request) -> httpx2.Response:
        count.append(1)
        return httpx2.Response(status, json={"error": {"message": "No such thing."}})

    with pytest.raises(TrainingFailed, match=rf"HTTP {status}\): No such thing\..*{what_to_do}"):
        judge(refuse, retries=5).odds([REQUEST] * 50, False)
    assert len(count) < 50


def test_a_key_that_the_server_repeats_is_not_told() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(401, json={"error": {"message": "Incorrect key: sk-secret"}})

    with pytest.raises(TrainingFailed, match=r"Incorrect key: …\. It wants"):
        judge(refuse, key="sk-secret").odds([REQUEST], False)


def test_the_password_in_its_address_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    def judge_that(status: int) -> EndpointJudge:
        transport = httpx2.MockTransport(lambda request: httpx2.Response(status, text=f"no page {request.url}"))
        address = "http://ann:secret@judge.test/v1/"
        return EndpointJudge(address, "judge-7b", OURS, retries=0, transport=transport, first_pause=0.0)

    for status in (404, 500):
        with pytest.raises(TrainingFailed, match=r"The judge at http://judge\.test/v1 ") as failed:
            judge_that(status).odds([REQUEST] * 30, False)
        assert "secret" not in str(failed.value)
    assert "The judge at http://judge.test/v1 gave no verdict: HTTP 500" in caplog.text and "secret" not in caplog.text


def test_answers_come_in_the_order_of_the_questions() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        is_first = "A: one" in json.loads(request.content)["messages"][-1]["content"]
        return completion("Better: A" if is_first else "Better: B")

    other = verdict_messages(OURS, OURS.principles[0], [{"role": "user", "content": "hi"}], "two", "one")
    assert judge(answer).odds([REQUEST, other, REQUEST], False) == [1.0, 0.0, 1.0]


def test_each_verdict_is_heard_as_it_comes_though_another_one_ends_the_run() -> None:
    heard, requests = dict[int, float](), [[*REQUEST[:-1], {"role": "user", "content": str(n)}] for n in range(12)]

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked = json.loads(request.content)["messages"][-1]["content"].split("\n")[0]
        return httpx2.Response(401, text="no") if asked == "11" else completion("Better: A")

    with pytest.raises(TrainingFailed, match="refuses"):
        judge(answer).odds(requests, False, lambda place, odds, thoughts: heard.__setitem__(place, odds))
    assert len(heard) >= 3 and set(heard.values()) == {1.0} and 11 not in heard


@pytest.mark.parametrize("reasoned", [True, False])
def test_what_it_thought_before_a_verdict_is_heard_where_it_was_asked_to(reasoned: bool) -> None:
    heard = list[tuple[int, float, str]]()
    said = "A helps a thief.\nB does not. Better: B, as I said."
    found = judge(lambda request: completion(said)).odds([REQUEST], reasoned, lambda *one: heard.append(one))
    assert found == [0.0] and heard == [(0, 0.0, "A helps a thief.\nB does not." if reasoned else "")]


def test_a_judge_that_knows_the_question_alone_is_asked_so_once_that_has_brought_a_verdict() -> None:
    asked = list[str]()

    def practised(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content)["messages"][-1]["content"])
        return completion("Better: B" if asked[-1] == REQUEST[-1]["content"] else "I like how curious you are!")

    told_nothing = judge(practised)
    assert told_nothing.odds([REQUEST], False) == [0.0] and told_nothing.odds([REQUEST] * 3, False) == [0.0] * 3
    assert len(asked) == 2 + 3


def test_a_judge_that_made_sense_of_a_question_with_how_to_answer_is_told_so_first_ever_after() -> None:
    said, asked = iter(["Better: A", "Well.", "Better: A", "Better: A"]), list[str]()

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content)["messages"][-1]["content"])
        return completion(next(said))

    usual = judge(answer)
    assert [usual.odds([REQUEST], False) for _ in range(3)] == [[1.0]] * 3
    assert ["nothing else" in question for question in asked] == [True, True, False, True]
