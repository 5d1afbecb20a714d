"""What the loop does with people's feedback: `hone simulate` as it comes, three rounds of at most 100 comparisons.

    python -m tests.bench simulate-warm --json

The figure is the share of held-out comparisons with the base that the last adapter wins; the base against itself wins
half. `simulate-own` has a taste that no part of Hone knows. `simulate-teach` corrects facts that the base was kept
from: its figure is the share of corrected facts that are answered right in the end, beside the nine of ten that are
asked. What none of it may cost is asked beside: right answers, fluent replies, time, and not one request.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.harness import Comparison, benchmark

SECONDS, ACCURACY, FLUENCY = "seconds", "accuracy below the base's", "fluency below the base's, nats per token"
WORST_ACCURACY = "accuracy below the base's in the worst round"
EMPTY, LOST, NOT_WON = "empty replies", "failed or interrupted requests", "held-out comparisons not won"
LIMITS = {SECONDS: 600.0, EMPTY: 0.0, LOST: 0.0}
OF_A_TASTE = {NOT_WON: 0.15, **LIMITS, ACCURACY: 0.02, FLUENCY: 0.25}
OF_FACTS = {**LIMITS, WORST_ACCURACY: 0.02}
"""What the project asks of itself, at most; of a taste what is won, accuracy and fluency at the end, all else over all
rounds. Who corrects facts wants replies that the base finds unlikely, and has a figure of its own."""
LEAST_RIGHT = 0.9
OWN = """def ends_with_a_question(prompt: str, reply_a: str, reply_b: str) -> float:
    return float(reply_a.rstrip().endswith("?")) - float(reply_b.rstrip().endswith("?"))
"""
_CORRECTED = re.compile(r"of (\d+) corrected facts (\d+) are right now")


def simulated(taste: str, folder: Path) -> tuple[dict[str, Any], str]:
    """What `hone simulate --json` prints, and its log."""
    command = [sys.executable, "-m", "service.cli", "simulate", "--taste", taste, "--json"]
    done = subprocess.run(
        [*command, "--picture", str(folder / "simulation.png")], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout)), done.stderr


def costs(found: dict[str, Any]) -> dict[str, float]:
    """The figures of every simulation that have limits."""
    rounds = found["rounds"]
    return {
        SECONDS: found["seconds"],
        EMPTY: float(sum(row["empty"] for row in rounds)),
        LOST: float(sum(row["failed"] + row["interrupted"] for row in rounds)),
    }


def of_a_taste(found: dict[str, Any]) -> dict[str, float]:
    """Those of a taste whose replies are compared."""
    last = found["rounds"][-1]
    won = {NOT_WON: round(1 - last["share_won"], 4)}
    return won | costs(found) | {ACCURACY: _lost_accuracy(last), FLUENCY: -last["fluency"]}


def of_facts(found: dict[str, Any]) -> dict[str, float]:
    """Those of corrected facts; accuracy is that on facts that nobody corrected."""
    return costs(found) | {WORST_ACCURACY: max(_lost_accuracy(row) for row in found["rounds"][1:])}


def _lost_accuracy(row: dict[str, Any]) -> float:
    return round(float(row["accuracy_base"] - row["accuracy"]), 4)


def told(found: dict[str, Any]) -> str:
    """Round by round."""
    return "; ".join(
        f"{row['adapter']} wins {row['share_won']:.1%} ({row['share_won_low']:.0%} to {row['share_won_high']:.0%}) at "
        f"{100 * (row['accuracy'] - row['accuracy_base']):+.1f} points of accuracy and {row['fluency']:+.2f} fluency"
        for row in found["rounds"][1:]
    )


def preferred(taste: str) -> Comparison:
    with tempfile.TemporaryDirectory(prefix="hone-bench-") as folder:
        name = taste
        if taste == "own":
            (Path(folder) / "own.py").write_text(OWN)
            name = f"{folder}/own.py:ends_with_a_question"
        found, _ = simulated(name, Path(folder))
    first, last = found["rounds"][0], found["rounds"][-1]
    return Comparison([last["share_won"]], [first["share_won"]], told(found), of_a_taste(found))


def taught() -> Comparison:
    with tempfile.TemporaryDirectory(prefix="hone-bench-") as folder:
        found, log = simulated("teach", Path(folder))
    facts, right = map(int, _CORRECTED.findall(log)[-1])
    note = f"{right} of {facts} corrected facts are right in the end, none was before; {told(found)}"
    return Comparison([right / facts], [LEAST_RIGHT], note, of_facts(found))


def _register(taste: str) -> None:
    benchmark(
        f"simulate-{taste}",
        unit="share of held-out comparisons won",
        peer_name="the base against itself",
        limits=OF_A_TASTE,
    )(lambda: preferred(taste))


for _taste in ("short", "warm", "sure", "safe", "own"):
    _register(_taste)
benchmark(
    "simulate-teach",
    unit="share of corrected facts answered right",
    peer_name="the share that is asked",
    target=1.0,
    limits=OF_FACTS,
)(taught)
