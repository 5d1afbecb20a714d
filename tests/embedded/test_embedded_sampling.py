"""Sampling follows each row's own distribution and settings."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.embedded.crew import Crew
from service.embedded.kernel import load_kernel
from service.embedded.messages import SamplingParams
from service.embedded.sampling import Sampler, invert

PLAIN = SamplingParams(max_tokens=1, logprobs=0)
CPU = torch.device("cpu")


@pytest.fixture(params=["torch", "kernel"])
def by(request: pytest.FixtureRequest) -> Crew | None:
    """Who samples."""
    compiled = load_kernel() if request.param == "kernel" else None
    if request.param == "kernel" and compiled is None:
        pytest.skip("no C compiler here, so there is no kernel")
    return None if compiled is None else Crew(compiled, 2)


def sample(logits: list[float], params: SamplingParams, times: int, by: Crew | None) -> list[int]:
    """One token from each of `times` rows with the same logits and settings, and random numbers of their own."""
    sampler = Sampler([params] * times, [random.Random(seed) for seed in range(times)], CPU, by)
    tokens: list[int] = sampler(torch.tensor([logits] * times)).tokens.tolist()
    return tokens


def shares(tokens: list[int], size: int) -> list[float]:
    return [tokens.count(token) / len(tokens) for token in range(size)]


def test_temperature_zero_takes_the_likeliest(by: Crew | None) -> None:
    assert set(sample([0.1, 2.0, 1.9, -5.0], replace(PLAIN, temperature=0.0), 20, by)) == {1}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_shares_follow_the_softmax(temperature: float, by: Crew | None) -> None:
    logits = [0.0, 1.0, 2.0, -1.0]
    weights = [math.exp(value / temperature) for value in logits]
    seen = shares(sample(logits, replace(PLAIN, temperature=temperature), 4000, by), 4)
    assert seen == pytest.approx([weight / sum(weights) for weight in weights], abs=0.03)


# probabilities 0.5, 0.25, 0.15, 0.1 in shuffled places 2, 0, 3, 1
SHUFFLED = [math.log(0.25), math.log(0.1), math.log(0.5), math.log(0.15)]


@pytest.mark.parametrize(
    ("restriction", "expected"),
    [
        ({"top_p": 0.5}, {2: 1.0}),
        ({"top_p": 0.7}, {2: 2 / 3, 0: 1 / 3}),
        ({"top_p": 0.01}, {2: 1.0}),
        ({"top_k": 3}, {2: 0.5 / 0.9, 0: 0.25 / 0.9, 3: 0.15 / 0.9}),
        ({"min_p": 0.25}, {2: 0.5 / 0.9, 0: 0.25 / 0.9, 3: 0.15 / 0.9}),
        ({"top_k": 2, "top_p": 0.6}, {2: 1.0}),  # of the two kept, the first alone has 2/3
        ({"top_k": 3, "min_p": 0.4}, {2: 2 / 3, 0: 1 / 3}),
    ],
)
def test_restrictions_keep_what_they_should(
    restriction: dict[str, Any], expected: dict[int, float], by: Crew | None
) -> None:
    seen = shares(sample(SHUFFLED, replace(PLAIN, **restriction), 3000, by), 4)
    assert seen == pytest.approx([expected.get(token, 0.0) for token in range(4)], abs=0.035)


def test_restrictions_reach_beyond_the_likeliest_few(by: Crew | None) -> None:
    flat = [0.0] * 500
    assert len(set(sample(flat, replace(PLAIN, top_p=0.9), 2000, by))) > 300
    assert len(set(sample(flat, replace(PLAIN, top_k=100), 2000, by))) == 100
    assert len(set(sample(flat, replace(PLAIN, min_p=0.5), 4000, by))) > 450


def test_each_row_has_its_own_settings(by: Crew | None) -> None:
    params = [
        replace(PLAIN, temperature=0.0),
        replace(PLAIN, top_k=1),
        PLAIN,
        replace(PLAIN, temperature=5.0, top_p=0.95),
    ]
    sampler = Sampler(params, [random.Random(n) for n in range(4)], CPU, by)
    rows = torch.tensor([SHUFFLED] * 4)
    columns = list(zip(*(sampler(rows).tokens.tolist() for _ in range(400)), strict=True))
    assert set(columns[0]) == set(columns[1]) == {2}
    assert set(columns[2]) == set(columns[3]) == {0, 1, 2, 3}
    assert columns[3].count(2) < columns[2].count(2)


def test_what_a_row_gets_does_not_depend_on_what_others_ask_for(by: Crew | None) -> None:
    """Not by one bit."""
    torch.manual_seed(0)
    wishes = [
        PLAIN,
        replace(PLAIN, logprobs=0),
        replace(PLAIN, logprobs=3),
        replace(PLAIN, temperature=0.0, logprobs=0),
        replace(PLAIN, temperature=0.7, top_p=0.8, logprobs=1),
        replace(PLAIN, top_p=0.999, logprobs=0),  # reaches beyond the likeliest few
        replace(PLAIN, top_k=5, logprobs=0),
        replace(PLAIN, temperature=1.7, min_p=0.01, logprobs=0),
    ] * 4
    logits = torch.randn(len(wishes), 700) * torch.linspace(0.1, 5, len(wishes))[:, None]
    together = Sampler(wishes, [random.Random(n) for n in range(len(wishes))], CPU, by)(logits)
    assert together.logprobs is not None and together.top is not None
    for row, params in enumerate(wishes):
        alone = Sampler([params], [random.Random(row)], CPU, by)(logits[row : row + 1].clone())
        assert alone.tokens[0] == together.tokens[row]
        if params.logprobs is not None:
            assert alone.logprobs == [together.logprobs[row]]
        assert (alone.top or [None]) == [together.top[row]]


def test_logprobs_are_raw_and_of_the_sampled_token(by: Crew | None) -> None:
    params = replace(PLAIN, temperature=0.3, top_p=0.5, logprobs=2)
    sampler = Sampler([params, PLAIN], [random.Random(0), random.Random(1)], CPU, by)
    sampled = sampler(torch.tensor([SHUFFLED] * 2))
    assert sampled.logprobs is not None and sampled.top is not None
    chances = [0.25, 0.1, 0.5, 0.15]
    expected = [math.log(chances[token]) for token in sampled.tokens.tolist()]
    assert sampled.logprobs == pytest.approx(expected, abs=1e-5)
    assert sampled.top[0] is not None and sampled.top[1] is None
    assert [(entry.token, entry.rank) for entry in sampled.top[0]] == [(2, 1), (0, 2)]


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 1e-30, 0.1, 0.5, 1.0]), min_size=1, max_size=40).filter(any),
    st.sampled_from([0.0, 1e-9, 0.5, 1 - 2**-22]) | st.floats(0, 1 - 2**-22),
)
def test_what_weighs_nothing_is_never_chosen(weights: list[float], uniform: float) -> None:
    chosen = int(invert(torch.tensor([weights]), torch.tensor([[uniform]])))
    assert weights[chosen] > 0
