"""AI preferences: which of two replies a judge prefers, as a probability, under one principle and over several.

Bai et al. (arXiv 2212.08073), section 4.1: a verdict is the odds of its two options. Each pair is judged in both orders
and the two are averaged, so that a judge which prefers whatever stands first prefers nothing; several principles are
averaged by their weight; odds after written thoughts, which are nearly always certain, are clamped to 40 to 60 %. What
comes out is a soft label. A verdict that a judge can't give is counted and left out; where too many are, it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Protocol

from learner.batch import Messages, Tell, unheard, untold
from learner.constitution.asking import Request, as_request
from service.constitution import Constitution, Principle
from service.constitution.principles import draw
from service.constitution.prompts import verdict_messages
from service.errors import TrainingFailed

LEAST_REASONED, MOST_REASONED = 0.4, 0.6
"""What odds after thoughts are clamped to (section 4.1 of the paper)."""
DECIDED = 0.75
"""Odds from which on a judge tells two replies apart. With 0.55 nearly all of what was learned were its whims. Odds
after thoughts are clamped: there it is the same place between the clamps."""
EVEN = 0.55
"""Odds up to which it prefers neither; likewise. Order averaged out, one that names the same letter whatever stands
there says no more."""
TIE = 1e-6
"""How near to a half odds are even, but for rounding."""
MOST_THOUGHTS = 4_000
"""Characters of what a judge wrote before one verdict, that are kept."""
AT_ONCE = 64
"""Pairs between two looks at how many verdicts came to nothing."""


def decided(reasoned: bool) -> float:
    """The odds from which on a judge tells two replies apart. `reasoned`: it gave them after thoughts."""
    return _between_clamps(DECIDED) if reasoned else DECIDED


def even(reasoned: bool) -> float:
    """The odds up to which a judge prefers neither of two replies. `reasoned`: as in `decided`."""
    return _between_clamps(EVEN) if reasoned else EVEN


def _between_clamps(odds: float) -> float:
    return LEAST_REASONED + odds * (MOST_REASONED - LEAST_REASONED)


@dataclass(frozen=True)
class Verdict:
    """The odds of one principle: that A is better as the judge said when A stood first, and when B did."""

    principle: str
    weight: float
    a_first: float
    b_first: float
    thoughts: tuple[str, str] = ("", "")  # what the judge wrote before either, if it was asked to

    @property
    def a_is_better(self) -> float:
        return (self.a_first + self.b_first) / 2

    @property
    def for_the_first(self) -> float:
        """The odds of whatever stood first, over both orders: ½ where order says nothing."""
        return (self.a_first + 1 - self.b_first) / 2


@dataclass(frozen=True)
class Preference:
    """What all verdicts on a pair make together: the probability that A is better."""

    a_is_better: float
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Two:
    """Two replies to the last message of a conversation."""

    conversation: Messages
    a: str
    b: str


HeardOdds = Callable[[int, float, str], None]
"""Called with which request a verdict answers, its odds, and the thoughts before it, as each comes, in the first of the
processes that train."""


class Judge(Protocol):
    """Gives verdicts."""

    def odds(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds = unheard) -> list[float | None]:
        """For each request, which asks for A or B, the probability of A; None where the answer made no sense.

        `reasoned`: thoughts come first, as the request asks. `heard` hears each that makes sense. Raises
        TrainingFailed where it can't be asked at all.
        """


@dataclass(frozen=True)
class Manner:
    """How pairs are judged."""

    principles: int = 1  # verdicts on a pair that are averaged
    reasoned: bool = False
    failed_share: float = 0.2  # of the verdicts, from which on the judge is given up


def judge_pairs(
    judge: Judge,
    constitution: Constitution,
    principles: Sequence[Principle],
    pairs: Sequence[Two],
    manner: Manner,
    seed: int,
    tell: Tell = untold,
) -> list[Preference | None]:
    """A preference for each pair, under principles drawn for it by weight; None where no verdict on it came whole.

    `tell`: hears how many pairs were judged. Raises TrainingFailed where more than `failed_share` of all verdicts come
    to nothing, as soon as that is sure.
    """
    rng = Random(seed)
    asked = [(pair, principle) for pair in pairs for principle in draw(principles, manner.principles, rng)]
    each = min(manner.principles, len(principles))
    most = manner.failed_share * 2 * len(asked)
    found, failed = list[Preference | None](), 0
    if pairs:
        tell(0, len(pairs))
    for start in range(0, len(pairs), AT_ONCE):
        some = asked[start * each : (start + AT_ONCE) * each]
        odds, thoughts = _both_orders(judge, constitution, some, manner.reasoned)
        failed += sum(one is None for one in odds)
        if failed > most:
            raise TrainingFailed(
                f"The judge gave no verdict that can be read on {failed} of {2 * len(asked)} questions, above "
                f"constitution.judge_failed_share ({manner.failed_share:g}).",
                "See the run's log for what it answered; name another judge, or give it more time.",
            )
        found += [
            _over(some[place : place + each], odds[2 * place :], thoughts[2 * place :])
            for place in range(0, len(some), each)
        ]
        tell(len(found), len(pairs))
    return found


def missing_verdicts(found: Sequence[Preference | None], each: int) -> int:
    """How many of `each` verdicts on a pair came to nothing, where others on it came whole."""
    return sum(each - len(one.verdicts) for one in found if one is not None)


def _both_orders(
    judge: Judge, constitution: Constitution, asked: Sequence[tuple[Two, Principle]], reasoned: bool
) -> tuple[list[float | None], list[str]]:
    """For each pair and principle two odds, both that A is better: with A first, with B first; and the thoughts before
    each, in the process that hears them."""
    requests = [
        verdict_messages(constitution, principle, as_request(pair.conversation), first, second, reasoned)
        for pair, principle in asked
        for first, second in ((pair.a, pair.b), (pair.b, pair.a))
    ]
    thoughts = [""] * len(requests)

    def heard(place: int, odds: float, thought: str) -> None:
        thoughts[place] = thought[:MOST_THOUGHTS]

    odds = judge.odds(requests, reasoned, heard)
    if reasoned:
        odds = [None if one is None else min(max(one, LEAST_REASONED), MOST_REASONED) for one in odds]
    return [one if one is None or place % 2 == 0 else 1 - one for place, one in enumerate(odds)], thoughts


def _over(
    asked: Sequence[tuple[Two, Principle]], odds: Sequence[float | None], thoughts: Sequence[str]
) -> Preference | None:
    """The principles of one pair together. A verdict of which one order is missing says as much as its order, so it is
    left out whole."""
    verdicts = tuple(
        Verdict(principle.name, principle.weight, a_first, b_first, both)
        for (_, principle), a_first, b_first, both in zip(
            asked, odds[::2], odds[1::2], zip(thoughts[::2], thoughts[1::2], strict=True), strict=False
        )
        if a_first is not None and b_first is not None
    )
    if not verdicts:
        return None
    weight = sum(one.weight for one in verdicts)
    return Preference(sum(one.weight * one.a_is_better for one in verdicts) / weight, verdicts)


def position_bias(preferences: Sequence[Preference]) -> float | None:
    """How far the judge leans to whatever stands first: the mean odds of that, less ½; None for no verdicts."""
    leans = [verdict.for_the_first for one in preferences for verdict in one.verdicts]
    return fmean(leans) - 0.5 if leans else None


def won(a_is_better: float) -> float:
    """1 where A is preferred, 0 where B is, ½ for even odds: its mean over pairs is the share that A won."""
    if abs(a_is_better - 0.5) <= TIE:
        return 0.5
    return float(a_is_better > 0.5)


def share_of_a(preferences: Sequence[Preference]) -> float | None:
    """Of the pairs, those where A is preferred, an even one as a half; None for no pairs."""
    return fmean(won(one.a_is_better) for one in preferences) if preferences else None
