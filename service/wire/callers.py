"""Callers: who one is, and the token of a browser."""

from __future__ import annotations

from typing import Literal

from service.wire.fields import Wire


class WhoAmI(Wire):
    caller: str
    role: Literal["user", "operator"]


class SessionToken(Wire):
    token: str
    caller: str
