"""What is to be said of a training when it is over: what each stage came to, steps that were skipped, what was left out
or cut for its length, and limits that were not kept.

It lies beside the stages' results and, in the end, beside the adapter, so that an attempt that goes on knows it, too.

    trained = Trained.read(checkpoint)
    trained.add("dpo", result)
    trained.write(checkpoint)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from learner.counted import counted
from learner.methods.optimizer import check_finite
from learner.methods.strength import limits_in_words
from learner.omissions import omissions_in_words

log = logging.getLogger("hone.learner")

TRAINED_FILE = "trained.json"


class Result(Protocol):
    """What every method returns."""

    @property
    def steps(self) -> int: ...

    @property
    def skipped_steps(self) -> int: ...

    @property
    def too_long(self) -> int: ...

    @property
    def metrics(self) -> Mapping[str, float]: ...


@dataclass
class Trained:
    """By stage. `skipped`: steps without a finite loss or gradient; `limits`, `left_out`: what is to be said of limits,
    and of what was not used, or not whole; `figures`: how many steps it took, and what it measured in the end."""

    skipped: dict[str, int] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Trained:
        """What an earlier attempt wrote there; nothing where none did."""
        try:
            return cls(**json.loads((folder / TRAINED_FILE).read_bytes()))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        unfinished = folder / f"{TRAINED_FILE}.partial"
        unfinished.write_text(json.dumps(vars(self)) + "\n", encoding="utf-8")
        unfinished.replace(folder / TRAINED_FILE)

    def add(self, stage: str, result: Result) -> None:
        """Note it, and warn of it. Raises TrainingFailed where what was measured in the end isn't finite."""
        check_finite(result.metrics)
        self.skipped[stage], self.limits[stage] = result.skipped_steps, limits_in_words(result.metrics)
        self.left_out[stage] = omissions_in_words(result.too_long, result.metrics)
        self.figures[stage] = {"steps": result.steps, **result.metrics}
        for remark in self._of(stage):
            log.warning("%s", remark)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences, of all stages."""
        return tuple(remark for stage in self.skipped for remark in self._of(stage))

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        skipped = sum(self.skipped.values())
        return {"skipped_steps": skipped, "remarks": list(self.remarks), "stages": self.figures}

    def _of(self, stage: str) -> list[str]:
        found, skipped = list[str](), self.skipped[stage]
        if skipped:
            found.append(f"{stage} skipped {counted(skipped, 'step')} without a finite loss.")
        if left_out := self.left_out.get(stage):
            found.append(f"{stage} {left_out}.")
        if self.limits[stage]:
            found.append(f"Of {stage}: {self.limits[stage]}.")
        return found
