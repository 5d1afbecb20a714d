"""Which of the policy's replies to harmless prompts are kept: those that a critique finds nothing wrong with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from learner.backbone import Backbone
from learner.batch import Tell
from learner.constitution.examples import KeptReply
from learner.constitution.journal import Journal
from learner.constitution.revising import Draft, criticise
from service.constitution import Constitution, Principle
from service.constitution.principles import draw

log = logging.getLogger("hone.learner")

MOST_AT_FAULT = 0.5
"""Of replies to harmless prompts: a model that finds more of them at fault is no critic to choose among them."""


def looked_at(
    backbone: Backbone,
    constitution: Constitution,
    principles: Sequence[Principle],
    replies: Sequence[KeptReply],
    rng: Random,
    *,
    critique_tokens: int,
    tell: Tell,
    journal: Journal,
) -> list[KeptReply]:
    """With the critique, under one drawn principle, of each whose conversation is known."""
    asked = [one for one in replies if one.conversation]
    under = [draw(principles, 1, rng)[0] for _ in asked]
    drafts = [Draft(one.conversation, one.reply, one.reply_token_ids) for one in asked]
    critiques = criticise(
        backbone, constitution, under, drafts, critique_tokens=critique_tokens, tell=tell, journal=journal
    )
    found = (
        replace(one, principle=principle.name, critique=critique or "")
        for one, principle, critique in zip(asked, under, critiques, strict=True)
    )
    return [next(found) if one.conversation else one for one in replies]


def at_fault(replies: Sequence[KeptReply], constitution: Constitution) -> tuple[KeptReply, ...]:
    """Those that their critiques find something wrong with; none where that are more than MOST_AT_FAULT."""
    asked = sum(bool(one.principle) for one in replies)
    found = tuple(one for one in replies if one.critique and not constitution.finds_nothing(one.critique))
    if len(found) <= MOST_AT_FAULT * asked:
        return found
    log.warning("Critiques find %d of %d replies to harmless prompts at fault, so all are kept.", len(found), asked)
    return ()
