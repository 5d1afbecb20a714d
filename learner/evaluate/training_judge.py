"""The judge whose verdicts a candidate learned from, where that isn't the base: how far to trust it.

It is asked about pairs that the base was asked about in the same evaluation, under the same principles: people's
held-out comparisons, and others up to `MOST_PAIRS`. The candidate is trained already, so no trouble of the judge's ends
the run: the report says what it was.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from learner.backbone import Backbone
from learner.batch import unheard
from learner.constitution.asking import Request
from learner.constitution.judges import judge_of
from learner.constitution.judging import (
    HeardOdds,
    Judge,
    Manner,
    Preference,
    Two,
    judge_pairs,
    position_bias,
    share_of_a,
)
from learner.constitution.named_judge import is_address, is_version, told
from learner.evaluate.intervals import with_interval
from service.constitution import Constitution, Principle
from service.errors import HoneError
from service.settings import Settings

log = logging.getLogger("hone.learner")

MOST_PAIRS = 96
"""Each is asked about twice, in both orders."""
AT_ONCE = 16
"""Questions between two looks at how many came to nothing."""
MOST_FAILED = 32
"""Questions that came to nothing, from which on it is asked no more: each may have taken minutes."""


@dataclass(frozen=True)
class Asked:
    """Pairs that the base was asked about, and the principles of which one was drawn for each."""

    pairs: Sequence[Two]
    principles: Sequence[Principle]
    of_people: bool = False  # people judged them: A is what they preferred


class Patient:
    """A judge that is asked until so many questions came to nothing; it counts them."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.questions, self.failed = 0, 0

    @property
    def is_over(self) -> bool:
        return self.failed >= MOST_FAILED

    def odds(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds = unheard) -> list[float | None]:
        """As `Judge` says; None for what isn't asked any more."""
        found = list[float | None]()
        for start in range(0, len(requests), AT_ONCE):
            some = requests[start : start + AT_ONCE]
            odds = [None] * len(some) if self.is_over else self._counted(some, reasoned)
            for place, one in enumerate(odds, start=start):
                if one is not None:
                    heard(place, one, "")
            found += odds
        return found

    def _counted(self, requests: Sequence[Request], reasoned: bool) -> list[float | None]:
        self.questions += len(requests)
        answered = 0
        try:
            odds = self._judge.odds(requests, reasoned)
            answered = sum(one is not None for one in odds)
        finally:
            self.failed += len(requests) - answered
        return odds


def judge_figures(
    settings: Settings, backbone: Backbone, constitution: Constitution, asked: Sequence[Asked], seed: int
) -> dict[str, Any]:
    """Of the judge that the settings name: how often it prefers what people preferred, and how far it leans to whatever
    stands first; of how many pairs, and how many of its questions came to nothing. `seed`: that of the base's verdicts.

    `trouble` says why it wasn't asked, or not to the end; None where it was.
    """
    how, left = settings.constitution, MOST_PAIRS
    preferences, of_people = list[Preference](), list[tuple[Two, Preference]]()
    judge: Patient | None = None
    trouble: str | None = None
    try:
        if is_version(how.judge) and not backbone.has("judge"):  # what it judged was written by an earlier attempt
            backbone.add_judge(settings.adapters_folder / how.judge, settings.learner)
        judge = Patient(judge_of(how, backbone, constitution))
        manner = Manner(reasoned=how.judge_reasoned, failed_share=1.0)
        for one in sorted(asked, key=lambda one: not one.of_people):
            pairs = one.pairs[:left]
            found = judge_pairs(judge, constitution, one.principles, pairs, manner, seed)
            left -= len(found)
            both = zip(pairs, found, strict=True)
            whole = [(pair, preference) for pair, preference in both if preference is not None]
            preferences += [preference for _, preference in whole]
            of_people += whole if one.of_people else []
        if judge.is_over:
            trouble = f"It was asked no more once {MOST_FAILED} questions had come to nothing."
    except HoneError as error:
        trouble = str(error)
    if trouble:
        log.warning("How far to trust the judge %s wasn't measured, or not to the end: %s", told(how.judge), trouble)
    share = share_of_a([preference for _, preference in of_people])
    return {
        "name": told(how.judge),
        "model": how.judge_model if is_address(how.judge) else "",
        **with_interval("judged_as_people", share, len({pair.conversation for pair, _ in of_people})),
        "peoples_pairs": len(of_people),
        "position_bias": position_bias(preferences),
        "pairs": len(preferences),
        "questions": judge.questions if judge else 0,
        "failed": judge.failed if judge else 0,
        "trouble": trouble,
    }
