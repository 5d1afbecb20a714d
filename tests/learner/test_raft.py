"""Rejection-sampling fine-tuning learns the best of what it sampled: the reward rises, and cut replies never win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.methods import raft
from learner.sampler import InProcessSampler
from learner.sampling import Reply, sample
from service.errors import TrainingFailed
from service.settings import LearnerSettings
from tests.learner.progress import Heard
from tests.learner.tiny_model import EOS, ids
from tests.learner.toy_rewards import PROMPTS, TOY_RAFT, Counting


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, LearnerSettings(rank=8, alpha=16.0))


def replies(backbone: Backbone) -> list[Reply]:
    rows = sample(backbone, PROMPTS, per_prompt=48, max_new_tokens=TOY_RAFT.max_new_tokens, seed=77)
    return [reply for row in rows for reply in row]


def mean_reward(sampled: Sequence[Reply]) -> float:
    return float(Counting().score([((), reply.token_ids) for reply in sampled]).mean())


def test_what_is_rewarded_is_said_more_and_replies_come_to_an_end(backbone: Backbone) -> None:
    before = replies(backbone)
    heard, judge = Heard(), Counting()
    result = raft.train(backbone, judge, PROMPTS, TOY_RAFT, heard)
    after = replies(backbone)
    assert mean_reward(after) > mean_reward(before) + 0.3
    assert sum(reply.ended for reply in after) > sum(reply.ended for reply in before)
    assert len(judge.graded) == result.replies == 8 * 4 * 16 and result.best == 4 and result.skipped_steps == 0
    rewards = [metrics["reward"] for _, step, _, metrics in heard.steps if metrics]
    assert rewards[-1] > rewards[0] and heard.steps[-1][1] == heard.steps[-1][2] == result.steps


def test_a_reply_that_was_cut_is_never_learned(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[TokenIds] = []

    def remember(best: Sequence[raft.Scored], *_: object) -> list[object]:
        learned.extend(one.reply for one in best)
        return []

    monkeypatch.setattr(raft, "_batches", remember)
    raft.train(backbone, Counting(), PROMPTS, TOY_RAFT, Heard())
    assert learned and all(reply[-1] == EOS for reply in learned)


def test_each_prompts_best_reply_stays_until_a_better_one_comes(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[dict[TokenIds, float]] = []

    def remember(best: Sequence[raft.Scored], *_: object) -> list[object]:
        rounds.append({one.prompt: one.worth for one in best})
        return []

    monkeypatch.setattr(raft, "_batches", remember)
    raft.train(backbone, Counting(), PROMPTS, TOY_RAFT.model_copy(update={"prompts": 2}), Heard())
    for earlier, later in pairwise(rounds):
        assert all(later[prompt] >= worth for prompt, worth in earlier.items())
    assert len(rounds[0]) == 2 and len(rounds[-1]) == 4


def test_a_nat_of_kl_to_the_anchor_costs_what_the_coefficient_says(backbone: Backbone) -> None:
    raft.train(backbone, Counting(), PROMPTS, TOY_RAFT.model_copy(update={"iterations": 2}), Heard())
    by_cost = [TOY_RAFT.model_copy(update={"kl_coefficient": beta}) for beta in (0.0, 2.0)]
    sampler, tell = InProcessSampler(backbone), lambda waits: None
    free, dear = (raft._sampled(backbone, Counting(), PROMPTS, how, 5, sampler, tell).scored for how in by_cost)
    examples = [(one.prompt, one.reply) for one in free]
    nats = backbone.score(examples, "policy") - backbone.score(examples, "anchor")
    assert examples == [(one.prompt, one.reply) for one in dear] and nats.abs().max() > 0.5
    costs = torch.tensor([one.worth - other.worth for one, other in zip(free, dear, strict=True)])
    assert torch.allclose(costs, 2 * nats, atol=1e-3)


def test_the_same_seed_gives_the_same_policy(folder: Path) -> None:
    found = []
    for seed in (3, 3, 4):
        backbone = Backbone.load(folder, LearnerSettings(rank=8, alpha=16.0))
        raft.train(backbone, Counting(), PROMPTS, TOY_RAFT.model_copy(update={"iterations": 2}), Heard(), seed=seed)
        found.append(backbone.score([(PROMPTS[0], ids("one two", end=True))], "policy"))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_prompts_that_leave_no_room_are_counted_and_none_is_no_training(backbone: Backbone) -> None:
    judge = Counting()
    result = raft.train(backbone, judge, [tuple([5] * 64), ()], TOY_RAFT, Heard())
    assert (result.steps, result.replies, result.too_long, judge.graded) == (0, 0, 2, [])


def test_it_stops_with_the_reason_where_no_reply_comes_to_an_end(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*args: Any, **options: Any) -> list[list[Reply]]:
        return [[replace(reply, ended=False) for reply in row] for row in sample(*args, **options)]

    monkeypatch.setattr("learner.sampler.sample", cut)
    with pytest.raises(TrainingFailed, match=r"None of 512 replies .* within 8 tokens\. Raise raft\.max_new_tokens"):
        raft.train(backbone, Counting(), PROMPTS, TOY_RAFT, Heard())


def test_it_stops_with_the_reason_where_the_loss_stays_without_a_value(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raft, "sft_loss", lambda log_probs, mask: (log_probs.sum() * float("nan"), {}))
    with pytest.raises(TrainingFailed, match="no finite value"):
        raft.train(backbone, Counting(), PROMPTS, TOY_RAFT, Heard())
