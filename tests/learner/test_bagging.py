"""A ranking counts as one judgement beside comparisons and labels, however many pairs it makes, and so do scores of one
prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.batch import Label, Pair, Sequences, TokenIds
from learner.methods import rl_cai
from learner.methods.bagging import BaggedJudgements
from learner.trainer import pairs_to_reward
from service.settings import LearnerSettings
from service.wire import Ranking, ReplyRef, Score
from tests.learner.curating import curated
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home

SETTINGS = LearnerSettings(reward_members=1, reward_centring=0.0, reward_label_smoothing=0.0)
LABELLED = ((1, 70, 2), (9, 2))


class Rewards:
    """A backbone that gives each reply a number of its own, 0 at first."""

    pad_id = 0

    def __init__(self) -> None:
        self.of: dict[TokenIds, Tensor] = {}

    def rewards(self, replies: Sequences) -> Tensor:
        rows = [tuple(row[row != 0].tolist()) for row in replies.token_ids]
        return torch.stack([self.of.setdefault(row, torch.zeros(1, requires_grad=True)) for row in rows])

    def pull(self, prompt: TokenIds, reply: TokenIds) -> float:
        """By how much the step moves this reply's reward."""
        slope = self.of[(*prompt, *reply)].grad
        assert slope is not None
        return -float(slope)


class InParts:
    """A stepper whose memory takes `size` examples at once."""

    def __init__(self, size: int) -> None:
        self._size = size

    def add(
        self, what: str, examples: Sequence[Any], loss: Callable[[Sequence[Any]], tuple[Tensor, object]]
    ) -> dict[str, float]:
        for start in range(0, len(examples), self._size):
            part = examples[start : start + self._size]
            (loss(part)[0] * len(part) / len(examples)).backward()
        return {}


def rank(home: Home, count: int, prompt: TokenIds) -> None:
    exchange = home.chat(*("a" * (one + 1) for one in range(count)), prompt=prompt)
    home.judge(Ranking(order=tuple((ReplyRef(exchange_id=exchange, index=index),) for index in range(count))))


def judged(home: Home) -> list[Pair]:
    """A ranking of four, one of nine, scores of five and a comparison."""
    rank(home, 4, (1, 50, 2))
    rank(home, 9, (1, 60, 2))
    for one in range(5):
        home.judge(Score(exchange_id=home.chat("a" * (one + 1), prompt=(1, 80, 2)), score=9 - 2 * one))
    home.compare("a", "bb", "a", prompt=(1, 90, 2))
    return pairs_to_reward(curated(home, held_out_share=1e-9).train)


def test_the_pairs_of_a_ranking_or_of_scores_weigh_together_as_one_comparison(home: Home) -> None:
    pairs = judged(home)
    made = {place: sum(place in pair.prompt_token_ids for pair in pairs) for place in (50, 60, 80, 90)}
    assert (made, len(pairs)) == ({50: 6, 60: 36, 80: 10, 90: 1}, 53)
    for place in made:
        assert sum(pair.weight for pair in pairs if place in pair.prompt_token_ids) == pytest.approx(1)


def test_steps_have_about_as_many_judgements_as_one_another() -> None:
    pairs = [Pair((1, place, 2), (9, 2), (8, 2)) for place in range(30)]
    labels = [Label((1, place, 2), (9, 2), True) for place in range(30, 33)]
    lessons = BaggedJudgements(Rewards(), pairs, labels, [], SETTINGS)  # type: ignore[arg-type]
    assert [sum(map(len, step)) for step in lessons.batches(16, Random(0))] == [11, 11, 11]


@pytest.mark.parametrize("at_once", [1, 4, 100])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_rankings_and_scores_take_as_much_of_a_step_as_a_comparison_or_a_label(
    home: Home, at_once: int, share: float
) -> None:
    """By hand: a step of five judgements at rewards of 0, where a pair of strength s pulls its better reply up by
    s / (1 + s), and a label by ½; `share`: of the weight of all pairs, as where there are a judge's beside them."""
    pairs = [replace(pair, weight=share * pair.weight) for pair in judged(home)]
    backbone = Rewards()
    lessons = BaggedJudgements(backbone, pairs, [Label(*LABELLED, True)], [], SETTINGS)  # type: ignore[arg-type]
    (step,) = lessons.batches(len(pairs) + 1, Random(0))
    lessons.add(InParts(at_once), step)  # type: ignore[arg-type]
    assert backbone.pull(*LABELLED) == pytest.approx(1 / 2 / 5)
    for place, replies in ((50, 4), (60, 9), (80, 5), (90, 2)):
        some = [pair for pair in pairs if place in pair.prompt_token_ids]
        top = max({pair.chosen for pair in some}, key=lambda reply: sum(pair.chosen == reply for pair in some))
        pulls = [pair.margin / (1 + pair.margin) for pair in some if pair.chosen == top]
        assert len(pulls) == replies - 1
        assert backbone.pull(some[0].prompt_token_ids, top) == pytest.approx(sum(pulls) / len(some) / 5)


@pytest.mark.parametrize("human_share", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("compared", [0, 4])
def test_what_people_said_of_replies_alone_is_part_of_their_share_beside_a_judges_pairs(
    human_share: float, compared: int
) -> None:
    """At rewards of 0 a pair pulls by half its weight, and so does a label: what is pulled together is the mixture."""
    ai = [Pair((1, place, 2), (9, 2), (8, 2)) for place in range(10, 16)]
    human = [Pair((1, place, 2), (9, 2), (8, 2)) for place in range(20, 20 + compared)]
    labels = [Label((1, place, 2), (9, 2), True) for place in range(30, 40)]
    pairs, weight = rl_cai.mixed_for_reward(ai, human, len(labels), human_share)
    backbone = Rewards()
    lessons = BaggedJudgements(backbone, pairs, labels, [], SETTINGS, None, weight)  # type: ignore[arg-type]
    (step,) = lessons.batches(100, Random(0))
    lessons.add(InParts(100), step)  # type: ignore[arg-type]
    pulls = [[backbone.pull(one.prompt_token_ids, (9, 2)) for one in some] for some in (ai, human, labels)]
    of_people = sum(pulls[1]) + sum(pulls[2])
    assert of_people / (sum(pulls[0]) + of_people) == pytest.approx(human_share)
    assert sum(pulls[0]) + of_people == pytest.approx(1 / 2)
    assert pulls[1] == pytest.approx(compared * pulls[2][:1])  # a comparison counts as much as a label
    assert rl_cai.mixed_for_reward([], human, len(labels), human_share) == (human, 1.0)
