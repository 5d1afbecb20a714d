"""What each kind of feedback says about pairs of replies, or of one reply, and which demonstrations it holds (the
design's table). Replies that are good or bad by themselves: `learner.called`.

A vote is one person's preference between two replies to one prompt. How strong: a comparison's strength 1, 2, 3 gives
0.5, 1, 1.5; a correction against what it corrects 1; a step of a ranking 1 (InstructGPT, arXiv 2203.02155: all pairs of
a ranking stay one group, weighted so that each reply counts once); a point of score 1/3, the pairs of a person's scores
of one prompt being a group as a ranking's are; two opposite thumbs 1.

A score that has no other one of the same person beside it, on the same prompt, is one by itself: so many points above
or below what that person usually gives, lest a strict and a generous person contradict each other. The usual is the
mean of all that the person gave, shrunk towards the middle of the scale as if two more scores had been given there
(empirical Bayes: people's noise on one reply has about twice the variance of what is usual with them).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

from learner.batch import Criticised, Demonstration, Flagged, TokenIds
from learner.called import (
    DISAGREEMENT,
    MOST_HELD_TOGETHER,
    SAID_AGAIN,
    TOO_MANY_REPLIES,
    About,
    Called,
    Newest,
    called_alone,
    does_harm,
    is_good,
    newest_of_each,
)
from learner.snapshot import JudgedReply, Judgement
from service.wire import Comparison, Correction, Critique, Label, Ranking, Score, Thumb

SAME_REPLY = "the two replies are word for word the same"
CUT_OFF = "a reply was cut off before its end"
OTHER_PROMPT = "the replies answer different prompts"
BOTH_BAD = "both replies were called bad, which prefers neither"
NOT_OF_HARM = "labels that say nothing of harm"
MIDDLE_SCORE = 5.5
SCORES_IN_THE_MIDDLE = 2
"""As many as a person is taken to have given beside the real ones."""


@dataclass(frozen=True)
class Vote:
    """`strength` > 0: `first` is better; < 0: `second` is; 0: a tie."""

    prompt: TokenIds
    first: TokenIds
    second: TokenIds
    strength: float
    voter: str
    position: int  # of the newest feedback in it
    conversation_ids: tuple[str, ...]
    feedback_ids: tuple[str, ...]
    group: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Rated:
    """What one person scored, without another score of theirs on the same prompt: `points` above their usual."""

    prompt: TokenIds
    reply: TokenIds
    points: float
    position: int
    conversation_id: str
    feedback_id: str


@dataclass
class Votes:
    """All that a list of judgements says, oldest first; `set_aside` counts judgements that say nothing, by reason."""

    pairs: list[Vote] = field(default_factory=list)
    demonstrations: list[tuple[Judgement, Demonstration]] = field(default_factory=list)
    called: list[Called] = field(default_factory=list)
    rated: list[Rated] = field(default_factory=list)
    criticised: list[Criticised] = field(default_factory=list)
    flagged: list[Flagged] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)


def count_votes(judgements: Sequence[Judgement]) -> Votes:
    """Turn judgements, each person's newest on a thing already chosen, into votes and demonstrations."""
    votes = Votes()
    for judgement in judgements:
        if isinstance(judgement.feedback, Label):
            _flag(judgement, judgement.feedback, votes)
        elif isinstance(judgement.feedback, Critique):
            _criticise(judgement, judgement.feedback, votes)
        elif isinstance(judgement.feedback, Correction):
            _correct(judgement, votes)
        elif isinstance(judgement.feedback, Comparison):
            _compare(judgement, judgement.feedback, votes)
        elif isinstance(judgement.feedback, Ranking):
            _rank(judgement, judgement.feedback, votes)
    _pair_scores(_of_whole_replies(judgements, Score, votes), votes)
    thumbs = newest_of_each(_of_whole_replies(judgements, Thumb, votes), votes.set_aside)
    labels = newest_of_each(_of_whole_replies(judgements, Label, votes), votes.set_aside)
    votes.called += called_alone(thumbs, labels, _pair_thumbs(thumbs, votes), votes.set_aside)
    votes.pairs.sort(key=lambda vote: vote.position)
    votes.rated.sort(key=lambda rated: rated.position)
    return votes


