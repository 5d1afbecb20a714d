"""Who hears how far a training is."""

from __future__ import annotations

from collections.abc import Mapping


class Heard:
    """What a training said of its progress."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int, dict[str, float]]] = []

    def __call__(self, phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        self.steps.append((phase, step, steps, dict(metrics)))

    def counted(self) -> dict[str, int]:
        """Of how many each phase told, one after the other; each from nothing to all of them, never back."""
        found: dict[str, list[tuple[int, int]]] = {}
        for phase, step, steps, _ in self.steps:
            found.setdefault(phase, []).append((step, steps))
        for phase, told in found.items():
            (first, *_, (last, steps)), done = told, [step for step, _ in told]
            assert first == (0, steps) and last == steps and done == sorted(done), phase
        return {phase: told[-1][1] for phase, told in found.items()}


class Told:
    """Hears the progress of a training; dies when told to, as a killed process does."""

    def __init__(self, dies_in: str = "") -> None:
        self.phases: list[str] = []
        self.dies_in = dies_in

    def __call__(self, phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        if phase == self.dies_in:
            raise KeyboardInterrupt
        if phase not in self.phases:
            self.phases.append(phase)
