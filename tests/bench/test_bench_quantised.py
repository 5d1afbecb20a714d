"""docs/quantised.md is measured again in place: the rows of its table, and nothing else of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.quantised import Fit, rewritten

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "quantised.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith(("| NF4", "| the bfloat16 base (control)"))]


def test_what_is_measured_takes_the_place_of_what_the_page_says_about_the_same() -> None:
    assert len(ROWS) == 7 and rewritten(PAGE, ROWS) == PAGE
    row = Fit(kl=0.5, gap=0.25, proof="refused").row("NF4", "embedded, float32", "the dequantised base")
    page = rewritten(PAGE, [row])
    assert row == "| NF4 | embedded, float32 | the dequantised base | 5.0e-01 | 0.2500 | refused |"
    [number] = [number for number, line in enumerate(page.splitlines()) if line == row]
    before, after = PAGE.splitlines(), page.splitlines()
    assert before[:number] + before[number + 1 :] == after[:number] + after[number + 1 :]


def test_what_the_page_has_no_row_for_is_not_written_anywhere() -> None:
    with pytest.raises(KeyError, match="0 rows about NF4"):
        rewritten(PAGE, [Fit(0.0, 0.0, "served").row("NF4", "another engine", "the dequantised base")])