def _flag(judgement: Judgement, label: Label, votes: Votes) -> None:
    harm = does_harm(label)
    votes.set_aside[NOT_OF_HARM] += harm is None
    if harm:
        votes.flagged.append(Flagged(judgement.prompt_token_ids, judgement.conversation_id, judgement.feedback_id))


def _criticise(judgement: Judgement, critique: Critique, votes: Votes) -> None:
    """A whole reply with what is wrong with it: the model revises it by that later."""
    (reply,), where = judgement.replies, (judgement.conversation_id, judgement.feedback_id)
    if reply.complete:
        votes.criticised.append(Criticised(judgement.prompt_token_ids, reply.token_ids, critique.text, *where))
    else:
        votes.set_aside[CUT_OFF] += 1


def _of_whole_replies(
    judgements: Sequence[Judgement], kind: type[Score] | type[Thumb] | type[Label], votes: Votes
) -> list[Judgement]:
    """Those of a kind, of labels those that say whether a reply does harm; but for those about a reply that was cut
    off: nobody saw how it would have ended."""
    given = [judgement for judgement in judgements if isinstance(judgement.feedback, kind)]
    given = [one for one in given if not isinstance(one.feedback, Label) or does_harm(one.feedback) is not None]
    whole = [judgement for judgement in given if judgement.replies[0].complete]
    votes.set_aside[CUT_OFF] += len(given) - len(whole)
    return whole


def _correct(judgement: Judgement, votes: Votes) -> None:
    corrected, reply = judgement.correction_token_ids, judgement.replies[0]
    demonstration = Demonstration(
        judgement.prompt_token_ids, corrected, judgement.conversation_id, judgement.feedback_id,
        asked_alone=judgement.asked_alone,
    )  # fmt: skip
    votes.demonstrations.append((judgement, demonstration))
    if reply.complete and reply.token_ids != corrected:
        votes.pairs.append(_vote(judgement, corrected, reply.token_ids, 1.0))


def _compare(judgement: Judgement, feedback: Comparison, votes: Votes) -> None:
    first, second = judgement.replies
    if feedback.verdict == "both_bad":
        votes.set_aside[BOTH_BAD] += 1
    elif reason := _incomparable(judgement, first, second):
        votes.set_aside[reason] += 1
    else:
        sign = {"a": 1, "b": -1, "tie": 0}[feedback.verdict]
        votes.pairs.append(_vote(judgement, first.token_ids, second.token_ids, sign * feedback.strength / 2))


def _rank(judgement: Judgement, feedback: Ranking, votes: Votes) -> None:
    """All pairs of the order; a failed reply stands a step below the last; two failed ones are not compared."""
    steps = [step for step, tied in enumerate(feedback.order) for _ in tied]
    failed = len(feedback.order)
    placed = list(zip(judgement.replies, steps + [failed] * len(feedback.failed), strict=True))
    found = False
    for (first, upper), (second, lower) in combinations(placed, 2):
        if upper == lower == failed or _incomparable(judgement, first, second):
            continue
        strength = float(min(lower - upper, 3))
        weight = 1 / (len(placed) - 1)
        votes.pairs.append(_vote(judgement, first.token_ids, second.token_ids, strength, judgement.feedback_id, weight))
        found = True
    if not found:
        reasons = [_incomparable(judgement, first, second) for first, second in combinations(judgement.replies, 2)]
        votes.set_aside[next((reason for reason in reasons if reason), BOTH_BAD)] += 1


def _pair_scores(judgements: Sequence[Judgement], votes: Votes) -> None:
    """Scores of one person on one prompt; people use the scale differently, so nobody's is held against another's."""
    usual = _usual_scores(judgements)
    for given in _of_one_person(judgements):
        newest = {judgement.replies[0].token_ids: judgement for judgement in given}
        scored = sorted(newest.values(), key=lambda judgement: judgement.position)[-MOST_HELD_TOGETHER:]
        votes.set_aside[SAID_AGAIN] += len(given) - len(newest)
        votes.set_aside[TOO_MANY_REPLIES] += len(newest) - len(scored)
        for first, second in combinations(scored, 2):
            strength, group = (_score(first) - _score(second)) / 3, scored[-1].feedback_id
            votes.pairs.append(_joint_vote(first, second, strength, first.caller, 1 / (len(scored) - 1), group))
        if len(scored) == 1:
            (one,) = scored
            about = one.prompt_token_ids, one.replies[0].token_ids, _score(one) - usual[one.caller]
            votes.rated.append(Rated(*about, one.position, one.conversation_id, one.feedback_id))


