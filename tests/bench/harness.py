"""What every benchmark shares: a name, a peer measured beside it in the same run, and one number that compares them.

A benchmark is a function that returns a `Comparison`; `@benchmark` gives it its name. Ours and the peer's repeats
alternate (`alternate`), so that a noisy minute hits both, and medians are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


class CannotMeasure(Exception):
    """What a benchmark needs is missing here; the message says what, and how to get it."""


@dataclass(frozen=True)
class Comparison:
    """Repeats of both sides, in the benchmark's unit."""

    ours: Sequence[float]
    peer: Sequence[float]
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """`higher_is_better`: of the unit; the ratio is turned so that above 1 is always better than the peer.

    `target`: the least ratio that the project asks of itself, for the written page; a measurement never fails by it.
    """

    name: str
    unit: str
    peer_name: str
    measure: Callable[[], Comparison]
    higher_is_better: bool
    target: float | None

    def run(self) -> dict[str, str | float]:
        comparison = self.measure()
        ours, peer = median(comparison.ours), median(comparison.peer)
        better, worse = (ours, peer) if self.higher_is_better else (peer, ours)
        result: dict[str, str | float] = {
            "name": self.name,
            "unit": self.unit,
            "ours": round(ours, 4),
            "peer": round(peer, 4),
            "peer_name": self.peer_name,
            "ratio": round(better / worse, 3) if worse else float("inf"),
        }
        if comparison.note:
            result["note"] = comparison.note
        return result


REGISTRY: dict[str, Benchmark] = {}


def benchmark(
    name: str, *, unit: str, peer_name: str, higher_is_better: bool = True, target: float | None = None
) -> Callable[[Callable[[], Comparison]], Callable[[], Comparison]]:
    """Register the decorated function as the benchmark `name`."""

    def register(measure: Callable[[], Comparison]) -> Callable[[], Comparison]:
        REGISTRY[name] = Benchmark(name, unit, peer_name, measure, higher_is_better, target)
        return measure

    return register


def alternate(ours: Callable[[], float], peer: Callable[[], float], repeats: int = 5) -> Comparison:
    """Measure ours, peer, ours, peer, …, `repeats` times each."""
    pairs = [(ours(), peer()) for _ in range(repeats)]
    return Comparison(ours=[pair[0] for pair in pairs], peer=[pair[1] for pair in pairs])
