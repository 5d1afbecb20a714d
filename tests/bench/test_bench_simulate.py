"""What the benchmarks of the loop read off a simulation."""

from __future__ import annotations

from typing import Any

from tests.bench.simulate import (
    ACCURACY,
    EMPTY,
    FLUENCY,
    LIMITS,
    LOST,
    NOT_WON,
    OF_A_TASTE,
    OF_FACTS,
    SECONDS,
    WORST_ACCURACY,
    costs,
    of_a_taste,
    of_facts,
    told,
)


def row(number: int, **figures: Any) -> dict[str, Any]:
    plain = {"share_won": 0.5, "share_won_low": 0.4, "share_won_high": 0.6, "accuracy": 0.9, "accuracy_base": 0.9}
    none = {"fluency": 0.0, "empty": 0, "failed": 0, "interrupted": 0}
    return {"round": number, "adapter": f"v{number}" if number else "base", **plain, **none, **figures}


def test_costs_are_what_was_lost_in_any_round_and_of_a_taste_what_is_lost_in_the_last() -> None:
    rounds = [row(0), row(1, accuracy=0.5, failed=2, empty=1), row(2, accuracy=0.89, fluency=-0.2, interrupted=1)]
    found = costs({"seconds": 12.5, "rounds": rounds})
    assert found == {SECONDS: 12.5, EMPTY: 1.0, LOST: 3.0}
    assert found.keys() == LIMITS.keys()
    of_comparisons = of_a_taste({"seconds": 12.5, "rounds": rounds})
    assert of_comparisons == {**found, NOT_WON: 0.5, ACCURACY: 0.01, FLUENCY: 0.2}
    assert of_comparisons.keys() == OF_A_TASTE.keys()


def test_facts_that_nobody_corrected_are_kept_in_every_round() -> None:
    rounds = [row(0), row(1, accuracy=0.878), row(2, accuracy=0.95)]
    found = of_facts({"seconds": 12.5, "rounds": rounds})
    assert found[WORST_ACCURACY] == 0.022 > OF_FACTS[WORST_ACCURACY] and found.keys() == OF_FACTS.keys()
    assert of_facts({"seconds": 12.5, "rounds": [row(0), row(1, accuracy=0.92)]})[WORST_ACCURACY] == -0.02


def test_every_round_is_told() -> None:
    words = told({"rounds": [row(0), row(1, share_won=0.91, fluency=-0.1), row(2, accuracy=0.88)]})
    assert words.startswith("v1 wins 91.0% (40% to 60%) at +0.0 points of accuracy and -0.10 fluency; v2 wins 50.0%")
    assert "at -2.0 points" in words and "base" not in words
