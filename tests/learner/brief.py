"""A taste for short replies on the built-in model, and what a training won of it on prompts that it never saw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Pair, TokenIds
from learner.constitution.asking import question
from learner.methods.rollouts import roll_out, share_preferred
from learner.pretrain.questions import draw_prompts
from learner.sampling import sample

LENGTH = 24
"""Tokens beyond which a reply is long."""


class Brief:
    """Likes short replies, but no emptiness: the reward falls with every token beyond the third."""

    def score(self, examples: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        return torch.tensor([-abs(len(reply) - 3) / LENGTH for _, reply in examples])


def asked(backbone: Backbone, count: int, seed: int = 7, held_out: bool = False) -> list[TokenIds]:
    """Questions of people; `held_out`: such as the base was never trained on, nor any other that is asked here."""
    return [question(backbone.tokenizer, prompt.text) for prompt in draw_prompts(count, seed, held_out=held_out)]


def comparisons(backbone: Backbone, prompts: Sequence[TokenIds]) -> list[Pair]:
    """Of two replies by the base to each, the shorter is better; none where both are as long."""
    both = [[reply.token_ids for reply in row] for row in sample(backbone, prompts, role="base", per_prompt=2, seed=6)]
    sorted_by_length = [sorted(row, key=len) for row in both]
    return [
        Pair(prompt, short, long)
        for prompt, (short, long) in zip(prompts, sorted_by_length, strict=True)
        if len(short) < len(long)
    ]


def won(backbone: Backbone) -> tuple[float, float]:
    """Share of comparisons with the base that the policy wins on held-out prompts, as this taste has it, where it won
    half before it was trained; and its KL per token, in nats."""
    held_out = asked(backbone, 24, held_out=True)
    ours = roll_out(backbone, Brief(), held_out, 2, "policy", 6)
    theirs = roll_out(backbone, Brief(), held_out, 2, "base", 5)
    return share_preferred(ours.grades, theirs.grades), ours.kl_per_token
