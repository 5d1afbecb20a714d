"""What a candidate lost of what the base agrees on, measured on models whose loss is known."""

from __future__ import annotations

from random import Random
from statistics import fmean

import pytest

from learner.evaluate.answers import Answers
from learner.evaluate.consistency import kept_answers
from learner.evaluate.gates import MOST_AGREEMENT_LOST

PROMPTS, REPLIES = 48, 4


def says(chances: list[float], rng: Random) -> Answers:
    """Replies of a model that says the answer to each prompt with its own probability, beside chatter."""
    texts = [
        [f"answer{prompt} chatter" if rng.random() < chance else "chatter" for _ in range(REPLIES)]
        for prompt, chance in enumerate(chances)
    ]
    return Answers([], texts)


@pytest.mark.parametrize("knows", [0.95, 0.85, 0.7])
def test_a_model_that_is_the_base_loses_nothing_and_a_loss_of_20_points_is_measured_as_that(knows: float) -> None:
    rng = Random(1)
    for lost in (0.0, 0.2):
        found = kept_answers(says([knows - lost] * 1_000, rng), says([knows] * 1_000, rng))
        assert found["agreement_base"] == pytest.approx(knows, abs=0.03)
        assert found["agreement"] == pytest.approx(knows - lost, abs=0.03)
        assert found["agreement_lost_low"] == pytest.approx(lost, abs=0.06)


@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_the_loss_is_above_its_lower_end_as_often_as_an_interval_promises(lost: float) -> None:
    """Prompts differ in how well the base knows them, so that replies to one prompt go together."""
    rng, missed, found_out, errors = Random(2), 0, 0, list[float]()
    times = 200
    for _ in range(times):
        chances = [rng.choice((0.5, 0.8, 0.9, 1.0)) for _ in range(PROMPTS)]
        found = kept_answers(says([chance * (1 - lost) for chance in chances], rng), says(chances, rng))
        errors.append(found["agreement_base"] - found["agreement"] - lost * found["agreement_base"])
        missed += found["agreement_lost_low"] > lost
        found_out += found["agreement_lost_low"] > MOST_AGREEMENT_LOST
    assert fmean(errors) == pytest.approx(0.0, abs=0.01)
    assert missed / times < 0.06
    assert (found_out / times > 0.6) if lost else (found_out / times < 0.02)


def test_nothing_agreed_on_says_nothing_and_one_prompt_proves_nothing() -> None:
    chatter = says([0.0] * PROMPTS, Random(3))
    assert kept_answers(chatter, chatter) == {}
    one = says([1.0] + [0.0] * (PROMPTS - 1), Random(4))
    assert kept_answers(chatter, one)["agreement_lost_low"] < 0 < kept_answers(chatter, one)["agreement_base"]
