"""The constitution on the operator's page: what is in effect, and its text to edit, check, try and put in effect.

What an operator types lives in the page alone; the desk holds what the service answered. As everywhere, the service
decides.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from ui.board import Board
from ui.client import Credentials, ServiceClient, ServiceError
from ui.desk import Desk, View
from ui.theme import script

EVERY = 10.0  # seconds between two looks: constitutions change seldom
AGAIN = 60.0  # seconds until the same one is read again: a service that started anew may be unable to use it
PATH = "/v1/constitution"
BUILT_IN = "c0"  # in effect until another one is put there


def build_desk(service: ServiceClient, board: gr.State) -> None:
    """Adds it to the page that is being built; `board` holds the desk."""
    page = ConstitutionDesk(service)
    part = gr.HTML(
        {},
        html_template="<div class='hone-board hone-desk'></div>",
        js_on_load=script("dialog.js", "constitution.js"),
        apply_default_css=False,
        elem_id="board-constitution",
    )
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    for name in ("check_text", "try_text", "put_text", "open_version", "look_anew"):
        getattr(part, name)(getattr(page, name), board, part, trigger_mode="multiple", **quiet)
    gr.on([gr.Timer(EVERY).tick, gr.context.Context.root_block.load], page.look, board, part, **quiet)


class ConstitutionDesk:
    """The handlers. Each takes the state, the event (what the browser says: checked, never trusted) and the request."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    async def look(self, board: Board, request: gr.Request) -> View:
        await self._read(board.desk, Credentials.of(request.headers))
        return board.desk.view()

    async def look_anew(self, board: Board, request: gr.Request) -> View:
        """When it is opened: what is in effect is read even where its name is known."""
        await self._read(board.desk, Credentials.of(request.headers), anew=True)
        return board.desk.view()

    async def check_text(self, board: Board, event: gr.EventData, request: gr.Request) -> View:
        desk = board.desk
        body = {"text": _text(event, "text")}
        if found := await self._ask(desk, request, "POST", f"{PATH}/check", body):
            count = len(found["principles"])
            sound = f"It is sound: “{found['title']}”, {count} {'principle' if count == 1 else 'principles'}."
            desk.say(" ".join([sound, *found["warnings"]]))
        return desk.view()

    async def put_text(self, board: Board, event: gr.EventData, request: gr.Request) -> View:
        desk = board.desk
        body = {"text": _text(event, "text"), "note": _text(event, "note").strip()}
        if found := await self._ask(desk, request, "PUT", PATH, body):
            name = found["name"]
            done = f"{name} is in effect." if found["is_new"] else f"{name}, which is in effect, says the same already."
            desk.say(" ".join([done, *found["warnings"]]))
            await self._read(desk, Credentials.of(request.headers))
        return desk.view()

    async def try_text(self, board: Board, event: gr.EventData, request: gr.Request) -> AsyncIterator[View]:
        desk = board.desk
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

    async def open_version(self, board: Board, event: gr.EventData, request: gr.Request) -> View:
        desk = board.desk
        name = _text(event, "name")
        if name.isalnum():
            found = await self._ask(desk, request, "GET", f"{PATH}/versions/{name}")
            desk.opened = {"name": name, "text": found["text"]} if found else {}
        return desk.view()

    async def _read(self, desk: Desk, who: Credentials, anew: bool = False) -> None:
        """What was in effect, and, where that is another one than is known or was read long ago, what is. Who is no
        operator is shown nothing: the board says why."""
        try:
            desk.versions = await self._service.get(who, f"{PATH}/versions")
            desk.hidden = False
            newest = desk.versions[0]["name"] if desk.versions else BUILT_IN
            is_old = time.monotonic() - desk.read_at > AGAIN
            if anew or is_old or desk.current.get("name") != newest:
                desk.current, desk.problem = await self._service.get(who, PATH), ""
                desk.read_at = time.monotonic()
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
