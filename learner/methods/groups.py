"""Groups of replies to one prompt, with the odds that they should gain on each other, and what a step on them costs.

Beside the listwise loss the policy is pulled to the anchor's likely tokens at every token of each group's best reply,
and held to its odds much harder where a token is part of what the base's replies agree on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import TokenIds, collate
from learner.losses import listwise_loss
from learner.methods.answers import Answer, Answers, answer_tokens
from learner.methods.rollouts import Rollouts

TRAINED_REPLIES = 4  # of those to a prompt: the best, the worst and some between
STAY = 0.02  # weight of KL to the anchor, token by token
KEEP = 4.0  # the same where the token is part of what the base answers: there nothing is a matter of taste
KEEP_ELSEWHERE = 0.4  # the same in each reply that isn't the best


@dataclass(frozen=True)
class Group:
    """Replies to one prompt with the odds they should gain on each other."""

    prompt: TokenIds
    replies: tuple[TokenIds, ...]
    answer: Answer
    start: Tensor  # (k,) log-probability under what sampled them
    targets: Tensor  # (k,) sum to 1

    @property
    def best(self) -> TokenIds:
        return self.replies[int(self.targets.argmax())]


def draw_group(rollouts: Rollouts, right: Answers, utilities: Tensor, index: int, rng: Random) -> Group:
    """Best, worst and some others: most of what there is to learn, for less work."""
    prompt = rollouts.prompts[index]
    order = utilities[index].argsort().tolist()
    if len(order) > TRAINED_REPLIES:
        order = [order[0], order[-1], *rng.sample(order[1:-1], TRAINED_REPLIES - 2)]
    replies = tuple(rollouts.replies[index][place] for place in order)
    targets = torch.softmax(utilities[index, order], -1)
    return Group(prompt, replies, right[prompt], rollouts.policy[index, order], targets)


def listwise(backbone: Backbone, strength: float, groups: Sequence[Group]) -> tuple[Tensor, dict[str, float]]:
    """The listwise loss of all replies, and the pull towards the anchor at every token of each group's best, and at
    the answers in the others."""
    batch = collate([(group.prompt, reply) for group in groups for reply in group.replies], backbone.pad_id)
    policy = backbone.predictions(batch)
    log_probs = policy.reply_log_probs(len(batch.token_ids)).reshape(len(groups), -1)
    targets = torch.stack([group.targets for group in groups]).to(log_probs)
    start = torch.stack([group.start for group in groups]).to(log_probs)
    loss, metrics = listwise_loss(log_probs, start, targets, torch.ones_like(targets, dtype=torch.bool))
    best = torch.arange(len(groups), device=targets.device) * targets.shape[1] + targets.argmax(1)
    said = [(group, reply) for group in groups for reply in group.replies]
    flags = [flag for group, reply in said for flag in answer_tokens(backbone, reply, group.answer)]
    is_answer, of_best = torch.tensor(flags, device=targets.device), torch.isin(policy.rows, best)
    elsewhere = is_answer & ~of_best
    with torch.no_grad():
        by_anchor = backbone.predictions(batch, "anchor")
    stay = torch.where(is_answer[of_best], KEEP, STAY)
    pull, more = policy[of_best].pull_to(by_anchor[of_best], stay, strength)
    loss = loss + int(of_best.sum()) / max(1, len(groups)) * pull
    if elsewhere.any():
        held, _ = policy[elsewhere].pull_to(by_anchor[elsewhere], KEEP_ELSEWHERE, 0.0)
        loss = loss + int(elsewhere.sum()) / len(groups) * held
    return loss, metrics | more
