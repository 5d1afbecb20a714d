"""`POST /v1/chat/completions`, as OpenAI's clients send it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.chat.request import ChatRequest
from service.chat.streaming import CallerLeft, EventStreamResponse, until_caller_leaves
from service.parts import caller_of, parts_of
from service.routes.body_route import BodyRoute

router = APIRouter(tags=["chat"], route_class=BodyRoute)


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """A chat completion. `id` names the exchange for feedback; `system_fingerprint` is the adapter that answered."""
    chat, caller = parts_of(request).chat, await caller_of(request)
    turn = await chat.begin(body, caller.under(body.user))
    headers = {"x-hone-conversation": turn.conversation_id}
    try:
        if not body.stream:
            answer = await until_caller_leaves(request.receive, chat.whole(turn))
            return Response(answer, media_type="application/json", headers=headers)
        events = chat.events(turn)
        # Waiting for the first event keeps the status open: what fails until then is an error, not a broken stream.
        first = await until_caller_leaves(request.receive, anext(events))
    except CallerLeft:
        return Response(status_code=499)  # nobody reads it; nginx's number for the log
    return EventStreamResponse(first, events, headers)
