"""What one browser's page holds of the constitution: what the service answered, and what was asked of it last."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

View = dict[str, Any]


@dataclass
class Desk:
    """One browser's view. `said` is the answer to what was done last, `opened` a version whose text is to be edited.

    `version` counts views, from the time on, as `ui.board.Board` does.
    """

    hidden: bool = True
    problem: str = ""  # why what is in effect can't be used
    current: dict[str, Any] = field(default_factory=dict)
    read_at: float = -math.inf  # by the monotonic clock, what is in effect
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
