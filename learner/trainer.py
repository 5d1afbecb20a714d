"""The part of a cycle that computes: the methods one after another on one backbone, then the report and the probes.

Supervised fine-tuning on corrections comes first, preference learning on pairs after it, as in InstructGPT (arXiv
2203.02155); here both continue the adapter that is live, and both are held to the same anchor, the bare base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from learner.batch import Progress, Snapshot
from learner.curate import Curated

PROBES = 4
PROBE_TOKENS = 96
"""A probe is scored by the engine before an adapter goes live: a few short ones are enough."""

Stage = Literal["sft", "dpo"]


class Trainer(Protocol):
    """What a cycle needs of the thing that trains; tests hand in one that only pretends."""

    def train(self, stages: tuple[Stage, ...], lessons: Curated, checkpoint: Path, progress: Progress) -> None: ...

    def save(self, folder: Path) -> None: ...

    def restore(self, folder: Path) -> None: ...

    def evaluate(self, lessons: Curated, progress: Progress) -> dict[str, Any]: ...

    def probes(self, lessons: Curated) -> list[dict[str, Any]]: ...


MakeTrainer = Callable[[Path | None], Trainer]
"""From the parent adapter's folder (None: the bare base) to a trainer."""


def stages_of(method: str, train: Snapshot) -> tuple[Stage, ...]:
    """The stages of a run that have something to learn from; empty when none has."""
    useful: Mapping[Stage, bool] = {
        "sft": bool(train.demonstrations),
        "dpo": any(not pair.tie for pair in train.pairs),
    }
    return tuple(stage for stage, any_examples in useful.items() if any_examples and method in ("auto", stage))
