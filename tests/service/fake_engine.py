"""An engine that speaks the contract without a model: it says the words it was given, one token each.

Each reply is `WORDS`, in an order that the seed decides; token id = position in `WORDS`, the last token is EOS. What a
test wants to go wrong it says with the last message: `!refuse`, `!long`, `!slow`, `!patient` (an answer that comes
when `patience` is set), and in the middle of a stream
`!break`, `!error`, `!garbage`, `!shape`, `!abort`. What one engine of several does otherwise stands in its attributes.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

WORDS = ("Hello", " there", ",", " friend", "!")
EOS = 2
LOGPROB = -0.5
BASE = "fake"
CONTEXT = 2048


class FakeEngine:
    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.bodies: list[dict[str, Any]] = []  # of chats
        self.completions: list[dict[str, Any]] = []  # their bodies
        self.under_way = 0
        self.fails: int | None = None  # a status, in place of every reply
        self.dies_first = False  # streams break off after the head, before any token
        self.is_silent = False  # nothing comes in place of a reply
        self.is_stopping = False  # every reply is aborted before its first token, as vLLM does while it drains
        self.is_well = True
        self.dies_over_it = False  # it isn't well any more once it was asked for a reply
        self.patience = threading.Event()
        self.says: tuple[str, ...] = ()  # in place of `WORDS`, by the choices of a whole answer
        self.token_seconds = 0.0  # between two tokens of a stream
        self.logprob = LOGPROB / 2  # of every token under an adapter
        self.tells_logprobs = True  # of what a text completion samples
        self.app = FastAPI()
        self.app.get("/health")(self.health)
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/load_lora_adapter")(self.load)
        self.app.post("/v1/unload_lora_adapter")(self.unload)
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.post("/v1/completions")(self.complete)

    async def health(self) -> Response:
        return PlainTextResponse("", 200 if self.is_well else 503)

    async def models(self) -> dict[str, Any]:
        base = {"id": BASE, "object": "model", "root": "/models/fake", "parent": None, "max_model_len": CONTEXT}
        rest = [{"id": name, "object": "model", "root": path, "parent": BASE} for name, path in self.adapters.items()]
        return {"object": "list", "data": [base, *rest]}

    async def load(self, request: Request) -> Response:
        body = await request.json()
        if body["lora_name"] in self.adapters:
            return _error(400, f"{body['lora_name']} is loaded already")
        self.adapters[body["lora_name"]] = body["lora_path"]
        return PlainTextResponse("Success")

    async def unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, f"{name} is not loaded")
        return PlainTextResponse("Success")

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.completions.append(body)
        if refusal := self._unknown(body):
            return refusal
        logprob = LOGPROB if body["model"] == BASE else self.logprob
        entry = {"logprob": logprob, "rank": 1, "decoded_token": "x"}
        scored: list[Any] = [None, *({str(token): entry} for token in body["prompt"][1:])]
        choice = {"index": 0, "text": "!", "finish_reason": "length", "prompt_logprobs": scored}
        if self.tells_logprobs:
            choice |= {"token_ids": [EOS], "logprobs": {"token_logprobs": [logprob]}}
        return JSONResponse({"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice]})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.is_well = self.is_well and not self.dies_over_it
        if self.fails is not None:
            return _error(self.fails, "the engine is out of order")
        if self.is_silent:
            await self._wait(request)
        if refusal := self._unknown(body):
            return refusal
        said = body["messages"][-1]["content"]
        if said == "!refuse":
            return _error(400, "the engine does not like this")
        if said == "!long" and body.get("max_tokens", 0) > 8:
            return _error(400, f"This model's maximum context length is {CONTEXT} tokens.")
        if body.get("stream"):
            return StreamingResponse(self._stream(body, said), media_type="text/event-stream")
        if said in ("!slow", "!patient"):
            await self._wait(request, until=self.patience if said == "!patient" else None)
        whole = _whole(body, "abort" if said == "!abort" or self.is_stopping else "stop")
        for choice, text in zip(whole["choices"], self.says, strict=False):
            choice["message"]["content"] = text
        return JSONResponse(whole)

    async def _wait(self, request: Request | None = None, until: threading.Event | None = None) -> None:
        """Until the caller leaves: a stream is cancelled then, a whole answer has to look."""
        self.under_way += 1
        try:
            while request is None or not await request.is_disconnected():  # there is no event
                if until is not None and until.is_set():
                    return
                await asyncio.sleep(0.01)
        finally:
            self.under_way -= 1

    async def _stream(self, body: dict[str, Any], said: str) -> AsyncIterator[str]:
        if self.dies_first:
            raise RuntimeError("the fake engine dies here")
        for index in range(body.get("n", 1)):
            role = _chunk(body, index, {"role": "assistant", "content": ""}, [])
            yield _event(role | ({"prompt_token_ids": [1, 7, 7]} if index == 0 else {}))
        for index in range(body.get("n", 1)):
            if self.is_stopping:
                yield _event(_chunk(body, index, {}, [], "abort"))
                continue
            for token, word in enumerate(WORDS):
                await asyncio.sleep(self.token_seconds)
                yield _event(_chunk(body, index, {"content": word}, [token + 10]))
                if token == 1 and said == "!break":
                    raise RuntimeError("the fake engine breaks here")
                if token == 1 and said == "!error":
                    yield _event({"error": {"message": "out of luck", "type": "server_error"}})
                    return
                if token == 1 and said == "!abort":
                    yield _event(_chunk(body, index, {}, [], "abort"))
                    break
                if token == 1 and said == "!garbage":
                    yield "data: <html>\n\n"
                if token == 1 and said == "!shape":
                    yield _event({"choices": [{}]})
                if token == 1 and said == "!slow":
                    await self._wait()
            else:
                yield _event(_chunk(body, index, {}, [EOS], "stop"))
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event(_chunk(body, 0, {}, []) | {"choices": [], "usage": _usage(body)})
        yield "data: [DONE]\n\n"

    def _unknown(self, body: dict[str, Any]) -> Response | None:
        known = body["model"] == BASE or body["model"] in self.adapters
        return None if known else _error(404, f"The model `{body['model']}` does not exist.")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status)


def _event(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event)}\n\n"


def _entry(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": LOGPROB, "bytes": list(token.encode()), "top_logprobs": []}


def _chunk(
    body: dict[str, Any], index: int, delta: dict[str, Any], token_ids: list[int], finish: str | None = None
) -> dict[str, Any]:
    choice = {
        "index": index,
        "delta": delta,
        "logprobs": {"content": [_entry(delta.get("content", "")) for _ in token_ids]} if token_ids else None,
        "finish_reason": finish,
        "stop_reason": None,
        "token_ids": token_ids,
    }
    return {
        "id": "chatcmpl-engine",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": body["model"],
        "choices": [choice],
    }


def _whole(body: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": "".join(WORDS)},
            "logprobs": {"content": [_entry(word) for word in (*WORDS, "")]},
            "finish_reason": finish,
            "stop_reason": None,
            "token_ids": [*range(10, 10 + len(WORDS)), EOS],
        }
        for index in range(body.get("n", 1))
    ]
    return {
        "id": "chatcmpl-engine",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": choices,
        "usage": _usage(body),
        "prompt_token_ids": [1, 7, 7],
        "prompt_logprobs": None,
    }


def _usage(body: dict[str, Any]) -> dict[str, int]:
    tokens = (len(WORDS) + 1) * int(body.get("n", 1))
    return {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}
