"""`hone simulate` as people run it: a service of its own, people over HTTP, a real training, and what it prints."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loop.town import SETTINGS

pytestmark = pytest.mark.loop

FEW = """
from functools import partial
from learner import simulate
simulate.Options = partial(simulate.Options, held_out=24, questions=24)
from service.cli import main
main()
"""
"""The command, measuring on fewer prompts."""
QUICK = {"HONE_LEARNER__DPO_EPOCHS": "1"}
FIGURES = {
    "round", "adapter", "share_won", "share_won_low", "share_won_high", "accuracy", "accuracy_base", "fluency", "empty",
    "mean_length", "distinct_2", "kl_per_token", "requests", "failed", "interrupted",
}  # fmt: skip


def test_a_round_of_the_real_thing_loses_no_request_and_prints_the_agreed_figures(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    command = [sys.executable, "-c", FEW, "simulate", "--taste", "short", "--rounds", "1", "--comparisons", "20"]
    done = subprocess.run(
        [*command, "--picture", str(picture), "--json"],
        env=os.environ | SETTINGS | QUICK, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed.keys() == {"taste", "seconds", "rounds"} and printed["taste"] == "short"
    before, after = printed["rounds"]
    assert before.keys() == after.keys() == FIGURES
    assert (before["round"], before["adapter"], after["round"]) == (0, "base", 1)
    assert "20 comparisons; " in done.stderr and after["requests"] > 2 * 24
    for row in (before, after):
        assert (row["failed"], row["interrupted"]) == (0, 0), done.stderr
        assert all(math.isfinite(value) for name, value in row.items() if name != "adapter")
    assert picture.read_bytes().startswith(b"\x89PNG")
