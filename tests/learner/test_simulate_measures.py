"""What a simulation measures, by hand, and on which prompts."""

from __future__ import annotations

import pytest

from learner.evaluate.intervals import wilson
from learner.pretrain.dialogue import is_held_out
from learner.pretrain.questions import Prompt
from learner.simulate import measure
from learner.simulate.client import Reply
from learner.simulate.rounds import Options, draw_material
from learner.simulate.tastes import BUILT_IN, load_taste


@pytest.mark.parametrize(
    ("won", "of", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (50, 100, 0.4038, 0.5962), (10, 10, 0.7225, 1.0)],
)
def test_wilsons_interval(won: int, of: int, low: float, high: float) -> None:
    """By the R function `prop.test(correct=FALSE)`."""
    assert wilson(won, of) == pytest.approx((low, high), abs=1e-4)


def replies(*texts: str, logprobs: tuple[float, ...] = (-1.0,)) -> list[Reply]:
    return [Reply("e", 0, text, logprobs, "base") for text in texts]


def test_ties_are_left_out_of_the_share_won_and_counted() -> None:
    prompts = [Prompt("p", "t")] * 4
    won = measure.share_won(
        BUILT_IN["short"].prefer, prompts, replies("a", "a", "a a", "a"), replies("a a", "a a", "a", "b")
    )
    assert (won.share, won.ties) == (2 / 3, 1)
    none = measure.share_won(lambda *_: 0.0, prompts, replies(*"abcd"), replies(*"abcd"))
    assert (none.share, none.low, none.high, none.ties) == (0.5, 0.0, 1.0, 4)


def test_fluency_and_kl_weigh_every_token_the_same() -> None:
    found = measure.Answers(
        tuple(replies("a", logprobs=(-1.0,)) + replies("b", logprobs=(-0.5, -0.5, 0.0))), ((-3.0,), (-1.0, -1.0, -1.0))
    )
    assert found.base_mean == -1.5
    assert found.kl_per_token == pytest.approx(1.0)


def test_distinct_2_and_length_by_hand() -> None:
    assert measure.distinct_2(["a b a b", "a b"]) == pytest.approx(2 / 4)  # ab ba ab | ab
    assert measure.distinct_2(["a", ""]) == 0.0
    assert measure.mean_length(["a b c", "It's one."]) == 2.5


def test_people_who_want_it_safe_never_run_out_of_prompts() -> None:
    material = draw_material(load_taste("safe"), Options("safe"))
    assert len(material.held_out) == 200
    assert sum(prompt.unsafe for prompt in material.held_out) == 100
    assert len(material.training) > 300


@pytest.mark.parametrize("taste", ["short", "safe", "teach"])
def test_what_is_measured_on_is_never_trained_on(taste: str) -> None:
    material = draw_material(load_taste(taste), Options(taste, rounds=2, comparisons=20, held_out=40, questions=100))
    groups = [
        {prompt.text.lower() for prompt in group}
        for group in (material.training, material.held_out, material.questions)
    ]
    assert all(groups)
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert all(prompt.answers for prompt in material.questions) and len(material.questions) == 100
    assert all(is_held_out(prompt.text) for prompt in material.questions)
    assert len({prompt.topic for prompt in material.questions}) >= 10
    if taste != "teach":
        assert all(is_held_out(prompt.text) for prompt in material.held_out)
        assert not any(is_held_out(prompt.text) for prompt in material.training)
