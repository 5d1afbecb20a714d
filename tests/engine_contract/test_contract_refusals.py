"""Requests that can't be answered get OpenAI's error body, and the status that the service reads."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine_contract.asking import CHAT, QUESTION, TEXT, chat, complete
from tests.fixtures.engines import CONTEXT, ServedEngine

LONG = [{"role": "user", "content": "hello " * (CONTEXT + 100)}]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        (CHAT, {"model": "nobody", "messages": QUESTION}, 404, "nobody"),
        (TEXT, complete(model="nobody"), 404, "nobody"),
        (CHAT, chat(messages=[]), 400, ""),
        (CHAT, chat(temperature=-1), 400, "temperature"),
        (CHAT, chat(temperature=3), 400, "temperature"),
        (CHAT, chat(top_p=0), 400, "top_p"),
        (CHAT, chat(n=0), 400, "n"),
        (CHAT, chat(stream_options={"include_usage": True}), 400, "stream"),
        (CHAT, chat(messages=LONG), 400, "context"),
        (CHAT, {**chat(messages=LONG), "stream": True}, 400, "context"),
        (CHAT, chat(max_tokens=CONTEXT + 1), 400, ""),
        (TEXT, complete(prompt=[5] * (CONTEXT + 1)), 400, "context"),
        (TEXT, complete(prompt=[5] * CONTEXT), 400, ""),
        (TEXT, complete(prompt=[100_000]), 400, "vocabulary"),
        (TEXT, complete(prompt=""), 400, "prompt"),
        (TEXT, complete(prompt=[]), 400, "prompt"),
        (TEXT, complete(max_tokens=0), 400, "max_tokens"),
        (TEXT, complete(logprobs=30), 400, "logprobs"),
        (TEXT, "not an object", 400, ""),
    ],
)
def test_bad_requests_get_an_openai_error(engine: ServedEngine, path: str, body: Any, status: int, says: str) -> None:
    answer = engine.post(path, body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert says in error["message"]
