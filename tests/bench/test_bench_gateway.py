"""The figures of the gateway's benchmarks, from stretches whose times are known; and the pace of the mock engine."""

from __future__ import annotations

from statistics import median

import pytest

from tests.bench.callers import Stretch, load
from tests.bench.gateway import GAP_GROWTH, STREAMED, added, percentile, target, taxed, told
from tests.bench.gateway_processes import mock_engine


def of_latencies(milliseconds: float, slowest: float) -> Stretch:
    """A second of a hundred answers, five of which take longer."""
    return Stretch(latencies=[milliseconds / 1000] * 95 + [slowest / 1000] * 5, seconds=1.0)


def of_streams(tokens: int, gap: float) -> Stretch:
    return Stretch(gaps=[gap] * 100, tokens=tokens, seconds=2.0)


def test_what_a_gateway_adds_is_told_for_the_median_and_the_99th_percentile() -> None:
    straight, ours, theirs = ([of_latencies(*times)] for times in ((1, 2), (2, 8), (31, 102)))
    assert added(ours, straight, 50) == [pytest.approx(1.0)]
    assert added(ours, straight, 99) == [pytest.approx(6.0)]
    words = told(0.05, straight, ours, theirs)
    assert "pauses of 0.05 s (100 answers/s straight, 100 by ours, 100 by LiteLLM)" in words
    assert "ours adds 1.0 and 6.0 ms to the median and the 99th percentile, LiteLLM 30.0 and 100.0 ms" in words


def test_percentiles_are_of_hundredths() -> None:
    numbers = [float(number) for number in range(1, 100)]  # the exclusive method: the n-th of 99 values
    assert (percentile(numbers, 50), percentile(numbers)) == (50.0, 99.0)


def test_the_tax_is_told_beside_what_the_engine_itself_pays_for_log_probabilities() -> None:
    through, straight, detailed = ([of_streams(*seen)] for seen in ((90, 0.03), (100, 0.02), (95, 0.025)))
    found = taxed(8, through, straight, detailed)
    assert (found.ours, found.peer) == ([45.0], [50.0])
    assert found.figures == {GAP_GROWTH: pytest.approx(1.5)}
    assert "30.0 ms through the service, 20.0 ms straight" in found.note
    assert "as the service does, 48 tokens/s and 25.0 ms" in found.note
    assert "token ids" not in taxed(8, through, straight).note


def test_the_mock_engine_keeps_its_pace_and_tells_the_end_with_the_last_token() -> None:
    tokens, gap, streams = 8, 0.03, 4
    with mock_engine(tokens, gap) as url:
        asked = [target(url, "mock", **STREAMED), target(url, "mock")]
        [[paced], [whole]] = load(asked, streams, seconds=0.3)
    assert len(paced.latencies) >= streams and paced.tokens == tokens * len(paced.latencies)
    assert min(paced.latencies) > (tokens - 2) * gap  # the first token comes at any time of a step
    assert median(whole.latencies) < min(paced.latencies)  # what is not streamed comes at once
