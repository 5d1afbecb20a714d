"""Probes: a few replies, token by token, by which an engine proves that it serves what was trained.

It scores them before the adapter goes live (`service.adapters.proof`), and is to be told from the base, and from the
adapter before, which may have learned most of the same already.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Any

import torch

from learner.adapted_model import Role
from learner.backbone import SCORED, Backbone
from learner.batch import Example, Snapshot, TokenIds, collate

PROBES, PROBES_TRIED = 4, 64
PROBE_TOKENS = 96
"""A few short ones are enough, and of a long reply the first so many tokens prove as much as all. Of so many that would
do those are taken that tell the adapter best from the base and from its parent."""
TRIED_AT_ONCE = 8


def choose_probes(backbone: Backbone, train: Snapshot, room: int) -> list[dict[str, Any]]:
    """A few short replies with the policy's and the base's log-probabilities. `room`: the longest example, in tokens.

    The longest replies among short examples say most; of long examples the shortest are looked at, which cost the
    engine the least and fit into its context. Of these the adapter's own show best where it changed them most.
    """
    taught = [(one.prompt_token_ids, one.reply_token_ids) for one in train.demonstrations]
    taught += [(one.prompt_token_ids, one.reply_token_ids) for one in train.revised]
    taught += [(pair.prompt_token_ids, pair.chosen) for pair in (*train.pairs, *train.ai_pairs)]
    taught += [(label.prompt_token_ids, label.reply_token_ids) for label in train.labels]
    taught += [(scored.prompt_token_ids, scored.reply_token_ids) for scored in train.scored]
    cut = dict.fromkeys((prompt, reply[:PROBE_TOKENS]) for prompt, reply in taught)
    fitting = [example for example in cut if sum(map(len, example)) <= room and all(example)]

    def cost(example: Example) -> tuple[bool, int]:
        prompt, reply = example
        is_long = len(prompt) + len(reply) > PROBE_TOKENS
        return is_long, len(prompt) + len(reply) if is_long else -len(reply)

    tried = sorted(fitting, key=cost)[:PROBES_TRIED]
    return [make_probe(backbone, *tried[place]) for place in _telling_most(_changes(backbone, tried))]


def make_probe(backbone: Backbone, prompt: TokenIds, reply: TokenIds) -> dict[str, Any]:
    """One, as the manifest holds it: token ids, and for each of the reply's the two log-probabilities."""

    def log_probs(one: Sequence[Example]) -> tuple[list[float], list[float]]:
        batch, start = collate(one, backbone.pad_id), len(prompt)
        with torch.no_grad():
            own, base = (backbone.log_probs(batch, role)[0, start:].tolist() for role in ("policy", "base"))
        return own, base

    [(_, (own, base))] = backbone.fitting[SCORED].each([(prompt, reply)], log_probs)
    return {"prompt_token_ids": prompt, "token_ids": reply, "logprobs": own, "base_logprobs": base}


def _changes(backbone: Backbone, tried: Sequence[Example]) -> list[tuple[float, ...]]:
    """How far each reply's log-probabilities are from the base's, and from the parent's where the policy has one: the
    sum over its tokens of the squares, in nats²."""
    before: list[Role] = ["base", "parent"] if backbone.has("parent") else ["base"]

    def of_some(some: Sequence[Example]) -> list[tuple[float, ...]]:
        batch = collate(some, backbone.pad_id)
        with torch.no_grad():
            own = backbone.log_probs(batch, "policy")  # (B, T), 0 outside the reply
            squares = [(own - backbone.log_probs(batch, role)).square().sum(1).tolist() for role in before]
        return list(zip(*squares, strict=True))

    at_once = [tried[start : start + TRIED_AT_ONCE] for start in range(0, len(tried), TRIED_AT_ONCE)]
    fitting = backbone.fitting[SCORED]
    return [change for part in at_once for _, found in fitting.each(part, of_some) for change in found]


def _telling_most(changes: Sequence[tuple[float, ...]]) -> list[int]:
    """The places of a few that together tell the adapter best from whichever they tell it from least."""
    chosen, left = list[int](), list(range(len(changes)))
    while left and len(chosen) < PROBES:
        told = [sum(changes[place][before] for place in chosen) for before in range(len(changes[0]))]
        best = max(left, key=lambda place: min(map(add, told, changes[place])))
        chosen.append(best)
        left.remove(best)
    return chosen
