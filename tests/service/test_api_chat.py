"""Chats over real sockets, with an engine that speaks the contract: replies, failures, callers who leave."""

import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from service.app import create_app
from service.settings import load_settings
from service.store.session import Store
from tests.fixtures.serving import serve
from tests.fixtures.waiting import until
from tests.service.chatting import ask, events
from tests.service.conftest import Running
from tests.service.fake_engine import EOS, LOGPROB, WORDS

TEXT = "".join(WORDS)
TOKENS = [*range(10, 10 + len(WORDS)), EOS]


def test_a_reply_names_its_exchange_and_its_adapter(running: Running) -> None:
    answer = running.post("/v1/chat/completions", ask()).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": TEXT}
    assert answer["system_fingerprint"] == "base" and answer["model"] == "hone:base"
    stored = running.get(f"/v1/exchanges/{answer['id']}").json()
    assert stored["adapter"] == "base" and stored["model"] == "hone"
    assert stored["messages"] == [{"role": "user", "content": "hi"}]
    assert stored["prompt_token_ids"] == [1, 7, 7]
    reply = {"index": 0, "text": TEXT, "finish_reason": "stop", "token_ids": TOKENS, "logprobs": [LOGPROB] * 6}
    assert stored["replies"] == [reply]
    sampling = {"n": 1, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 256}
    assert stored["sampling"] == sampling  # all of it, so that no engine adds anything of its own
    assert running.engine.bodies[-1].items() >= sampling.items()


def test_tokens_and_log_probabilities_are_shown_only_to_those_who_ask(running: Running) -> None:
    plain = running.post("/v1/chat/completions", ask()).json()
    assert plain["choices"][0]["logprobs"] is None
    assert "token_ids" not in plain["choices"][0] and "prompt_token_ids" not in plain
    asked = running.post("/v1/chat/completions", ask(logprobs=True, return_token_ids=True)).json()
    assert [entry["logprob"] for entry in asked["choices"][0]["logprobs"]["content"]] == [LOGPROB] * 6
    assert asked["choices"][0]["token_ids"] == TOKENS and asked["prompt_token_ids"] == [1, 7, 7]


def test_a_stream_is_what_openai_clients_expect(running: Running) -> None:
    response = running.post("/v1/chat/completions", ask(stream=True, stream_options={"include_usage": True}))
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, done = events(response)
    assert done == "[DONE]"
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 6
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == TEXT
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 6 + ["stop"]
    assert {(chunk["id"], chunk["system_fingerprint"]) for chunk in (*chunks, usage)} == {(chunks[0]["id"], "base")}
    assert all("token_ids" not in chunk["choices"][0] and "prompt_token_ids" not in chunk for chunk in chunks)
    stored = running.get(f"/v1/exchanges/{chunks[0]['id']}").json()
    assert stored["replies"][0]["token_ids"] == TOKENS and stored["replies"][0]["logprobs"] == [LOGPROB] * 6


def test_feedback_right_after_a_stream_finds_its_exchange(running: Running) -> None:
    with running.http.stream("POST", "/v1/chat/completions", json=ask(stream=True)) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                exchange = json.loads(line[6:])["id"]
            if line == "data: [DONE]":
                thumb = {"kind": "thumb", "good": True, "exchange_id": exchange}
                assert running.post("/v1/feedback", thumb).status_code == 201
                break
        else:
            pytest.fail("no [DONE]")


