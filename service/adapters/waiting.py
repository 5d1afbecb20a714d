"""What was asked for, or is the canary, and has to wait: told once in the log and in its history, and to who asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from service.adapters.pointer import Pointer
from service.errors import HoneError

_log = logging.getLogger(__name__)


class Waiting:
    def __init__(self, pointer: Pointer) -> None:
        self._pointer = pointer
        self._reasons: dict[str, str] = {}

    @property
    def reasons(self) -> list[str]:
        """Why each waits, in words that name it."""
        return list(self._reasons.values())

    async def note(self, errors: Mapping[str, HoneError]) -> None:
        """By adapter, why those wait that do now. Never raises: a history that can't be written is no trouble."""
        before, self._reasons = self._reasons, {name: _named(name, error) for name, error in errors.items()}
        for name, why in self._reasons.items():
            if why == before.get(name):
                continue
            _log.warning("The rollout waits: %s", why)
            try:
                await asyncio.to_thread(self._pointer.note_waiting, name, why)
            except HoneError as error:
                _log.warning("The rollout can't write that down: %s", error)


def _named(name: str, error: HoneError) -> str:
    """There may be two that wait."""
    said = str(error)
    return said if name in said else f"{name} waits. {said}"
