"""A judge over HTTP whose answers a test makes up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2

from learner.constitution.endpoint import EndpointJudge
from service.constitution import built_in
from service.constitution.prompts import verdict_messages

OURS = built_in()
REQUEST = verdict_messages(OURS, OURS.principles[0], [{"role": "user", "content": "hi"}], "one", "two")


def judge(answer: Callable[[httpx2.Request], httpx2.Response], retries: int = 2, **more: Any) -> EndpointJudge:
    transport = httpx2.MockTransport(answer)
    return EndpointJudge(
        "http://judge.test/v1/", "judge-7b", OURS, retries=retries, transport=transport, first_pause=0.0, **more
    )


def completion(text: str, logprobs: object = None) -> httpx2.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": logprobs}
    return httpx2.Response(200, json={"choices": [choice]})
