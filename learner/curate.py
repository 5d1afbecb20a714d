"""Choose from a frozen snapshot what is trained on and what is only measured on, and count everything set aside.

In this order: only what is about the base model that is trained; each person's newest word on a thing counts; a cap on
the judgements of one person (a fixed number of samples plants a behaviour whatever the size of the set, so the number
is capped, not the share); votes, demonstrations, single thumbs and labels (`learner.votes`); consensus, where people
contradict each other (`learner.consensus`); the held-out split, by conversation; only what fits the model; and a cap on
the whole, which keeps the newest and replays a random part of the older.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Any, TypeVar

from learner.batch import Criticised, Demonstration, Flagged, Label, Pair, Scored, Snapshot, TokenIds
from learner.called import DISAGREEMENT, SAID_AGAIN, Called
from learner.consensus import Agreed, agreed_demonstrations, agreed_pairs
from learner.constitution.served import ServedRevision, found_better
from learner.snapshot import AskedPrompt, FrozenFeedback, Judgement
from learner.votes import Rated, count_votes
from service.constitution.versions import Version
from service.settings import LearnerSettings
from service.wire import Correction, replies_named

OTHER_BASE = "about replies of another base model than the one that is trained"
NO_PROMPT = "the engine did not say which tokens the prompt had"
TOO_LONG = "longer than the model's context"
OVER_CAP = "beyond the number of judgements of one person that a run uses"
ON_BOTH_SIDES = "said by a held-out conversation together with one that is learned from"
NO_CONSTITUTION = "a critique, and no constitution that the model could be asked to revise by"
OVER_SERVED = "beyond the number of served revisions of one person that a run uses"
OVER_SIZE = "older examples beyond the size of a run; each run draws others"

Given = TypeVar("Given", Judgement, ServedRevision)
Example = TypeVar("Example", Pair, Demonstration, Label, Scored, Criticised)


@dataclass(frozen=True)
class Curated:
    """`train` is learned from, `held_out` only measured on; `counts` says what became of every judgement.

    `constitution`: the version that the run goes by; None: what it makes is not measured by one.
    """

    train: Snapshot
    held_out: Snapshot
    counts: dict[str, Any]
    constitution: Version | None = None

    @property
    def set_aside(self) -> str:
        """What was not used and why, in one line of plain words; empty when everything was."""
        return "; ".join(f"{count} × {reason}" for reason, count in self.counts["set_aside"].items())

    def without_constitution(self) -> Curated:
        """Nothing is revised as critiques say: they are set aside."""
        if not self.train.criticised:
            return self
        set_aside = self.counts["set_aside"] | {NO_CONSTITUTION: len(self.train.criticised)}
        return replace(self, train=replace(self.train, criticised=()), counts=self.counts | {"set_aside": set_aside})


def curate(frozen: FrozenFeedback, settings: LearnerSettings, max_length: int | None = None) -> Curated:
    """Deterministic: the same snapshot and settings give the same examples.

    `max_length`: the longest example, in tokens, that the model takes; None: any.
    """
    set_aside: Counter[str] = Counter()
    usable = _usable(frozen, max_length, set_aside)
    votes = count_votes(_cap_people(_newest_word(usable, set_aside), settings.max_per_person, set_aside, OVER_CAP))
    set_aside += votes.set_aside
    agreed = agreed_pairs(votes.pairs, set_aside)
    held = held_out_conversations(frozen, settings.held_out_share)
    demonstrations = agreed_demonstrations(votes.demonstrations, agreed, held, set_aside)
    labels = _split_labels(votes.called, agreed, held, set_aside)
    rated = _split_scored(votes.rated, held, set_aside)
    pairs, prompts = _split_pairs(agreed, held, set_aside), _split_prompts(usable, frozen.prompts, held)
    criticised = _split_by_conversation(_fitting(votes.criticised, max_length, set_aside), held)
    flagged = _split_flagged(votes.flagged, held)
    words = {one.prompt_token_ids: one.messages for one in usable if one.messages}
    preferred = _cap_people(found_better(frozen.revisions, set_aside), settings.max_per_person, set_aside, OVER_SERVED)
    served = _split_by_conversation(_fitting([one.pair() for one in preferred], max_length, set_aside), held)
    rng = Random(f"{settings.seed} {frozen.hash}")
    parts, most = [], settings.max_examples
    for is_held in (False, True):
        taught = [one for one in demonstrations if (one.conversation_id in held) == is_held]
        some_pairs = _limit(_fitting(pairs[is_held], max_length, set_aside), most, rng, set_aside)
        some = _limit(taught, most, rng, set_aside)
        called = _limit(_fitting(labels[is_held], max_length, set_aside), most, rng, set_aside)
        scored = _limit(_fitting(rated[is_held], max_length, set_aside), most, rng, set_aside)
        to_revise = _limit(criticised[is_held], most, rng, set_aside)
        revised = _limit(served[is_held], most, rng, set_aside)
        parts.append(
            Snapshot(
                some, some_pairs, tuple(prompts[is_held]), frozen.hash, frozen.position, called, scored, to_revise,
                tuple(flagged[is_held]), words, ai_pairs=revised,
            )
        )  # fmt: skip
    train, held_out = parts
    return Curated(train, held_out, _counts(frozen, train, held_out, set_aside))


def held_out_conversations(frozen: FrozenFeedback, share: float) -> frozenset[str]:
    """The conversations that only measure: chosen by a hash of their name, so that a later run chooses the same."""
    known = {one.conversation_id for one in frozen.judgements} | {asked.conversation_id for asked in frozen.prompts}
    return frozenset(name for name in known.difference(frozen.teaching) if _fraction(name) < share)


def _fraction(conversation_id: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    digest = hashlib.sha256(f"hone held out {conversation_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _usable(frozen: FrozenFeedback, max_length: int | None, set_aside: Counter[str]) -> list[Judgement]:
    """Those whose tokens are the trained model's own, prompt included, and no correction that it can't take."""
    usable = []
    for judgement in frozen.judgements:
        if any(reply.base != frozen.base for reply in judgement.replies):
            set_aside[OTHER_BASE] += 1
        elif not judgement.prompt_token_ids:
            set_aside[NO_PROMPT] += 1
        elif max_length is not None and _corrected_length(judgement) > max_length:
            set_aside[TOO_LONG] += 1
        else:
            usable.append(judgement)
    return usable


def _corrected_length(judgement: Judgement) -> int:
    """Tokens of prompt and correction; 0 for another kind."""
    corrected = judgement.correction_token_ids
    return len(judgement.prompt_token_ids) + len(corrected) if corrected else 0


def _fitting(examples: Sequence[Example], max_length: int | None, set_aside: Counter[str]) -> list[Example]:
    fitting = [example for example in examples if max_length is None or example.length <= max_length]
    set_aside[TOO_LONG] += len(examples) - len(fitting)
    return fitting


def _newest_word(judgements: Sequence[Judgement], set_aside: Counter[str]) -> list[Judgement]:
    """One judgement of each kind by one person about the same replies, and no correction that they corrected later."""
    newest: dict[Hashable, Judgement] = {}
    corrected: dict[Hashable, int] = {}
    for judgement in judgements:
        named = frozenset((reply.exchange_id, reply.index) for reply in replies_named(judgement.feedback))
        newest[judgement.caller, judgement.feedback.kind, named] = judgement
        if isinstance(judgement.feedback, Correction) and judgement.replies[0].complete:
            corrected[judgement.caller, judgement.prompt_token_ids, judgement.replies[0].token_ids] = judgement.position
    kept = [
        one
        for one in newest.values()
        if corrected.get((one.caller, one.prompt_token_ids, one.correction_token_ids), 0) <= one.position
    ]
    set_aside[SAID_AGAIN] += len(judgements) - len(kept)
    return sorted(kept, key=lambda judgement: judgement.position)


def _cap_people(given: Sequence[Given], most: int, set_aside: Counter[str], reason: str) -> list[Given]:
    """Each person's newest `most`, in order of position."""
    of: Counter[str] = Counter()
    kept = []
    for one in reversed(given):
        of[one.caller] += 1
        if of[one.caller] <= most:
            kept.append(one)
    set_aside[reason] += len(given) - len(kept)
    return kept[::-1]