def _score(judgement: Judgement) -> int:
    assert isinstance(judgement.feedback, Score)
    return judgement.feedback.score


def _usual_scores(judgements: Sequence[Judgement]) -> dict[str, float]:
    """By person: the mean of all scores given, shrunk as the module's docstring says."""
    given: defaultdict[str, list[int]] = defaultdict(list)
    for judgement in judgements:
        given[judgement.caller].append(_score(judgement))
    return {
        caller: (sum(scores) + SCORES_IN_THE_MIDDLE * MIDDLE_SCORE) / (len(scores) + SCORES_IN_THE_MIDDLE)
        for caller, scores in given.items()
    }


def _pair_thumbs(thumbs: Newest, votes: Votes) -> set[About]:
    """Every liked reply against every disliked one to the same prompt, whoever said so; the replies to prompts that
    have both."""
    by_prompt: defaultdict[TokenIds, dict[TokenIds, list[Judgement]]] = defaultdict(dict)
    for (prompt, reply), of_reply in thumbs.items():
        by_prompt[prompt][reply] = list(of_reply.values())
    spent: set[About] = set()
    for prompt, said in by_prompt.items():
        sums = {reply: sum(1 if is_good(thumb) else -1 for thumb in given) for reply, given in said.items()}
        newest_first = sorted(said, key=lambda reply: said[reply][-1].position, reverse=True)
        good, bad = ([reply for reply in newest_first if sign * sums[reply] > 0] for sign in (1, -1))
        if not (good and bad):
            continue
        good, bad = good[:MOST_HELD_TOGETHER], bad[:MOST_HELD_TOGETHER]
        for liked, disliked in product(good, bad):
            first, second = said[liked][-1], said[disliked][-1]
            voter = first.caller if first.caller == second.caller else f"{first.caller} and {second.caller}"
            votes.pairs.append(_joint_vote(first, second, 1.0, voter, 1 / max(len(good), len(bad))))
        spent |= {(prompt, reply) for reply in said}
        for reply, given in said.items():
            if reply not in good and reply not in bad:
                votes.set_aside[TOO_MANY_REPLIES if sums[reply] else DISAGREEMENT] += len(given)
    return spent


def _of_one_person(judgements: Sequence[Judgement]) -> Iterator[list[Judgement]]:
    """Judgements of one person about replies to one prompt, in order of position."""
    groups: defaultdict[tuple[TokenIds, str], list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        groups[judgement.prompt_token_ids, judgement.caller].append(judgement)
    yield from groups.values()


def _incomparable(judgement: Judgement, first: JudgedReply, second: JudgedReply) -> str:
    """Why two replies can't make a pair; empty when they can."""
    if not judgement.same_prompt:
        return OTHER_PROMPT
    if not (first.complete and second.complete):
        return CUT_OFF
    return SAME_REPLY if first.token_ids == second.token_ids else ""


def _vote(
    judgement: Judgement, first: TokenIds, second: TokenIds, strength: float, group: str = "", weight: float = 1.0
) -> Vote:
    about = (judgement.conversation_id,), (judgement.feedback_id,)
    prompt = judgement.prompt_token_ids
    return Vote(prompt, first, second, strength, judgement.caller, judgement.position, *about, group, weight)


def _joint_vote(
    first: Judgement, second: Judgement, strength: float, voter: str, weight: float, group: str = ""
) -> Vote:
    """A vote that two judgements make together."""
    return Vote(
        first.prompt_token_ids,
        first.replies[0].token_ids,
        second.replies[0].token_ids,
        strength,
        voter,
        max(first.position, second.position),
        (first.conversation_id, second.conversation_id),
        (first.feedback_id, second.feedback_id),
        group,
        weight,
    )
