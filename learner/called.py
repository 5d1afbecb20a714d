"""Replies that people called good or bad by themselves: by thumbs, and by labels that say whether they do harm.

A thumb is about liking and such a label about harm, but a reward is one number. What does harm is bad in it, as much as
a thumb down says. What does none is not good for that: it only shows where harm ends. So labels of no harm count beside
labels of harm alone, all together no more than these, and on no reply where thumbs say more.

A person has one voice on a reply, however often they judged it: that it does harm, else their thumb, else that it does
none. Labels make no pairs: what does no harm isn't preferred to what does in the way in which a thumb up is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain

from learner.batch import TokenIds
from learner.snapshot import Judgement
from service.wire import Label, Thumb

SAID_AGAIN = "the same person judged the same thing again; the newest counts"
DISAGREEMENT = "contradicted by another judgement"
MOST_HELD_TOGETHER = 8
"""Replies to one prompt that are held against each other, the newest: all pairs of many would drown all else."""
TOO_MANY_REPLIES = f"about older replies to a prompt than the newest {MOST_HELD_TOGETHER}"
HARMFUL = ("harmful", "unsafe", "dangerous", "hateful", "illegal")
HARMLESS = ("harmless", "okay", "ok", "safe")
THUMB_SAYS_MORE = "labels of no harm on a reply with thumbs, which say more"
NONE_OF_HARM = "labels of no harm without any of harm to tell it from"

About = tuple[TokenIds, TokenIds]
"""Prompt and reply."""
Newest = dict[About, dict[str, Judgement]]
"""By reply: of each person who judged it, the newest judgement, oldest first."""
Voice = list[Judgement]
"""What one person says of a reply: one judgement, or two that say the same."""


@dataclass(frozen=True)
class Called:
    """What people called a reply that makes no pair: good where `up` is more than `down`."""

    prompt: TokenIds
    reply: TokenIds
    up: int
    down: int
    position: int  # of the newest judgement of it
    conversation_ids: tuple[str, ...]
    feedback_ids: tuple[str, ...]
    by_thumb: bool = True  # False: labels alone say so
    weight: float = 1.0


def does_harm(label: Label) -> bool | None:
    """Whether it says that a reply does harm (True), or none (False); None: it says nothing of that."""
    names = {name.strip().lower() for name in label.labels}
    return True if names & set(HARMFUL) else False if names & set(HARMLESS) else None


def is_good(judgement: Judgement) -> bool:
    """Of a thumb, or a label that says whether a reply does harm."""
    if isinstance(judgement.feedback, Thumb):
        return judgement.feedback.good
    assert isinstance(judgement.feedback, Label)
    return not does_harm(judgement.feedback)


def newest_of_each(judgements: Iterable[Judgement], set_aside: Counter[str]) -> Newest:
    """Of judgements about one reply each, oldest first."""
    found: Newest = defaultdict(dict)
    for one in judgements:
        of_reply = found[one.prompt_token_ids, one.replies[0].token_ids]
        set_aside[SAID_AGAIN] += one.caller in of_reply
        of_reply.pop(one.caller, None)
        of_reply[one.caller] = one
    return found


def called_alone(thumbs: Newest, labels: Newest, spent: Set[About], set_aside: Counter[str]) -> list[Called]:
    """In order of the newest judgement of each. `labels`: those that say whether a reply does harm. `spent`: replies
    whose thumbs are done with, in pairs or not; labels on them say what no thumb of the same person has said."""
    by_prompt: defaultdict[TokenIds, list[Called]] = defaultdict(list)
    for about in {**thumbs, **labels}:
        voices = _voices(thumbs.get(about, {}), labels.get(about, {}), about in spent, set_aside)
        one = _called(about, voices) if voices else None
        if one is not None and one.up == one.down:
            set_aside[DISAGREEMENT] += len(one.feedback_ids)
        elif one is not None:
            by_prompt[one.prompt].append(one)
    found = [one for every in by_prompt.values() for one in _newest(every, set_aside)]
    return sorted(_beside_harm(found, labels, set_aside), key=lambda one: one.position)


def _voices(
    thumbs: Mapping[str, Judgement], labels: Mapping[str, Judgement], spent: bool, set_aside: Counter[str]
) -> list[Voice]:
    """One of each person who says something of a reply that its thumbs, if they are spent, have not said."""
    voices, harmful = list[Voice](), _any_harm(labels)
    for person in {**thumbs, **labels}:
        thumb, label = thumbs.get(person), labels.get(person)
        if label is not None and is_good(label) and (thumb is not None or (thumbs and not harmful)):
            set_aside[THUMB_SAYS_MORE] += 1
            label = None
        elif label is not None and thumb is not None and is_good(thumb) and not spent:
            set_aside[DISAGREEMENT] += 1
            thumb = None
        elif label is not None and thumb is not None and not is_good(thumb) and spent:
            set_aside[SAID_AGAIN] += 1
            label = None
        voice = [one for one in (None if spent else thumb, label) if one is not None]
        voices += [voice] if voice else []
    return voices


def _called(about: About, voices: Sequence[Voice]) -> Called:
    said = sorted(chain.from_iterable(voices), key=lambda one: one.position)
    up = sum(is_good(voice[0]) for voice in voices)
    return Called(
        *about, up, len(voices) - up, said[-1].position,
        tuple(one.conversation_id for one in said), tuple(one.feedback_id for one in said),
        by_thumb=any(isinstance(one.feedback, Thumb) for one in said),
    )  # fmt: skip


def _newest(called: Sequence[Called], set_aside: Counter[str]) -> list[Called]:
    """Of those of one prompt the newest that are good, and the newest that are bad."""
    kept: list[Called] = []
    for good in (True, False):
        of_kind = sorted((one for one in called if (one.up > one.down) == good), key=lambda one: -one.position)
        kept += of_kind[:MOST_HELD_TOGETHER]
        set_aside[TOO_MANY_REPLIES] += sum(len(one.feedback_ids) for one in of_kind[MOST_HELD_TOGETHER:])
    return kept


def _beside_harm(called: Sequence[Called], labels: Newest, set_aside: Counter[str]) -> list[Called]:
    """All, those that labels alone call good with no more weight together than there are harmful ones."""

    def is_harmful(one: Called) -> bool:
        return one.up < one.down and _any_harm(labels.get((one.prompt, one.reply), {}))

    harmful = sum(map(is_harmful, called))
    okay = [one for one in called if one.up > one.down and not one.by_thumb]
    others = [one for one in called if one.up < one.down or one.by_thumb]
    if not harmful:
        set_aside[NONE_OF_HARM] += sum(len(one.feedback_ids) for one in okay)
        return others
    return [*others, *(replace(one, weight=min(1.0, harmful / len(okay))) for one in okay)]


def _any_harm(labels: Mapping[str, Judgement]) -> bool:
    """Of one reply, by person."""
    return not all(map(is_good, labels.values()))
