"""What an operator sees: read from the service afresh each time, and laid out for the page.

The board decides nothing: what is live, why, and what an operator may do is what the service answers. A person who is
no operator gets the service's own refusal, and nothing else.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import Any

from ui.by_constitution import by_constitution
from ui.client import Credentials, ServiceClient, ServiceError
from ui.curves import PHASES, curves
from ui.desk import Desk
from ui.figures import figures, gates

RUNS_SHOWN = 20
PROOF = re.compile(r"Proved: .*? nats per token\.")


def _now() -> int:
    return time.time_ns() // 1_000_000  # milliseconds


@dataclass
class Board:
    """One browser's view. `chosen_run` None follows the newest run; `opened` are the adapters shown in full.

    `serial` counts notices and `version` views, as in `Conversation`, but from the time on: a page that stays open
    while its server is restarted draws only what is newer than what it shows.
    """

    chosen_run: str | None = None
    opened: set[str] = field(default_factory=set)
    notice: str = ""
    tone: str = "info"
    serial: int = field(default_factory=_now)
    drawn: dict[str, Any] = field(default_factory=dict)  # part → what the page shows now
    version: int = field(default_factory=_now)
    asked: int = 0  # pictures begun
    answered: int = 0  # the newest picture that was shown
    desk: Desk = field(default_factory=Desk)

    def say(self, notice: str, tone: str = "info") -> None:
        self.notice, self.tone, self.serial = notice, tone, self.serial + 1

    def overtaken(self, picture: int) -> bool:
        """Whether a picture that was begun later is shown already; remembers this one if not."""
        if picture < self.answered:
            return True
        self.answered = picture
        return False

    def changed(self, part: str, view: Any) -> bool:
        """Whether `part` has to be drawn again; remembers that it is."""
        if self.drawn.get(part) == view:
            return False
        self.drawn[part] = view
        return True


@dataclass(frozen=True)
class Picture:
    """Everything on the page at one moment. `refused` and `away` say why there is nothing to show."""

    serving: dict[str, Any] = field(default_factory=dict)
    adapters: tuple[dict[str, Any], ...] = ()
    runs: tuple[dict[str, Any], ...] = ()
    stats: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    metrics: tuple[dict[str, Any], ...] = ()
    refused: str = ""
    away: str = ""


async def take_picture(service: ServiceClient, who: Credentials, board: Board) -> Picture:
    try:
        serving, adapters, runs, stats = await asyncio.gather(
            service.get(who, "/v1/serving"),
            service.get(who, "/v1/adapters"),
            service.get(who, f"/v1/runs?limit={RUNS_SHOWN}"),
            service.get(who, "/v1/feedback/stats"),
        )
        run = _shown_run(board, runs["data"])
        metrics = await service.get(who, f"/v1/runs/{run}/metrics") if run else []
        in_full = board.opened | {serving["live"]}
        details = await asyncio.gather(*(_detail(service, who, adapter, in_full) for adapter in adapters))
    except ServiceError as error:
        if error.status in (401, 403):
            return Picture(refused=error.message)
        return Picture(away=error.message)
    return Picture(serving, tuple(details), tuple(runs["data"]), stats, run, tuple(metrics))


def _shown_run(board: Board, runs: list[dict[str, Any]]) -> str | None:
    """The run that was chosen, else the one under way, else the newest."""
    names = [run["id"] for run in runs]
    if board.chosen_run in names:
        return board.chosen_run
    return next((run["id"] for run in runs if run["state"] == "running"), names[0] if names else None)


async def _detail(
    service: ServiceClient, who: Credentials, adapter: dict[str, Any], in_full: set[str]
) -> dict[str, Any]:
    """Those that are shown in full with their history, the others as the list has them."""
    if adapter["name"] not in in_full:
        return adapter
    full: dict[str, Any] = await service.get(who, f"/v1/adapters/{adapter['name']}")
    return full


def top_view(board: Board, picture: Picture) -> dict[str, Any]:
    """What is live and why, and the feedback so far."""
    live = next((a for a in picture.adapters if a["name"] == picture.serving.get("live")), None)
    return {
        "refused": picture.refused,
        "away": picture.away,
        "serving": picture.serving,
        "why": plainly(live["reason"]) if live else "No adapter is live: the base model answers.",
        "since": _since_when(live),
        "stats": picture.stats,
        "notice": {"text": board.notice, "tone": board.tone, "serial": board.serial},
    }


def plainly(reason: str) -> str:
    """A reason with the rollout's proof in plain words; its figures are in `hone adapters show`."""
    return PROOF.sub("The engine serves it as it was trained.", reason)


def _since_when(live: dict[str, Any] | None) -> str | None:
    history = live.get("history", ()) if live else ()
    return max((event["at"] for event in history if event["action"] == "live"), default=None)


def runs_view(board: Board, picture: Picture) -> dict[str, Any]:
    """The newest runs, and how much feedback waits for the next one."""
    return {
        "hidden": bool(picture.refused or picture.away),
        "waiting": picture.stats.get("since_last_run", 0),
        "runs": tuple(run | _where(run["phase"]) for run in picture.runs),
        "run": picture.run,
        "unusable": board.desk.problem,  # why no run can go by the constitution in effect
    }


def _where(phase: str) -> dict[str, str]:
    """The phase of a run, and apart from it the stage of it that is under way, where it tells one."""
    name, _, stage = phase.partition(": ")
    return {"phase": name, "stage": PHASES.get(stage, stage)}


def curves_view(picture: Picture) -> dict[str, Any]:
    """What the shown run measured as it trained."""
    hidden = bool(picture.refused or picture.away)
    return {"hidden": hidden, "run": picture.run, "charts": curves(picture.metrics)}


def adapters_view(board: Board, picture: Picture) -> dict[str, Any]:
    """Every adapter, newest first, with what was measured about it."""
    return {
        "hidden": bool(picture.refused or picture.away),
        "live": picture.serving.get("live"),
        "adapters": [
            {
                **{key: value for key, value in adapter.items() if key != "report"},
                "reason": plainly(adapter["reason"]),
                "history": [event | {"reason": plainly(event["reason"])} for event in adapter.get("history", ())],
                "open": adapter["name"] in board.opened,
                "figures": figures(adapter.get("report") or {}),
                "gates": gates(adapter.get("report") or {}),
                "by_constitution": by_constitution(adapter.get("report") or {}, adapter["name"], adapter["parent"]),
            }
            for adapter in sorted(picture.adapters, key=lambda adapter: adapter["created_at"], reverse=True)
        ],
    }
