"""The operator's page: what is live and why, the runs as they progress, the adapters, and the levers; the constitution.

Every lever is a call to the service with the credentials of the request that pulled it; the service decides. The page
looks again every `EVERY` seconds and redraws what changed.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.board import Board, Picture, adapters_view, curves_view, runs_view, take_picture, top_view
from ui.client import Credentials, ServiceClient, ServiceError
from ui.constitution import build_desk
from ui.methods import offered
from ui.theme import script

EVERY = 1.5  # seconds
NOT_HERE = "Operators only. Open the operator link that was printed when Hone first started."

LEVERS = ("learn", "cancel_run", "promote", "canary", "end_canary", "rollback", "reject")
CHOICES = ("choose_run", "open_adapter", "look_again")
PIECES = {"adapters": ("by_constitution.js",)}
"""The scripts that a part needs beside its own."""

Drawn = tuple[Any, Any, Any, Any]  # the parts: top, runs, curves, adapters


def build(service: ServiceClient) -> gr.Blocks:
    page = OperatorPage(service)
    with gr.Blocks(title="Hone · operator", analytics_enabled=False, fill_width=True) as blocks:
        board = gr.State(Board())
        top = _part("top")
        with gr.Row(elem_classes="hone-split"):
            with gr.Column(scale=3, min_width=340):
                runs = _part("runs", methods=offered())
                charts = _part("curves")
            with gr.Column(scale=2, min_width=320):
                adapters = _part("adapters")
        build_desk(service, board)
        parts = [top, runs, charts, adapters]
        quiet: dict[str, Any] = {
            "outputs": parts,
            "show_progress": "hidden",
            "api_visibility": "private",
            "concurrency_limit": None,
        }
        for name in LEVERS + CHOICES:
            for source in parts:
                getattr(source, name)(getattr(page, name), board, trigger_mode="multiple", **quiet)
        gr.Timer(EVERY).tick(page.look, board, trigger_mode="once", **quiet)
        blocks.load(page.look, board, **quiet)
    return blocks


def _part(name: str, **props: Any) -> gr.HTML:
    return gr.HTML(
        {},
        html_template="<div class='hone-board'></div>",
        js_on_load=script(*PIECES.get(name, ()), f"{name}.js", "dialog.js", "board.js"),
        apply_default_css=False,
        elem_id=f"board-{name}",
        **props,
    )


class OperatorPage:
    """The handlers. Each takes the state, the event (what the browser says: checked, never trusted) and the request."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    async def look(self, board: Board, request: gr.Request) -> Drawn:
        who = Credentials.of(request.headers)
        board.asked += 1
        number = board.asked
        picture = await take_picture(self._service, who, board) if who else Picture(refused=NOT_HERE)
        if board.overtaken(number):
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        board.version += 1
        views = {
            "top": top_view(board, picture),
            "runs": runs_view(board, picture),
            "curves": curves_view(picture),
            "adapters": adapters_view(board, picture),
        }
        top, runs, charts, adapters = (
            {**view, "version": board.version} if board.changed(part, view) else gr.skip()
            for part, view in views.items()
        )
        return top, runs, charts, adapters

    # -- choosing what is shown -------------------------------------------------------------------------------------

    async def choose_run(self, board: Board, event: gr.EventData, request: gr.Request) -> Drawn:
        board.chosen_run = str(event._data.get("run"))
        return await self.look(board, request)

    async def open_adapter(self, board: Board, event: gr.EventData, request: gr.Request) -> Drawn:
        name = str(event._data.get("adapter"))
        board.opened ^= {name}
        return await self.look(board, request)

    async def look_again(self, board: Board, request: gr.Request) -> Drawn:
        board.drawn.clear()
        return await self.look(board, request)

    # -- levers -----------------------------------------------------------------------------------------------------

    async def learn(self, board: Board, event: gr.EventData, request: gr.Request) -> Drawn:
        body: dict[str, Any] = {}
        if method := event._data.get("method"):
            body["method"] = str(method)
        if isinstance(promote := event._data.get("promote"), bool):
            body["promote"] = promote
        board.chosen_run = None
        return await self._pull(board, request, "The learner was asked to start.", "POST", "/v1/runs", body)

    async def cancel_run(self, board: Board, event: gr.EventData, request: gr.Request) -> Drawn:
        path = f"/v1/runs/{_name(event, 'run')}/cancel"
        return await self._pull(board, request, "The run will be cancelled.", "POST", path)

    async def promote(self, board: Board, event: gr.EventData, request: gr.Request) -> Drawn:
        name = _name(event, "adapter")
        path, body = f"/v1/adapters/{name}/promote", {"reason": _reason(event)}
        return await self._pull(board, request, f"{name} is on its way to be live.", "POST", path, body)

    async def canary(self, board: Board, event: gr.EventData, request: gr.Request) -> Drawn:
        name, share = _name(event, "adapter"), event._data.get("share")
        body = {"share": share if isinstance(share, int | float) else 0, "reason": _reason(event)}
        return await self._pull(board, request, f"{name} is the canary.", "POST", f"/v1/adapters/{name}/canary", body)

    async def end_canary(self, board: Board, request: gr.Request) -> Drawn:
        return await self._pull(board, request, "The canary has ended.", "DELETE", "/v1/adapters/canary")

    async def rollback(self, board: Board, event: gr.EventData, request: gr.Request) -> Drawn:
        body = {"to": event._data.get("to") or None, "reason": _reason(event)}
        return await self._pull(board, request, "Rolling back.", "POST", "/v1/adapters/rollback", body)

    async def reject(self, board: Board, event: gr.EventData, request: gr.Request) -> Drawn:
        name = _name(event, "adapter")
        path, body = f"/v1/adapters/{name}/reject", {"reason": _reason(event)}
        return await self._pull(board, request, f"{name} was rejected.", "POST", path, body)

    async def _pull(
        self, board: Board, request: gr.Request, done: str, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Drawn:
        try:
            await self._service.act(Credentials.of(request.headers), method, path, body)
        except ServiceError as error:
            board.say(error.message, "error")
        else:
            board.say(done)
        return await self.look(board, request)


def _name(event: gr.EventData, field: str) -> str:
    """A name that goes into a path: what can't be one names nothing."""
    value = event._data.get(field)
    return value if isinstance(value, str) and value.replace("-", "").replace("_", "").isalnum() else "unknown"


def _reason(event: gr.EventData) -> str:
    value = event._data.get("reason")
    return value.strip() if isinstance(value, str) else ""
