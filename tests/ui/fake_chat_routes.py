"""The fake service answers chats: canned replies, streamed as slowly and as broken as a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from tests.ui.fake_api_objects import OPERATOR, REVISION, STAGES
from tests.ui.fake_service import FakeService, Refused


def add_chat_routes(app: FastAPI, fake: FakeService) -> None:
    @app.post("/v1/sessions")
    async def session() -> dict[str, str]:
        if fake.keys_only:
            raise Refused(401, "This service asks for a key.", "invalid_api_key")
        fake.sessions += 1
        return {"token": f"browser-{fake.sessions}", "caller": f"browser:{fake.sessions}"}

    @app.get("/v1/whoami")
    async def whoami(request: Request) -> dict[str, str]:
        caller = fake.caller(request)
        return {"caller": caller, "role": "operator" if caller == OPERATOR else "user"}

    @app.get("/operator")
    async def exchange_key(key: str = "") -> Response:
        if key != "right":
            raise Refused(401, "That key is not known.", "invalid_api_key")
        response = Response(status_code=303, headers={"Location": "/operator"})
        response.set_cookie("hone_session", OPERATOR, httponly=True, samesite="lax")
        return response

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        caller, body = fake.caller(request), await request.json()
        fake.asked.append({"caller": caller, **body})
        if fake.broken == "engine":
            raise Refused(503, "The engine is away. It is being restarted.", "engine_unavailable")
        if (tokens := _tokens(body["messages"])) >= fake.context:
            raise Refused(
                400, f"The prompt has {tokens} tokens; the context holds {fake.context}.", "context_length_exceeded"
            )
        exchange_id = f"chatcmpl-{len(fake.asked)}"
        conversation = body["hone"]["conversation_id"]  # the pages always send one
        stream = _stream(fake, caller, exchange_id, conversation, body)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Hone-Conversation": conversation})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        context = fake.context if fake.tells_context else None
        return {"data": [{"id": "hone", "max_model_len": context, "constitutional": fake.policy}]}

    @app.get("/v1/exchanges/{exchange_id}")
    async def exchange(request: Request, exchange_id: str) -> dict[str, Any]:
        while fake.holds_exchanges:  # noqa: ASYNC110  # the test that lets go lives in another thread
            await asyncio.sleep(0.01)
        return fake.own(request, fake.exchanges, exchange_id)


def _tokens(messages: list[dict[str, str]]) -> int:
    """As if two characters were a token."""
    return sum(len(message["content"]) for message in messages) // 2


async def _stream(
    fake: FakeService, caller: str, exchange_id: str, conversation: str, body: dict[str, Any]
) -> AsyncIterator[str]:
    def event(index: int, delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        answer = {"id": exchange_id, "system_fingerprint": fake.serving["live"], "choices": [choice]}
        return f"data: {json.dumps(answer)}\n\n"

    owners, exchanges = fake.owners, fake.exchanges  # a test that comes later has others

    def store(said: list[str], finish: str | None) -> None:
        owners[exchange_id] = caller
        exchanges[exchange_id] = {
            "id": exchange_id,
            "conversation_id": conversation,
            "adapter": fake.serving["live"],
            "messages": body["messages"],
            "replies": [{"index": i, "text": text, "finish_reason": finish} for i, text in enumerate(said)],
            "revisions": [REVISION | {"after": said[0]}] if body["hone"].get("constitutional") else [],
        }

    told = STAGES if body["hone"].get("constitutional") else ()
    for place, stage in enumerate(told, start=1):
        is_last = all(later["stage"] != stage["stage"] for later in told[place:])
        answer = {"id": exchange_id, "system_fingerprint": fake.serving["live"], "hone": stage}
        yield f"data: {json.dumps(answer | {'choices': [{'index': 0, 'delta': {}, 'finish_reason': None}]})}\n\n"
        while is_last and fake.hold_stage == stage["stage"]:  # noqa: ASYNC110  # the test that lets go lives in another thread
            await asyncio.sleep(0.01)
    count, sent = body.get("n", 1), 0
    texts = [fake.replies[(len(fake.asked) - 1 + i) % len(fake.replies)] for i in range(count)]
    try:
        for index in range(count):
            yield event(index, {"role": "assistant", "content": ""})
        for at in range(max(map(len, texts))):
            if fake.broken == "midway" and at == 3:
                yield 'data: {"error": {"message": "The engine stopped in mid-reply.", "code": "engine_error"}}\n\n'
                return
            if fake.broken == "truncated" and at == 3:
                return
            while fake.hold_at == at:  # noqa: ASYNC110  # the test that lets go lives in another thread
                await asyncio.sleep(0.01)
            for index, text in enumerate(texts):
                if at < len(text):
                    yield event(index, {"content": text[at]})
            sent = at + 1
            await asyncio.sleep(fake.pace)
        for index in range(count):
            yield event(index, {}, "stop")
        store(texts, "stop")
        usage = {"prompt_tokens": _tokens(body["messages"])}
        ending = {"id": exchange_id, "system_fingerprint": fake.serving["live"], "choices": [], "usage": usage}
        yield f": kept alive\n\ndata: {json.dumps(ending)}\n\ndata: [DONE]\n\n"
    except asyncio.CancelledError:
        fake.closed_streams += 1
        if sent and fake.commit is not None:
            asyncio.get_running_loop().call_later(fake.commit, store, [text[:sent] for text in texts], None)
        raise
