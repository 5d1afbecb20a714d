"""What is to be said of a training when it is over: steps that were skipped, and limits that were not kept.

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

log = logging.getLogger("hone.learner")

TRAINED_FILE = "trained.json"


class Result(Protocol):
    """What every method returns."""

    @property
    def steps(self) -> int: ...

    @property
    def skipped_steps(self) -> int: ...

    @property
    def metrics(self) -> Mapping[str, float]: ...


@dataclass
class Trained:
    """`skipped`: steps without a finite loss or gradient, by stage; `limits`: what is to be said of limits."""

    skipped: dict[str, int] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)

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
        for remark in self._of(stage):
            log.warning("%s", remark)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences, of all stages."""
        return tuple(remark for stage in self.skipped for remark in self._of(stage))

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        return {"skipped_steps": sum(self.skipped.values()), "remarks": list(self.remarks)}

    def _of(self, stage: str) -> list[str]:
        found, skipped = list[str](), self.skipped[stage]
        if skipped:
            found.append(f"{stage} skipped {counted(skipped, 'step')} without a finite loss.")
        if self.limits[stage]:
            found.append(f"Of {stage}: {self.limits[stage]}.")
        return found
