"""The corrections that a training learns from: as they were given, and some as what to say where one begins so."""

from __future__ import annotations

from dataclasses import replace

from learner.backbone import Backbone
from learner.batch import Demonstration, Snapshot, TokenIds
from learner.constitution.asking import as_request, render

NO_DIFFERENCE = 0.5
"""Nats per token that the conversation before a question may make a reply likelier, and be taken for needless."""


def corrections_to_learn(backbone: Backbone, train: Snapshot) -> list[Demonstration]:
    """All of them; those in mid-conversation also as what to say where one begins with their question, if what was
    said before made no difference: the reply that was corrected is about as likely without it."""
    tokenizer, alone = backbone.tokenizer, list[Demonstration]()
    there, here = list[tuple[TokenIds, TokenIds]](), list[tuple[TokenIds, TokenIds]]()
    asked = {one.prompt_token_ids for one in train.demonstrations}
    corrected = {(pair.prompt_token_ids, pair.chosen): pair.rejected for pair in train.pairs}
    for one in train.demonstrations if tokenizer.chat_template else ():
        reply = corrected.get((one.prompt_token_ids, one.reply_token_ids))
        if not one.asked_alone or not reply or len(one.prompt_token_ids) + len(reply) > backbone.max_length:
            continue
        prompt = render(tokenizer, as_request(one.asked_alone))
        if prompt not in asked:
            there.append((one.prompt_token_ids, reply))
            here.append((prompt, reply))
            alone.append(replace(one, prompt_token_ids=prompt))
    lost = (backbone.score(there, "base") - backbone.score(here, "base")).tolist()
    needless = {
        one.prompt_token_ids: one  # of several to one question the newest
        for one, (_, reply), nats in zip(alone, here, lost, strict=True)
        if nats / len(reply) <= NO_DIFFERENCE
    }
    return [*train.demonstrations, *needless.values()]
