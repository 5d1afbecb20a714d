"""The judges of the adapters that answer, each read once and kept: before an engine loads the adapter, so that nobody's
chat waits for it.

An adapter serves without its judge: what is wrong with one is logged, and nothing is chosen until it can be read.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from service.adapters.judge import Judge
from service.adapters.manifest import Manifest
from service.adapters.registry import Registry
from service.errors import HoneError, StoreError
from service.routing import BASE

MOST_KEPT = 8
"""Of as many adapters as an engine holds; a judge is a megabyte or two."""
AGAIN_SECONDS = 30.0
"""After which one that could not be read is looked at again: its file may have been put back."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Found:
    """The judge of an adapter, or why there is none."""

    judge: Judge | None
    why_none: str = ""  # in words for any caller: not where the files lie
    may_pass: bool = False
    until: float = float("inf")  # when to look again, by the monotonic clock


@dataclass
class Judges:
    registry: Registry
    _looks: dict[str, asyncio.Task[Found]] = field(default_factory=dict)

    async def of(self, adapter: str, checked: tuple[Path, Manifest] | None = None) -> Found:
        """That of a version or `base`. Those who ask while it is being read share that; who leaves doesn't end it.

        `checked`: its folder and manifest, by whoever has just checked them.
        """
        if adapter == BASE:
            return Found(None, "the base model has no judge: nobody compared its replies yet")
        look = self._looks.pop(adapter, None)
        if look is None or (look.done() and look.result().until < time.monotonic()):
            look = asyncio.create_task(asyncio.to_thread(self._look, adapter, checked))
        self._looks[adapter] = look  # the last asked for comes last
        while len(self._looks) > MOST_KEPT:
            del self._looks[next(iter(self._looks))]
        return await asyncio.shield(look)

    def _look(self, adapter: str, checked: tuple[Path, Manifest] | None) -> Found:
        try:
            judge = self.registry.judge(adapter, checked)
        except HoneError as error:
            log.warning("judge not usable, so nothing is chosen by it", adapter=adapter, error=str(error))
            why = f"the judge of {adapter} can't be used now; the service's log says why"
            return Found(None, why, isinstance(error, StoreError), time.monotonic() + AGAIN_SECONDS)
        return Found(judge, "" if judge else f"{adapter} has no judge: its run had no comparisons that tell a taste")
