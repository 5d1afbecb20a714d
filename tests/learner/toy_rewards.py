"""Rewards that a policy of a few thousand weights learns in seconds, and how near it comes to the best one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import TokenIds, collate
from service.settings import PpoSettings, RaftSettings
from tests.learner.tiny_model import PAD, WORDS, ids

BETA = 0.5
LIKED = (1, 2, 3, 4)  # the words that the base says most after the first
PROMPTS = [ids("<bos> what is it ?"), ids("<bos> red you ?"), ids("<bos> one two"), ids("<bos> long answer , friend")]
TOY_PPO = PpoSettings(
    iterations=40, prompts=4, replies=24, epochs=2, minibatch=48, learning_rate=1e-2, value_learning_rate=1e-2,
    kl_coefficient=BETA, normalise_rewards=False, clip_rewards=None, missing_eos_penalty=0.0, stop_kl=10.0,
    pretraining_coefficient=0.0, max_new_tokens=1, whiten_advantages=False, lam=1.0,
)  # fmt: skip


class Liking:
    """The reward of a one-word reply: 1 for the words of LIKED. It counts how often it was asked."""

    def __init__(self, backbone: Backbone) -> None:
        order = next_word(backbone, "base").exp().mean(0).argsort(descending=True)
        self.asked = 0
        self.rewards = torch.zeros(len(WORDS)).index_fill(0, order[list(LIKED)], 1.0)

    def score(self, examples: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        self.asked += len(examples)
        return self.rewards[[reply[0] for _, reply in examples]]


def next_word(backbone: Backbone, role: str = "policy") -> Tensor:
    """(prompts, V) log-probabilities."""
    batch = collate([(prompt, (0,)) for prompt in PROMPTS], PAD)
    with torch.no_grad():
        return torch.log_softmax(backbone.logits(batch, role)[0], -1)  # type: ignore[arg-type]


def optimum(backbone: Backbone) -> Tensor:
    return torch.log_softmax(next_word(backbone, "base") + Liking(backbone).rewards / BETA, -1)


def distance(policy: Tensor, best: Tensor) -> float:
    """Mean KL(policy ‖ best), in nats."""
    return float((policy.exp() * (policy - best)).sum(-1).mean())


COUNTED = 9
TOY_RAFT = RaftSettings(
    iterations=8, prompts=4, replies=16, epochs=4, minibatch=4, learning_rate=1e-2, max_new_tokens=8
)


class Counting:
    """The reward of a reply: how many of its tokens are below COUNTED in the vocabulary, as a share."""

    def __init__(self) -> None:
        self.graded: list[TokenIds] = []

    def score(self, examples: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        self.graded += [reply for _, reply in examples]
        return torch.tensor([sum(token < COUNTED for token in reply) / len(reply) for _, reply in examples])
