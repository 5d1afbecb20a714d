"""What can be read can be read: the contrast of the colours, light and dark, as WCAG 2.2 measures it."""

from __future__ import annotations

import re

import pytest

from ui.theme import PIECES

ENOUGH = 4.5  # level AA, for text of any size
COLOURS = {
    name: (light, dark)
    for name, light, dark in re.findall(
        r"--hone-([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", PIECES.read_text()
    )
}
READ_ON = [
    *((ink, ground) for ink in ("ink", "soft", "faint") for ground in ("paper", "raised", "sunken")),
    *((tone, f"{tone}-wash") for tone in ("accent", "good", "bad", "warm")),
    ("faint", "accent-wash"),
    ("soft", "accent-wash"),
    ("accent-ink", "accent"),
    ("paper", "bad"),
    ("warm", "paper"),
]


def luminance(colour: str) -> float:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_measured_as_the_standard_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), READ_ON)
def test_text_stands_out_from_what_is_behind_it(ink: str, ground: str, dark: bool) -> None:
    assert contrast(COLOURS[ink][dark], COLOURS[ground][dark]) >= ENOUGH