def _limit(examples: list[Example], most: int, rng: Random, set_aside: Counter[str]) -> tuple[Example, ...]:
    kept = _newest_and_some(examples, most, rng)
    set_aside[OVER_SIZE] += len(examples) - len(kept)
    return tuple(kept)


def _newest_and_some(examples: list[Example], most: int, rng: Random) -> list[Example]:
    """The newest half of the room, and for the rest a random draw of the older, so that nothing is forgotten."""
    if len(examples) <= most:
        return examples
    newest = most - most // 2
    older = examples[: len(examples) - newest]
    drawn = sorted(rng.sample(range(len(older)), most - newest))
    return [older[index] for index in drawn] + examples[len(examples) - newest :]


def _split_pairs(agreed: Agreed, held: frozenset[str], set_aside: Counter[str]) -> dict[bool, list[Pair]]:
    """To learn from (False) and to measure on (True); what conversations of both sides said together is neither."""
    found: dict[bool, list[Pair]] = {False: [], True: []}
    for where, pair in agreed.values():
        if pair is not None and len(sides := {name in held for name in where}) == 1:
            found[sides.pop()].append(pair)
        else:
            set_aside[ON_BOTH_SIDES] += pair is not None
    return found


def _split_labels(
    called: Sequence[Called], agreed: Agreed, held: frozenset[str], set_aside: Counter[str]
) -> dict[bool, list[Label]]:
    """As `_split_pairs`: replies that people called good or bad, by most of them, and that no pair contradicts."""
    decided = [pair for _, pair in agreed.values() if pair is not None and not pair.tie]
    better = {(pair.prompt_token_ids, pair.chosen) for pair in decided}
    worse = {(pair.prompt_token_ids, pair.rejected) for pair in decided}
    found: dict[bool, list[Label]] = {False: [], True: []}
    for one in called:
        reply, is_good = (one.prompt, one.reply), one.up > one.down
        if reply in (worse - better if is_good else better - worse):
            set_aside[DISAGREEMENT] += len(one.feedback_ids)
        elif len(sides := {name in held for name in one.conversation_ids}) > 1:
            set_aside[ON_BOTH_SIDES] += 1
        else:
            weight = one.weight * abs(one.up - one.down) / (one.up + one.down)
            label = Label(*reply, is_good, one.conversation_ids[-1], one.feedback_ids, weight, one.by_thumb)
            found[sides.pop()].append(label)
    return found


