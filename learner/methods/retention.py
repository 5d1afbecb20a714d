"""What a training on corrections must not move: replies to other prompts, and above all to the ones most like them.

Retention by distillation follows "Learning without Forgetting" (arXiv 1606.09282), on the model's own replies instead
of stored data. A correction spreads first to its neighbours ("the capital of Wakanda" to every other capital), and
people have seldom asked those. So the model asks them itself (`self_asked`), and others where people asked few.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from learner import parallel
from learner.adapted_model import Role
from learner.backbone import SCORED, Backbone
from learner.batch import Demonstration, Example, TokenIds, by_length, collate, tokens_of
from learner.methods.self_asked import made_up, neighbours
from learner.sampling import longest_prompt, sample

OTHERS = 256
"""Prompts that nobody corrected. With 96, forty-six corrections cost other answers 2.8 % of all, with 256 1.3 %."""
OTHERS_EACH = 16
"""So many for each correction, at least: where people have asked fewer, the model makes the rest up."""
REPLY_TOKENS = 32
"""Of a reply that is retained: where it begins is where most is decided, and long ones cost the most."""
TOP_TOKENS = 256
DESCRIBED_AT_ONCE = 32


@dataclass(frozen=True)
class Retained:
    """What the starting policy, or the base, said to a prompt, and its distribution at every token."""

    prompt: TokenIds
    reply: TokenIds
    top_ids: Tensor  # (len(reply), K)
    top: Tensor  # (len(reply), K) log-probabilities


class Retention:
    """The loss that keeps what is retained, drawn in passes over all of it."""

    def __init__(self, backbone: Backbone, retained: Sequence[Retained], rng: Random) -> None:
        self._backbone, self._retained, self._rng = backbone, retained, rng
        self._order: list[int] = []
        self.drawn = 0

    def state(self) -> dict[str, Any]:
        """How far the passes are."""
        return {"order": self._order, "drawn": self.drawn}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with the same retained."""
        self._order, self.drawn = state["order"], state["drawn"]

    def steps_to(self, passes: int, size: int) -> int:
        """How many more draws of `size` until all that is retained was drawn so often."""
        return max(0, -(-(passes * len(self._retained) - self.drawn) // size))

    def draw(self, size: int) -> list[Retained]:
        """The next `size` of all; none where nothing is retained."""
        while len(self._order) < min(size, len(self._retained)):
            self._order += self._rng.sample(range(len(self._retained)), len(self._retained))
        chosen, self._order = self._order[:size], self._order[size:]
        self.drawn += len(chosen)
        return [self._retained[index] for index in chosen]

    def loss(self, kept: Sequence[Retained]) -> tuple[Tensor, dict[str, float]]:
        """Mean KL per token from what is retained, over its most likely tokens: a scalar."""
        batch = collate([(k.prompt, k.reply) for k in kept], self._backbone.pad_id)
        policy = self._backbone.predictions(batch)
        top_ids = torch.cat([k.top_ids for k in kept]).to(policy.states.device)
        top = torch.cat([k.top for k in kept]).to(policy.states.device)
        kl = policy.kl_top(top_ids, top).mean()
        return kl, {"retention_kl": kl.item()}


def retained_tokens(kept: Sequence[Retained]) -> int:
    return sum(len(one.reply) for one in kept)


def retain(
    backbone: Backbone,
    demonstrations: Sequence[Demonstration],
    prompts: Sequence[TokenIds],
    rng: Random,
    seed: int,
    role: Role = "policy",
    measured: Collection[TokenIds] = (),
) -> list[Retained]:
    """Sample what is to stay on prompts nobody corrected: some of `prompts`, what the model asks itself where these
    are few, and neighbours; none as `measured`.

    `role`: whose replies stay: the starting policy's, or the base's where nothing but corrections was ever learned, so
    that what each of many runs moves a little is put back by the next.
    """
    corrected = {one.prompt_token_ids for one in demonstrations}
    longest = longest_prompt(backbone, REPLY_TOKENS)  # a cut one would be learned on other tokens than sampled on
    others = sorted(prompt for prompt in set(prompts) - corrected if len(prompt) <= longest)
    others = rng.sample(others, min(OTHERS, len(others)))
    missing = min(OTHERS, OTHERS_EACH * len(corrected)) - len(others)
    others += made_up(backbone, missing, sorted(corrected), prompts, seed, measured)
    like_them = neighbours(backbone, sorted(corrected), prompts, rng, seed, measured=measured)
    others += [prompt for prompt in like_them if prompt not in corrected and len(prompt) <= longest]
    others = list(dict.fromkeys(others))
    sampled = sample(backbone, others, role=role, max_new_tokens=REPLY_TOKENS, seed=seed)
    return retained(
        backbone, [(others[reply.prompt], reply.token_ids) for (reply,) in sampled if reply.token_ids], role
    )


def retained(backbone: Backbone, examples: Sequence[Example], role: Role = "policy") -> list[Retained]:
    """Prompts and replies, none of them empty, with the role's distribution as it is now at each token of a reply."""
    described = _describe(backbone, examples, role)
    return [Retained(*example, *tops) for example, tops in zip(examples, described, strict=True)]


def _describe(backbone: Backbone, examples: Sequence[Example], role: Role) -> list[tuple[Tensor, Tensor]]:
    """The role's likely tokens at each token of a reply, and their log-probabilities: (len(reply), K) each."""
    return parallel.each(examples, partial(_describe_some, backbone, role), tokens_of)


@torch.no_grad()
def _describe_some(backbone: Backbone, role: Role, examples: Sequence[Example]) -> list[tuple[Tensor, Tensor]]:
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def describe(indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        batch = [examples[index] for index in indices]
        predictions = backbone.predictions(collate(batch, backbone.pad_id), role)
        lengths = [len(reply) for _, reply in batch]
        ids, log_probs = (top.cpu().split(lengths) for top in predictions.top_log_probs(TOP_TOKENS))
        return list(zip(ids, log_probs, strict=True))

    for indices in by_length([tokens_of(example) for example in examples], DESCRIBED_AT_ONCE):
        for part, tops in backbone.fitting[SCORED].each(indices, describe):
            found |= dict(zip(part, tops, strict=True))
    return [found[index] for index in range(len(examples))]
