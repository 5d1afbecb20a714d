"""A service in memory, as the people of a simulation use it."""

from __future__ import annotations

import json
from typing import Any

import httpx2


class Service:
    """Answers chats with two replies of different length, and remembers the feedback."""

    def __init__(self, stream: bytes = b"data: {}\n\ndata: [DONE]\n\n", refuse: bool = False) -> None:
        self.feedback: list[dict[str, Any]] = []
        self.stream, self.refuse = stream, refuse

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else {}
        if self.refuse:
            return httpx2.Response(503, json={"error": {"message": "no engine"}})
        if request.url.path == "/v1/feedback":
            self.feedback.append(body)
            return httpx2.Response(201, json={"id": "fb"})
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json={"data": [{"id": "hone", "constitutional": "asked"}]})
        if body.get("stream"):
            return httpx2.Response(200, content=self.stream)
        texts = ["It is short.", "It is somewhat longer than that."][: body.get("n", 1)]
        choices = [{"index": i, "message": {"content": text}, "logprobs": None} for i, text in enumerate(texts)]
        return httpx2.Response(200, json={"id": "chatcmpl-1", "system_fingerprint": "base", "choices": choices})
