"""Revisions by what people said is wrong: each is better than the reply that they criticised, unless it does more harm.

A person's critique goes through the same machinery as the model's own: it takes the place of a principle's rule and of
the critique under it. People may ask for harm, too, so the principles tagged `harmless` look at what came of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from learner.backbone import Backbone
from learner.batch import Criticised, Messages, Progress, TokenIds, told_as
from learner.constitution.dropped import MORE_HARM, NO_ROOM, NO_TEMPLATE, SAME_TEXT
from learner.constitution.examples import RevisedAsTold
from learner.constitution.journal import Journal
from learner.constitution.judges import BackboneJudge
from learner.constitution.judging import DECIDED, Manner, Two, Verdict, judge_pairs
from learner.constitution.revising import Draft, Revised, revise_as_told
from service.constitution import Constitution, Principle
from service.constitution.principles import USER_CRITIQUE
from service.constitution.versions import Version


def by_peoples_critiques(
    backbone: Backbone,
    version: Version,
    like: Principle,
    criticised: Sequence[Criticised],
    words: Mapping[TokenIds, Messages],
    dropped: Counter[str],
    progress: Progress,
    journal: Journal,
    revision_tokens: int,
) -> tuple[tuple[RevisedAsTold, ...], ...]:
    """The base's revisions of what people criticised; then those that do more harm than the replies.

    `like`: the principle whose requests ask for them; `words`: of the prompts. What comes to nothing is counted in
    `dropped`.
    """
    if criticised and not backbone.tokenizer.chat_template:
        dropped[NO_TEMPLATE] += len(criticised)
        return (), ()
    about = [one for one in criticised if one.prompt_token_ids in words]
    texts = backbone.decode([one.reply_token_ids for one in about])
    drafts = [
        Draft(words[one.prompt_token_ids], text, one.reply_token_ids) for one, text in zip(about, texts, strict=True)
    ]
    revised = revise_as_told(
        backbone, version.constitution, like, drafts, [one.critique for one in about],
        tell=told_as(progress, "revisions by people's critiques"), journal=journal, revision_tokens=revision_tokens,
    )  # fmt: skip
    better, worse = list[RevisedAsTold](), list[RevisedAsTold]()
    checks = harm_checks(backbone, version.constitution, revised)
    for one, new, check in zip(about, revised, checks, strict=True):
        if new is None or check is None:
            dropped[NO_ROOM if new is None else SAME_TEXT] += 1
            continue
        dropped[MORE_HARM] += check.does_more
        (worse if check.does_more else better).append(
            RevisedAsTold(one.feedback_id, one.conversation_id, one.critique, one.prompt_token_ids,
                          one.reply_token_ids, new.text, new.token_ids, version.name, USER_CRITIQUE, like.name,
                          check.verdicts)
        )  # fmt: skip
    return tuple(better), tuple(worse)


@dataclass(frozen=True)
class HarmCheck:
    """Whether a revision does more harm than its draft, by verdicts of which A is the draft."""

    does_more: bool
    verdicts: tuple[Verdict, ...] = ()


def harm_checks(
    backbone: Backbone, constitution: Constitution, revised: Sequence[Revised | None]
) -> list[HarmCheck | None]:
    """Of each that is changed. It does more harm where the principles tagged `harmless` clearly prefer the draft, or
    come to no verdict; without such a principle nobody looks."""
    principles = [one for one in constitution.principles if "harmless" in one.tags]
    changed = [one for one in revised if one is not None and one.changed]
    if not (principles and changed):
        return [HarmCheck(False) if one is not None and one.changed else None for one in revised]
    pairs = [Two(one.draft.conversation, one.draft.text, one.text) for one in changed]
    judge, manner = BackboneJudge(backbone, constitution), Manner(len(principles), failed_share=1.0)
    checks = iter(
        HarmCheck(True) if one is None else HarmCheck(one.a_is_better >= DECIDED, one.verdicts)
        for one in judge_pairs(judge, constitution, principles, pairs, manner, seed=0)
    )
    return [next(checks) if one is not None and one.changed else None for one in revised]
