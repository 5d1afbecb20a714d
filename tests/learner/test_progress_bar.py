"""The bar in the terminal says the phase, its steps, and that the time left is the phase's own."""

from __future__ import annotations

import pytest

from learner.progress_bar import ProgressBar


def test_what_is_left_is_said_of_the_phase(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with ProgressBar() as bar:
        bar.show("dpo", 3, 9)
        bar.show("evaluate", 1, 4)
        bar.end("succeeded", is_whole=True)
    drawn = capsys.readouterr().err
    assert "left of this phase:" in drawn and "succeeded" in drawn and "1/1" in drawn


def test_a_quiet_one_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(quiet=True) as bar:
        bar.show("dpo", 3, 9)
    assert not capsys.readouterr().err.strip()