def _split_scored(rated: Sequence[Rated], held: frozenset[str], set_aside: Counter[str]) -> dict[bool, list[Scored]]:
    """As `_split_pairs`: replies with the mean of what people gave them, in order of the newest score on each."""
    by_reply: defaultdict[tuple[TokenIds, TokenIds], list[Rated]] = defaultdict(list)
    for one in rated:
        by_reply[one.prompt, one.reply].append(one)
    found: dict[bool, list[Scored]] = {False: [], True: []}
    for reply, given in sorted(by_reply.items(), key=lambda item: item[1][-1].position):
        if len(sides := {one.conversation_id in held for one in given}) > 1:
            set_aside[ON_BOTH_SIDES] += 1
        else:
            names = tuple(one.feedback_id for one in given)
            points = fmean(one.points for one in given)
            found[sides.pop()].append(Scored(*reply, points, given[-1].conversation_id, names))
    return found


Told = TypeVar("Told", Criticised, Flagged, Pair)


def _split_by_conversation(told: Sequence[Told], held: frozenset[str]) -> dict[bool, list[Told]]:
    return {is_held: [one for one in told if (one.conversation_id in held) == is_held] for is_held in (False, True)}


def _split_flagged(flagged: Sequence[Flagged], held: frozenset[str]) -> dict[bool, list[Flagged]]:
    """As `_split_prompts`: a prompt measures only where no conversation that is learned from flagged it, too."""
    found = _split_by_conversation(flagged, held)
    taught = {one.prompt_token_ids for one in found[False]}
    return {False: found[False], True: [one for one in found[True] if one.prompt_token_ids not in taught]}


def _split_prompts(
    judgements: Sequence[Judgement], asked: Sequence[AskedPrompt], held: frozenset[str]
) -> dict[bool, list[TokenIds]]:
    """What people asked, each prompt once: to learn on (False); to measure on (True) if only held-out ones asked it."""
    every: list[Judgement | AskedPrompt] = [*judgements, *asked]
    found = dict.fromkeys((one.prompt_token_ids, one.conversation_id in held) for one in every)
    taught = {prompt for prompt, is_held in found if not is_held}
    return {False: [prompt for prompt, is_held in found if not is_held],
            True: [prompt for prompt, _ in found if prompt not in taught]}  # fmt: skip


def _counts(frozen: FrozenFeedback, train: Snapshot, held_out: Snapshot, set_aside: Counter[str]) -> dict[str, Any]:
    kinds = Counter(judgement.feedback.kind for judgement in frozen.judgements)

    def size(snapshot: Snapshot, counts: Callable[[Pair], bool]) -> int:
        return sum(counts(pair) for pair in snapshot.pairs)

    return {
        "judgements": dict(sorted(kinds.items())),
        "people": len({judgement.caller for judgement in frozen.judgements}),
        **{
            name: {
                "demonstrations": len(part.demonstrations),
                "pairs": size(part, lambda pair: not pair.tie),
                "ties": size(part, lambda pair: pair.tie),
                "good": sum(label.desirable for label in part.labels),
                "bad": sum(not label.desirable for label in part.labels),
                "scores": len(part.scored),
                "critiques": len(part.criticised),
                "flagged": len(part.flagged),
                "served_revisions": len(part.ai_pairs),
                "prompts": len(part.prompts),
            }
            for name, part in (("train", train), ("held_out", held_out))
        },
        "set_aside": dict((+set_aside).most_common()),
    }
