"""What every benchmark shares: a name, a peer measured beside it in the same run, and one number that compares them.

A benchmark is a function that returns a `Comparison`; `@benchmark` gives it its name. Ours and the peer's repeats
alternate (`alternate`), so that a noisy minute hits both, and medians are compared. What the project asks of itself is
a least ratio, or figures that stay below a limit; whether it gets them is told with the result, and never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

RATIO = "ratio"


class CannotMeasure(Exception):
    """What a benchmark needs is missing here; the message says what, and how to get it."""


@dataclass(frozen=True)
class Comparison:
    """Repeats of both sides, in the benchmark's unit. `figures`: what the benchmark has a limit for, by name."""

    ours: Sequence[float]
    peer: Sequence[float]
    note: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One figure that the project asks of itself: a ratio of `asked` at least, any other of `asked` at most."""

    figure: str
    measured: float
    asked: float

    @property
    def is_met(self) -> bool:
        return self.measured >= self.asked if self.figure == RATIO else self.measured <= self.asked

    def as_dict(self) -> dict[str, Any]:
        told = {"figure": self.figure, "measured": rounded(self.measured), "asked": self.asked}
        return told | {"is_met": self.is_met}


@dataclass(frozen=True)
class Benchmark:
    """`higher_is_better`: of the unit; the ratio is turned so that above 1 is always better than the peer.

    `target`: the least ratio that the project asks of itself; `limits`: the most that it allows each of the
    comparison's figures. Both are for the written page; a measurement never fails by them.
    """

    name: str
    unit: str
    peer_name: str
    measure: Callable[[], Comparison]
    higher_is_better: bool = True
    target: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def asked(self) -> list[str]:
        """The figures that the project asks of itself here, by name."""
        return [*([] if self.target is None else [RATIO]), *self.limits]

    def run(self) -> dict[str, Any]:
        comparison = self.measure()
        ours, peer = median(comparison.ours), median(comparison.peer)
        better, worse = (ours, peer) if self.higher_is_better else (peer, ours)
        ratio = better / worse if worse else float("inf")
        asked = [] if self.target is None else [Asked(RATIO, ratio, self.target)]
        asked += [Asked(name, comparison.figures[name], most) for name, most in self.limits.items()]
        result: dict[str, Any] = {
            "name": self.name,
            "unit": self.unit,
            "ours": round(ours, 4),
            "peer": round(peer, 4),
            "peer_name": self.peer_name,
            "ratio": rounded(ratio),
            "asked": [one.as_dict() for one in asked],
        }
        if comparison.note:
            result["note"] = comparison.note
        return result


def rounded(figure: float) -> float:
    return round(figure, 3)


REGISTRY: dict[str, Benchmark] = {}


def benchmark(
    name: str,
    *,
    unit: str,
    peer_name: str,
    higher_is_better: bool = True,
    target: float | None = None,
    limits: Mapping[str, float] | None = None,
) -> Callable[[Callable[[], Comparison]], Callable[[], Comparison]]:
    """Register the decorated function as the benchmark `name`."""

    def register(measure: Callable[[], Comparison]) -> Callable[[], Comparison]:
        REGISTRY[name] = Benchmark(name, unit, peer_name, measure, higher_is_better, target, limits or {})
        return measure

    return register


def alternate(ours: Callable[[], float], peer: Callable[[], float], repeats: int = 5) -> Comparison:
    """Measure ours, peer, ours, peer, …, `repeats` times each."""
    pairs = [(ours(), peer()) for _ in range(repeats)]
    return Comparison(ours=[pair[0] for pair in pairs], peer=[pair[1] for pair in pairs])
