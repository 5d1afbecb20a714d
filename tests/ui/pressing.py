"""What people do on the pages, handed to the pages' handlers as Gradio hands it: state, event, request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import gradio as gr
from starlette.requests import Request

from tests.ui.calling import using
from tests.ui.fake_service import FakeService
from ui.chat import ChatPage
from ui.conversation import Conversation

T = TypeVar("T")


def request(session: str | None = "anna") -> gr.Request:
    headers = [(b"cookie", f"hone_session={session}".encode())] if session else []
    return gr.Request(Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}))


def event(**data: Any) -> gr.EventData:
    return gr.EventData(None, data)


def on_chat(api_url: str, act: Callable[[ChatPage], Awaitable[T]]) -> T:
    return using(api_url, lambda client: act(ChatPage(client)))


def say(api_url: str, talk: Conversation, text: str, session: str | None = "anna", **data: Any) -> dict[str, Any]:
    async def act(page: ChatPage) -> dict[str, Any]:
        views = [view async for view in page.send(talk, event(text=text, **data), request(session))]
        return views[-1]

    return on_chat(api_url, act)


def again(api_url: str, talk: Conversation, stop: bool = False) -> dict[str, Any]:
    """Another try; with `stop`, one that is stopped before anything came of it."""

    async def act(page: ChatPage) -> dict[str, Any]:
        views = []
        async for view in page.retry(talk, event(), request()):
            views.append(view)
            if stop and talk.stop is not None:
                talk.stop.set()
        return views[-1]

    return on_chat(api_url, act)


def correct(api_url: str, talk: Conversation, turn: int, text: str) -> dict[str, Any]:
    told = event(reply=talk.turns[turn].replies[0].key, text=text)
    return on_chat(api_url, lambda page: page.correct(talk, told, request()))


def pick(api_url: str, talk: Conversation, verdict: str) -> dict[str, Any]:
    told = event(turn=talk.turns[-1].key, verdict=verdict)
    return on_chat(api_url, lambda page: page.pick(talk, told, request()))


def conversations(fake: FakeService) -> list[str]:
    """The conversation of each chat that was asked, in order."""
    return [asked["hone"]["conversation_id"] for asked in fake.asked]


def restored(api_url: str, trail: Any, session: str = "anna") -> Conversation:
    talk = Conversation()
    on_chat(api_url, lambda page: page.restore(talk, event(trail=trail), request(session)))
    return talk


def give(fake: FakeService, numbers: range, **feedback: Any) -> None:
    """As if anna had said that so many times, elsewhere."""
    for number in numbers:
        fake.feedback[f"fb-{number}"] = {
            "id": f"fb-{number}",
            "created_at": "2026-11-01T00:00:00Z",
            "withdrawn": False,
            "learned_in": [],
            "feedback": {"index": 0, **feedback},
        }
        fake.owners[f"fb-{number}"] = "anna"
