"""Probes: a few replies, token by token, by which an engine proves that it serves what was trained.

It scores them before the adapter goes live (`service.adapters.proof`).
"""

from __future__ import annotations

from typing import Any

import torch

from learner.backbone import Backbone
from learner.batch import Snapshot, TokenIds, collate

PROBES, PROBES_TRIED = 4, 16
PROBE_TOKENS = 96
"""A few short ones are enough, and of a long reply the first so many tokens prove as much as all. Of so many that would
do those are taken that training changed most."""


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

    def cost(example: tuple[TokenIds, TokenIds]) -> tuple[bool, int]:
        prompt, reply = example
        is_long = len(prompt) + len(reply) > PROBE_TOKENS
        return is_long, len(prompt) + len(reply) if is_long else -len(reply)

    def change(probe: dict[str, Any]) -> float:
        return sum((own - base) ** 2 for own, base in zip(probe["logprobs"], probe["base_logprobs"], strict=True))

    tried = [make_probe(backbone, prompt, reply) for prompt, reply in sorted(fitting, key=cost)[:PROBES_TRIED]]
    return sorted(tried, key=change, reverse=True)[:PROBES]


def make_probe(backbone: Backbone, prompt: TokenIds, reply: TokenIds) -> dict[str, Any]:
    """One, as the manifest holds it: token ids, and for each of the reply's the two log-probabilities."""
    batch = collate([(prompt, reply)], backbone.pad_id)
    start = len(prompt)
    with torch.no_grad():
        own, base = (backbone.log_probs(batch, role)[0, start:].tolist() for role in ("policy", "base"))
    return {"prompt_token_ids": prompt, "token_ids": reply, "logprobs": own, "base_logprobs": base}
