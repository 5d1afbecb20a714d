"""What a request for a chat may say: what is understood, and what is refused by name."""

import json
from typing import Any

import pytest

from tests.service.chatting import ask
from tests.service.conftest import Running


def test_what_other_clients_send_is_understood(running: Running) -> None:
    parts = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "you"}]
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts, "name": "ann"}]
    fields = {"max_completion_tokens": 7, "tools": [], "store": False, "metadata": {"a": "b"}, "stop": "END"}
    unknown = {"parallel_tool_calls": True, "response_format": {"type": "text"}, "presence_penalty": 0}
    response = running.post("/v1/chat/completions", {"model": "hone", "messages": messages, **fields, **unknown})
    assert response.status_code == 200
    sent = running.engine.bodies[-1]
    assert sent["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello you"}]
    assert sent["max_tokens"] == 7 and sent["stop"] == ["END"]
    assert sent["logprobs"] is True and sent["return_token_ids"] is True


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages[0].content"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"best_of": 0}, "best_of"),
        ({"best_of": 9}, "best_of"),
        ({"best_of": True}, "best_of"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2}, "best_of"),  # of the base model, which has no judge
        ({"temperature": 3}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_completion_tokens": 2**31}, "max_completion_tokens"),
        ({"top_k": 2**64 - 1}, "top_k"),
        ({"top_k": -2}, "top_k"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ""}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"hone": {"conversation": "x"}}, "hone.conversation"),
        ({"hone": {"conversation_id": ""}}, "hone.conversation_id"),
        ({"hone": {"conversation_id": "☃"}}, "hone.conversation_id"),
        ({"hone": {"conversation_id": "a\r\nset-cookie: b"}}, "hone.conversation_id"),
        ({"user": "x" * 200}, "user"),
    ],
)
def test_a_bad_field_is_a_400_that_names_it(running: Running, change: dict[str, Any], param: str) -> None:
    response = running.http.post(
        "/v1/chat/completions", content=json.dumps(ask() | change), headers={"content-type": "application/json"}
    )
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert param in error["message"]


TRUTHS = ("stream", "logprobs", "return_token_ids")
WHOLES = ("n", "best_of", "top_k", "seed", "max_tokens", "max_completion_tokens", "top_logprobs")
FRACTIONS = ("temperature", "top_p", "min_p")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        *((name, value, "must be true or false") for name in TRUTHS for value in ("yes", "true", 1, 0.0)),
        *((name, value, "must be a whole number") for name in WHOLES for value in ("1", True, 1.5)),
        *((name, value, "must be a number") for name in FRACTIONS for value in ("1", "0.5", True)),
        *((f"{kind}_penalty", False, "must be a number") for kind in ("presence", "frequency")),
        ("user", 5, "must be text"),
        ("stop", [5], "must be text"),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_guessed_at(
    running: Running, field: str, value: object, words: str
) -> None:
    asked = len(running.engine.bodies)
    response = running.post("/v1/chat/completions", ask(logprobs=True) | {field: value})
    error = response.json()["error"]
    assert (response.status_code, error["param"].partition("[")[0]) == (400, field)
    assert words in error["message"] and error["message"].startswith(field) and len(running.engine.bodies) == asked


def test_a_streams_options_are_of_their_type_too(running: Running) -> None:
    body = ask(stream=True, stream_options={"include_usage": "yes"})
    error = running.post("/v1/chat/completions", body).json()["error"]
    assert error["message"] == 'stream_options.include_usage: must be true or false, not "yes".'
    assert error["param"] == "stream_options.include_usage"


@pytest.mark.parametrize("fields", [{"n": 1.0, "temperature": 1, "presence_penalty": 0.0}, {"n": None, "stream": None}])
def test_a_whole_number_may_be_written_either_way_and_null_asks_for_nothing(
    running: Running, fields: dict[str, Any]
) -> None:
    assert running.post("/v1/chat/completions", ask(**fields)).status_code == 200


def test_a_text_that_is_too_long_is_counted_in_characters(running: Running) -> None:
    response = running.post("/v1/chat/completions", ask(user="x" * 200))
    assert response.json()["error"]["message"] == "user: must have at most 128 characters."


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"n": 1' + b"0" * 5000 + b"}"]
)
def test_a_body_that_is_no_json_object_is_a_400(running: Running, body: bytes) -> None:
    response = running.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_where_json_breaks_off_is_told(running: Running) -> None:
    headers = {"content-type": "application/json"}
    response = running.http.post("/v1/chat/completions", content=b'{"model": "hone", oops}', headers=headers)
    assert "at character 18." in response.json()["error"]["message"]


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "text/x-json", ""])
def test_a_wrong_content_type_is_named(running: Running, content_type: str) -> None:
    """The first is what curl sends unless it is told otherwise."""
    content = json.dumps(ask()).encode()
    response = running.http.post("/v1/chat/completions", content=content, headers={"content-type": content_type})
    assert response.status_code == 400
    assert "application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize("model", ["gpt-4", "hone:v1", "hone:v0", "hone:v999999999999", "hone:", "hone:live", "HONE"])
def test_an_unknown_model_is_a_404(running: Running, model: str) -> None:
    response = running.post("/v1/chat/completions", ask(model=model))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_an_oversized_body_is_a_413_whether_its_length_is_stated_or_not(running: Running) -> None:
    large = json.dumps(ask("x" * 2_000_000)).encode()
    headers = {"content-type": "application/json"}
    stated = running.http.post("/v1/chat/completions", content=large, headers=headers)

    def pieces() -> Any:
        for start in range(0, len(large), 100_000):
            yield large[start : start + 100_000]

    unstated = running.http.post("/v1/chat/completions", content=pieces(), headers=headers)
    for response in (stated, unstated):
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