def test_the_openai_client_works(running: Running) -> None:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="anything")
    reply = client.chat.completions.create(model="hone", messages=[{"role": "user", "content": "hi"}], n=2)
    assert [choice.message.content for choice in reply.choices] == [TEXT, TEXT]
    stream = client.chat.completions.create(model="hone", messages=[{"role": "user", "content": "hi"}], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == TEXT
    models = {model.id: model for model in client.models.list()}
    assert {"hone", "hone:base"} <= set(models)
    assert all(0 <= time.time() - model.created < 3600 for model in models.values())
    assert client.models.retrieve("hone:base") == models["hone:base"]
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"


def test_the_engines_refusal_reaches_the_caller(running: Running) -> None:
    for stream in (False, True):
        response = running.post("/v1/chat/completions", ask("!refuse", stream=stream))
        assert response.status_code == 400
        assert "does not like this" in response.json()["error"]["message"]


def test_a_default_length_that_does_not_fit_is_shortened_and_a_stated_one_refused(running: Running) -> None:
    assert running.post("/v1/chat/completions", ask("!long")).status_code == 200
    assert "max_tokens" not in running.engine.bodies[-1]
    assert running.post("/v1/chat/completions", ask("!long", max_tokens=100)).status_code == 400


@pytest.mark.parametrize("said", ["!break", "!error", "!garbage", "!shape"])
def test_a_failure_in_mid_stream_is_an_error_event_and_the_part_is_kept(running: Running, said: str) -> None:
    *chunks, error = events(running.post("/v1/chat/completions", ask(said, stream=True)))
    assert error["error"]["type"] == "server_error"
    stored = running.get(f"/v1/exchanges/{chunks[0]['id']}").json()
    assert stored["replies"][0]["text"] == "Hello there" and stored["replies"][0]["finish_reason"] is None


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_before_the_first_token_says_when_to_come_back_and_counts_no_retry_that_nobody_is_asked(
    running: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async def fail(*request: Any) -> AsyncIterator[str]:
        yield 'data: {"error": {"message": "out of luck", "code": 500}}\n\n'

    if stream:
        monkeypatch.setattr(running.engine, "_stream", fail)
    else:
        monkeypatch.setattr(running.engine, "fails", 500)
    retries = running.app.state.parts.metrics.retries._value
    before = retries.get()
    failed = running.post("/v1/chat/completions", ask(stream=stream))
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "engine_unavailable")
    assert (failed.headers["retry-after"], failed.headers["x-should-retry"]) == ("1", "true")
    assert retries.get() == before  # there is no other engine


def test_a_caller_who_leaves_frees_the_engine_and_the_part_is_kept(running: Running) -> None:
    with running.http.stream("POST", "/v1/chat/completions", json=ask("!slow", stream=True)) as response:
        lines = response.iter_lines()
        exchange = json.loads(next(line for line in lines if "Hello" in line)[6:])["id"]
        until(lambda: running.engine.under_way == 1)
    until(lambda: running.engine.under_way == 0)
    until(lambda: running.get(f"/v1/exchanges/{exchange}").status_code == 200)
    assert running.get(f"/v1/exchanges/{exchange}").json()["replies"][0]["text"] == "Hello there"


def test_a_caller_who_leaves_right_after_the_last_token_leaves_a_whole_exchange(running: Running) -> None:
    """Many clients hang up when they have seen a finish_reason; the store may be busy just then."""
    parts, release = running.app.state.parts, threading.Event()
    answered = parts.metrics.requests.labels("/v1/chat/completions", 200)
    before = answered._value.get()
    busy = parts.transactions._writers.submit(release.wait, 30)
    with running.http.stream("POST", "/v1/chat/completions", json=ask(stream=True)) as response:
        chunks = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {"))
        exchange = next(chunk["id"] for chunk in chunks if chunk["choices"][0]["finish_reason"])
        until(lambda: not parts.transactions._writers._work_queue.empty())
    until(lambda: answered._value.get() > before)  # the service has noticed
    release.set()
    assert busy.result()
    until(lambda: running.get(f"/v1/exchanges/{exchange}").status_code == 200)
    assert running.get(f"/v1/exchanges/{exchange}").json()["replies"][0]["finish_reason"] == "stop"


def test_a_caller_who_leaves_a_whole_answer_frees_the_engine(running: Running) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        running.http.post("/v1/chat/completions", json=ask("!slow"), timeout=0.3)
    until(lambda: running.engine.under_way == 0)


def test_a_conversation_without_an_id_is_known_by_how_it_begins(running: Running) -> None:
    first = running.post("/v1/chat/completions", ask("once"))
    messages = [*ask("once")["messages"], {"role": "assistant", "content": "x"}, {"role": "user", "content": "more"}]
    second = running.post("/v1/chat/completions", ask(messages=messages))
    other = running.post("/v1/chat/completions", ask("twice"))
    name = "x-hone-conversation"
    assert first.headers[name] == second.headers[name] != other.headers[name]
    assert running.post("/v1/chat/completions", ask("once", user="ann")).headers[name] != first.headers[name]


def test_somebody_elses_conversation_is_refused_before_anything_is_generated(running: Running) -> None:
    mine = ask(hone={"conversation_id": "my-talk"}, user="ann")
    assert running.post("/v1/chat/completions", mine).headers["x-hone-conversation"] == "my-talk"
    asked = len(running.engine.bodies)
    theirs = running.post("/v1/chat/completions", mine | {"user": "bob"})
    assert (theirs.status_code, theirs.json()["error"]["param"]) == (409, "hone.conversation_id")
    assert theirs.headers["x-should-retry"] == "false"
    assert len(running.engine.bodies) == asked


def test_pages_of_a_site_that_is_named_with_a_slash_may_call_the_api(tmp_path: Path) -> None:
    server = {"pages": False, "allowed_origins": ["https://chat.example/"]}
    settings = load_settings(tmp_path, {"server": server}, environment={})
    store = Store.open(settings.store_url)
    with serve(create_app(settings, store, ["http://127.0.0.1:9"])) as url, httpx2.Client(base_url=url) as http:
        origin = {"origin": "https://chat.example"}
        preflight = http.options("/v1/models", headers=origin | {"access-control-request-method": "GET"})
        for answer in (preflight, http.get("/v1/models", headers=origin)):
            allowed = answer.headers.get("access-control-allow-origin")
            assert (answer.status_code, allowed) == (200, "https://chat.example")
    store.close()
