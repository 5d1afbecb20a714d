"""Critique and revision: what a reply becomes when the model looks at it again, under one principle after another.

Bai et al. (arXiv 2212.08073), section 3.1: in each round a principle is drawn at random, the model criticises the
reply under it, and rewrites the reply by the critique. Here a reply that a critique finds nothing wrong with is left as
it is, and critiques and revisions are the likeliest ones, not sampled: what is to be learned is the model's best, and
small models need it. The base says them, which no training moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Messages, Progress, Tell, TokenIds, told_as, unheard, untold
from learner.constitution.asking import HeardSaid, Request, Said, as_request, ask
from learner.constitution.journal import Journal
from service.constitution import Constitution, Principle
from service.constitution.principles import USER_CRITIQUE, draw_for_rounds
from service.constitution.prompts import critique_messages, quoted, revision_messages

REVISION_TOKENS = 192


@dataclass(frozen=True)
class Draft:
    """A reply, `token_ids` with EOS, to the last message of a conversation."""

    conversation: Messages
    text: str
    token_ids: TokenIds


@dataclass(frozen=True)
class Round:
    """One critique of a draft, and what came of it: "" where the critique found nothing, or the revision was no use."""

    principle: str
    critique: str
    revision: str = ""


@dataclass(frozen=True)
class Revised:
    """The last text of a draft, with how it came to that. `token_ids` end with EOS."""

    draft: Draft
    text: str
    token_ids: TokenIds
    rounds: tuple[Round, ...] = ()

    @property
    def changed(self) -> bool:
        return self.text.strip() != self.draft.text.strip()


def revise(
    backbone: Backbone,
    constitution: Constitution,
    principles: Sequence[Principle],
    drafts: Sequence[Draft],
    *,
    rounds: int,
    critique_tokens: int,
    seed: int,
    progress: Progress,
    role: Role = "base",
    journal: Journal | None = None,
    revision_tokens: int = REVISION_TOKENS,
) -> list[Revised]:
    """Each draft after so many rounds, in each of which another of the principles is drawn for it, as far as they go.

    A critique is cut after `critique_tokens`, and a revision longer than `revision_tokens` is none. `journal`: where
    what is said is kept, at once. What has no room in the model's context is left as it is. Raises TrainingFailed for a
    model that can't be asked.
    """
    rng = Random(seed)
    drawn = [draw_for_rounds(principles, rounds, rng) for _ in drafts]
    found = [Revised(draft, draft.text, draft.token_ids) for draft in drafts]
    for number in range(rounds):
        under, of_round = [order[number] for order in drawn], f"round {number + 1} of {rounds}"
        tell = told_as(progress, f"critiques, {of_round}")
        critiques = criticise(
            backbone, constitution, under, [_as_draft(one) for one in found], critique_tokens=critique_tokens,
            role=role, tell=tell, journal=journal,
        )  # fmt: skip
        tell = told_as(progress, f"revisions, {of_round}")
        found = _rewritten(backbone, constitution, under, found, critiques, role, tell, journal, revision_tokens)
    return found


def is_unmended(one: Revised, constitution: Constitution) -> bool:
    """Whether a critique found a fault with the text as it is now: what it was to be rewritten into came to nothing, or
    said the draft again."""
    unmended = False
    for round_ in one.rounds:
        if round_.critique and not constitution.finds_nothing(round_.critique):
            unmended = round_.revision.strip() in ("", one.draft.text.strip())
    return unmended


def criticise(
    backbone: Backbone,
    constitution: Constitution,
    under: Sequence[Principle],
    drafts: Sequence[Draft],
    *,
    critique_tokens: int,
    role: Role = "base",
    tell: Tell = untold,
    journal: Journal | None = None,
) -> list[str | None]:
    """What the model says is wrong with each draft under its principle; None where it has no room to.

    `critique_tokens`: where a longer one is cut.
    """
    requests = [
        critique_messages(constitution, principle, as_request(draft.conversation), draft.text)
        for principle, draft in zip(under, drafts, strict=True)
    ]
    said = _said(backbone, requests, role, critique_tokens, tell, journal)
    return [None if one is None else one.text for one in said]


def told_by(critique: str, like: Principle) -> Principle:
    """A principle that a person's critique makes: its rule is their words, quoted; its requests are those of `like`.

    Not checked as one of a file is: people may write more than a rule has room for.
    """
    words = {"name": USER_CRITIQUE, "rule": quoted(critique), "revisions": (), "comparisons": ()}
    return like.model_copy(update=words)


def revise_as_told(
    backbone: Backbone,
    constitution: Constitution,
    like: Principle,
    drafts: Sequence[Draft],
    critiques: Sequence[str],
    role: Role = "base",
    tell: Tell = untold,
    journal: Journal | None = None,
    revision_tokens: int = REVISION_TOKENS,
) -> list[Revised | None]:
    """Each draft as a person's critique of it asks for; None where both leave the model's context no room for that."""
    under = [told_by(critique, like) for critique in critiques]
    found = [Revised(draft, draft.text, draft.token_ids) for draft in drafts]
    requests = [_revision(constitution, *one) for one in zip(under, found, critiques, strict=True)]
    answers = _said(backbone, requests, role, revision_tokens, tell, journal)
    return [
        None if said is None else _after(one, principle, critique, said)
        for one, principle, critique, said in zip(found, under, critiques, answers, strict=True)
    ]


def _rewritten(
    backbone: Backbone,
    constitution: Constitution,
    under: Sequence[Principle],
    found: Sequence[Revised],
    critiques: Sequence[str | None],
    role: Role,
    tell: Tell,
    journal: Journal | None,
    revision_tokens: int,
) -> list[Revised]:
    """One round: those whose critique finds a fault are rewritten by it."""
    at_fault = [
        index for index, critique in enumerate(critiques) if critique and not constitution.finds_nothing(critique)
    ]
    requests = [_revision(constitution, under[index], found[index], critiques[index] or "") for index in at_fault]
    answers = _said(backbone, requests, role, revision_tokens, tell, journal)
    said = dict(zip(at_fault, answers, strict=True))
    return [
        _after(one, principle, critique or "", said.get(index))
        for index, (one, principle, critique) in enumerate(zip(found, under, critiques, strict=True))
    ]


def _said(
    backbone: Backbone, requests: Sequence[Request], role: Role, most: int, tell: Tell, journal: Journal | None
) -> list[Said | None]:
    """The likeliest answers, of at most so many tokens; those that are kept are not asked for."""

    def asked(some: Sequence[Request], heard: HeardSaid = unheard) -> list[Said | None]:
        return ask(backbone, some, role=role, max_new_tokens=most, tell=tell, heard=heard)

    return asked(requests) if journal is None else journal.said(["said", role, most], requests, asked)


def _after(one: Revised, principle: Principle, critique: str, said: Said | None) -> Revised:
    """After one more round. A revision that is empty, or has no end, is of no use."""
    if said is None or not said.ended or not said.text:
        return replace(one, rounds=(*one.rounds, Round(principle.name, critique)))
    rounds = (*one.rounds, Round(principle.name, critique, said.text))
    return replace(one, text=said.text, token_ids=said.token_ids, rounds=rounds)


def _revision(constitution: Constitution, principle: Principle, one: Revised, critique: str) -> Request:
    return revision_messages(constitution, principle, as_request(one.draft.conversation), one.text, critique)


def _as_draft(one: Revised) -> Draft:
    return Draft(one.draft.conversation, one.text, one.token_ids)
