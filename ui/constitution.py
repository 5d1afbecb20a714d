"""The constitution on the operator's page: what is in effect, and its text to edit, check, try and put in effect.

What an operator types lives in the page alone; the desk holds what the service answered. As everywhere, the service
decides.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ui.client import Credentials, ServiceClient, ServiceError
from ui.theme import script

EVERY = 10.0  # seconds between two looks: constitutions change seldom
PATH = "/v1/constitution"

View = dict[str, Any]


@dataclass
class Desk:
    """One browser's view. `said` is the answer to what was done last, `opened` a version whose text is to be edited.

    `version` counts views, from the time on, as `ui.board.Board` does.
    """

    hidden: bool = True
    problem: str = ""  # why what is in effect can't be used
    current: dict[str, Any] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)
    opened: dict[str, str] = field(default_factory=dict)
    trial: dict[str, Any] | None = None
    trying: bool = False
    said: str = ""
    tone: str = "good"
    version: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    drawn: View = field(default_factory=dict)

    def say(self, said: str, tone: str = "good") -> None:
        self.said, self.tone = said, tone

    def view(self) -> View:
        """What the page draws; the same again where nothing changed."""
        shown = {
            "hidden": self.hidden,
            "problem": self.problem,
            "current": self.current,
            "versions": self.versions,
            "opened": self.opened,
            "trial": self.trial,
            "trying": self.trying,
            "said": self.said,
            "tone": self.tone,
        }
        if shown != {name: self.drawn.get(name) for name in shown}:
            self.version += 1
        self.drawn = {**shown, "version": self.version}
        return self.drawn


def build_desk(service: ServiceClient) -> None:
    """Adds it to the page that is being built."""
    page = ConstitutionDesk(service)
    desk = gr.State(Desk())
    part = gr.HTML(
        {},
        html_template="<div class='hone-board hone-desk'></div>",
        js_on_load=script("constitution.js"),
        apply_default_css=False,
        elem_id="board-constitution",
    )
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    for name in ("check_text", "try_text", "put_text", "open_version"):
        getattr(part, name)(getattr(page, name), desk, part, trigger_mode="multiple", **quiet)
    gr.on([gr.Timer(EVERY).tick, gr.context.Context.root_block.load], page.look, desk, part, **quiet)


class ConstitutionDesk:
    """The handlers. Each takes the state, the event (what the browser says: checked, never trusted) and the request."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    async def look(self, desk: Desk, request: gr.Request) -> View:
        await self._read(desk, Credentials.of(request.headers))
        return desk.view()

    async def check_text(self, desk: Desk, event: gr.EventData, request: gr.Request) -> View:
        body = {"text": _text(event, "text")}
        if found := await self._ask(desk, request, "POST", f"{PATH}/check", body):
            count = len(found["principles"])
            sound = f"It is sound: “{found['title']}”, {count} {'principle' if count == 1 else 'principles'}."
            desk.say(" ".join([sound, *found["warnings"]]))
        return desk.view()

    async def put_text(self, desk: Desk, event: gr.EventData, request: gr.Request) -> View:
        body = {"text": _text(event, "text"), "note": _text(event, "note").strip()}
        if found := await self._ask(desk, request, "PUT", PATH, body):
            name = found["name"]
            done = f"{name} is in effect." if found["is_new"] else f"{name}, which is in effect, says the same already."
            desk.say(" ".join([done, *found["warnings"]]))
            await self._read(desk, Credentials.of(request.headers))
        return desk.view()

    async def try_text(self, desk: Desk, event: gr.EventData, request: gr.Request) -> AsyncIterator[View]:
        prompt = _text(event, "prompt").strip()
        if not prompt:
            desk.say("Write a prompt to try it on.", "error")
            yield desk.view()
            return
        if desk.trying:
            yield desk.view()
            return
        body: dict[str, Any] = {"prompt": prompt, "constitution": _text(event, "text")}
        body["principle"] = _text(event, "principle") or None
        desk.trying, desk.trial = True, None
        yield desk.view()
        try:
            desk.trial = await self._ask(desk, request, "POST", f"{PATH}/try", body)
        finally:
            desk.trying = False
        yield desk.view()

    async def open_version(self, desk: Desk, event: gr.EventData, request: gr.Request) -> View:
        name = _text(event, "name")
        if name.isalnum():
            found = await self._ask(desk, request, "GET", f"{PATH}/versions/{name}")
            desk.opened = {"name": name, "text": found["text"]} if found else {}
        return desk.view()

    async def _read(self, desk: Desk, who: Credentials) -> None:
        """What is in effect, and what was. Who is no operator is shown nothing: the board says why."""
        try:
            desk.versions = await self._service.get(who, f"{PATH}/versions")
            desk.hidden = False
            desk.current, desk.problem = await self._service.get(who, PATH), ""
        except ServiceError as error:
            if error.code == "constitution_unusable":
                desk.current, desk.problem = {}, error.message
            else:
                desk.hidden = desk.hidden or error.status in (401, 403)

    async def _ask(
        self, desk: Desk, request: gr.Request, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Any:
        """The service's answer; None where it refuses, and says why."""
        desk.say("")
        try:
            return await self._service.act(Credentials.of(request.headers), method, path, body)
        except ServiceError as error:
            desk.say(error.message, "error")
            return None


def _text(event: gr.EventData, name: str) -> str:
    value = event._data.get(name)
    return value if isinstance(value, str) else ""
