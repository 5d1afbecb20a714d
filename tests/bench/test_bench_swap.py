"""What `swap-gap` makes of the arrivals that it saw."""

from __future__ import annotations

import pytest

from tests.bench.engine_load import Stream
from tests.bench.swap import Watch, longest_gaps


def test_the_longest_gap_of_any_stream_is_told_by_watch_and_in_steps() -> None:
    steady = Stream([0.01 * number for number in range(200)])
    stalled = Stream([0.01 * number + (0.04 if number > 60 else 0.0) for number in range(200)])
    watches = [Watch(0.5, 0.9, with_swap=True), Watch(0.9, 1.3, with_swap=False), Watch(1.3, 1.7, with_swap=True)]
    found = longest_gaps([steady, stalled], watches)
    assert found[True] == pytest.approx([5.0, 1.0]) and found[False] == pytest.approx([1.0])


def test_a_gap_that_reaches_into_a_watch_counts() -> None:
    stream = Stream([*(0.01 * number for number in range(50)), *(0.6 + 0.01 * number for number in range(50))])
    watches = [Watch(0.55, 0.7, with_swap=True), Watch(0.7, 0.9, with_swap=False)]
    assert longest_gaps([stream], watches)[True] == pytest.approx([11.0])
