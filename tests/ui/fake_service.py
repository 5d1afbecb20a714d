"""A small service that speaks the contract of the real one, for tests of the pages: canned replies, state in memory.

`fake_app` serves it. `FakeService.broken` makes it fail the way the real one does; everything it was told is on record,
by caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from tests.ui.fake_api_objects import AS_IT_COMES, OPERATOR, REPLIES, fake_constitution


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str) -> None:
        self.status, self.message, self.code = status, message, code


@dataclass
class FakeService:
    pace: float = 0.0  # seconds between two tokens
    hold_stage: str = ""  # a reply by principles waits in this stage for as long as this is set
    hold_at: int | None = None  # a stream waits before its so-manieth token for as long as this is set
    replies: tuple[str, ...] = REPLIES
    broken: str = ""  # "engine": no reply begins; "midway": each breaks after three tokens; "truncated": no [DONE]
    refuses_feedback: bool = False
    holds_feedback: bool = False  # no feedback is answered for as long as this is set
    holds_exchanges: bool = False  # none is shown for as long as this is set
    commit: float | None = 0.2  # seconds until what was stopped is stored; None: it never is
    context: int = 10_000  # tokens
    tells_context: bool = True
    policy: str = "asked"  # which chats are answered by the constitution
    keys_only: bool = False
    sessions: int = 0
    exchanges: dict[str, dict[str, Any]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    feedback: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    acted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    adapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    serving: dict[str, Any] = field(
        default_factory=lambda: {
            "live": "base",
            "previous": None,
            "requested": None,
            "canary": None,
            "canary_share": 0.0,
        }
    )
    constitution: dict[str, Any] = field(default_factory=lambda: fake_constitution("c0", AS_IT_COMES))
    unusable: str = ""  # why the constitution in effect can't be used
    constitutions: list[dict[str, Any]] = field(default_factory=list)  # newest first
    constitutions_read: int = 0  # how often the one in effect was, with its text
    closed_streams: int = 0

    def caller(self, request: Request) -> str:
        token = request.cookies.get("hone_session") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if not token and self.keys_only:
            raise Refused(401, "This service asks for a key.", "invalid_api_key")
        if token == "stale":
            raise Refused(401, "That session is not known here.", "invalid_api_key")
        return token or "name:local"

    def operator(self, request: Request) -> None:
        if self.caller(request) != OPERATOR:
            raise Refused(403, "Operators only. Open the operator link that `hone up` printed.", "forbidden")

    def own(self, request: Request, owned: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
        if name not in owned or self.owners[name] != self.caller(request):
            raise Refused(404, f"There is no {name} of yours.", "not_found")
        return owned[name]
