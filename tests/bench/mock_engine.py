"""An engine that answers at once: what a gateway adds is all that is left to measure.

`python -m tests.bench.mock_engine --port N`, in a process of its own, speaks the part of vLLM's API that the service
uses, over asyncio and httptools alone. Every reply is of `--tokens` tokens; a stream's come as fast as the connection
takes them, or one every `--gap-ms`, by the clock and for all streams at once, as from an engine that computes
elsewhere: it waits for nobody here. Token ids and log-probabilities are told to those who ask for them, as vLLM does.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Sequence
from typing import Any, cast

import httptools
import orjson
import uvloop

MODEL = "mock"
WORD = " word"
CREATED = 1_700_000_000
PROMPT_TOKENS = list(range(100, 132))
MODELS = {
    "object": "list",
    "data": [
        {"id": MODEL, "object": "model", "created": CREATED, "root": MODEL, "parent": None, "max_model_len": 32_768}
    ],
}


def logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.6931471805599453, "bytes": list(token.encode()), "top_logprobs": []}


class Replies:
    """The bytes of every answer, made once; `detailed`: with token ids and log-probabilities."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.models = _answer(MODELS)
        self.whole = {detailed: _answer(self._whole(detailed)) for detailed in (False, True)}
        self.events = {
            (detailed, usage): self._events(detailed, usage) for detailed in (False, True) for usage in (False, True)
        }

    @property
    def usage(self) -> dict[str, int]:
        prompt = len(PROMPT_TOKENS)
        return {"prompt_tokens": prompt, "completion_tokens": self.tokens, "total_tokens": prompt + self.tokens}

    def _whole(self, detailed: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": WORD * self.tokens},
            "logprobs": {"content": [logprob(WORD) for _ in range(self.tokens)]} if detailed else None,
            "finish_reason": "length",
        }
        answer = _named("chat.completion") | {"choices": [choice], "usage": self.usage}
        if detailed:
            choice["token_ids"] = list(range(200, 200 + self.tokens))
            answer["prompt_token_ids"] = PROMPT_TOKENS
        return answer

    def _events(self, detailed: bool, usage: bool) -> list[bytes]:
        """Each as a chunk of HTTP's."""
        told = [self._chunk({"role": "assistant", "content": ""}, None)]
        if detailed:
            told[0]["prompt_token_ids"] = PROMPT_TOKENS
        for number in range(self.tokens):
            finish = "length" if number == self.tokens - 1 else None
            told.append(self._chunk({"content": WORD}, finish))
            if detailed:
                told[-1]["choices"][0] |= {"logprobs": {"content": [logprob(WORD)]}, "token_ids": [200 + number]}
        if usage:
            told.append(_named("chat.completion.chunk") | {"choices": [], "usage": self.usage})
        payloads = [*(orjson.dumps(one) for one in told), b"[DONE]"]
        return [_http_chunk(b"data: " + payload + b"\n\n") for payload in payloads] + [b"0\r\n\r\n"]

    def _chunk(self, delta: dict[str, str], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _named("chat.completion.chunk") | {"choices": [choice]}


class Connection(asyncio.Protocol):
    """One caller's. A reply goes out as soon as its request is complete."""

    def __init__(self, replies: Replies, gap_seconds: float) -> None:
        self._replies, self._gap = replies, gap_seconds
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._body = b"", b""
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, error: Exception | None) -> None:
        if self._streaming is not None:
            self._streaming.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url == b"/v1/chat/completions":
            self._chat(orjson.loads(self._body))
        elif self._url == b"/v1/models":
            self._transport.write(self._replies.models)
        else:
            status = b"200 OK" if self._url == b"/health" else b"404 Not Found"
            self._transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")

    def _chat(self, body: dict[str, Any]) -> None:
        detailed = bool(body.get("logprobs"))
        if not body.get("stream"):
            self._transport.write(self._replies.whole[detailed])
            return
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        events = self._replies.events[detailed, usage]
        if self._gap:
            self._streaming = asyncio.get_running_loop().create_task(self._stream(events, self._replies.tokens))
        else:
            self._transport.write(STREAM_HEAD + b"".join(events))

    async def _stream(self, events: Sequence[bytes], tokens: int) -> None:
        """Who speaks, then a token a step; what follows the last comes with it."""
        clock = asyncio.get_running_loop().time
        self._transport.write(STREAM_HEAD + events[0])
        step = clock() // self._gap
        for number, event in enumerate(events[1 : tokens + 1], 1):
            await asyncio.sleep((step + number) * self._gap - clock())
            self._transport.write(event)
        self._transport.write(b"".join(events[tokens + 1 :]))


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _named(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-0123456789abcdef", "object": kind, "created": CREATED, "model": MODEL}


def _answer(content: Any) -> bytes:
    body = orjson.dumps(content)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def _http_chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


async def serve(port: int, tokens: int, gap_seconds: float) -> None:
    replies = Replies(tokens)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        server = await loop.create_server(lambda: Connection(replies, gap_seconds), sock=listener)
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--gap-ms", type=float, default=0.0)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.tokens, arguments.gap_ms / 1000))


if __name__ == "__main__":
    main()
