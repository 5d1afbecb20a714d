"""The rules over what people prefer: by the judgements of theirs that were held out, and by the preference model that
was fitted to the others.

Every one allows for chance: it refuses what the 95 % interval rules out, with prompts as the draws. The preference
model may have been fitted to a handful of pairs. What was trained towards it (a run of comparisons, or the run before
one of corrections) has to win by it all the same, unless people contradict it: else the training went wrong. What the
constitution made was not: the model refuses that only where it is proven better than chance on held-out pairs.
"""

from __future__ import annotations

from collections.abc import Callable

from learner.counted import counted
from learner.evaluate.intervals import wilson
from learner.evaluate.report import Report
from service.settings import LearnerSettings

LEAST_JUDGED_PROMPTS = 6
"""Different prompts among what was held out, from which on it can refuse anything."""

Rule = Callable[[Report, LearnerSettings], tuple[bool, str] | None]
"""From a report to whether it passed and why; None where the report says nothing of it."""


def agrees_with_people(report: Report, settings: LearnerSettings) -> tuple[bool, str] | None:
    """Refused when it moved against the held-out judgements themselves, beyond chance."""
    return _better_than_chance(report, report.pair_accuracy, "It moved towards")


def agrees_with_thumbs(report: Report, settings: LearnerSettings) -> tuple[bool, str] | None:
    """The same of single thumbs; the prompts of the rarer kind are the draws."""
    share, draws = report.label_accuracy, report.label_prompts
    if share is None or draws < LEAST_JUDGED_PROMPTS:
        return None
    high = wilson(share * draws, draws)[1]
    return high >= 0.5, (
        f"Of {report.labels} held-out replies, a good one gained more than a bad one in {share:.1%} of the cases; "
        f"allowing for chance at most {high:.1%} (limit 50.0%)."
    )


def agrees_with_scores(report: Report, settings: LearnerSettings) -> tuple[bool, str] | None:
    """The same of single scores. Too few to tell refuse nothing, and are told of."""
    share = report.score_accuracy
    if share is None:
        return None
    if share.value is None or share.high is None or share.decided < LEAST_JUDGED_PROMPTS:
        found = counted(report.scores or 0, "held-out score makes", "held-out scores make")
        pairs = f"{counted(share.decided, 'pair')} of prompts scored differently"
        return True, f"Not judged by scores: {found} {pairs} (at least {LEAST_JUDGED_PROMPTS})."
    before = "" if report.score_accuracy_parent is None else f"; its parent: {report.score_accuracy_parent:.1%}"
    return share.high >= 0.5, (
        f"Of {report.scores} held-out scored replies, the better of two gained more in {share.value:.1%} of the cases; "
        f"allowing for chance at most {share.high:.1%} (limit 50.0%){before}."
    )


def judged_as_people_do(report: Report, settings: LearnerSettings) -> tuple[bool, str] | None:
    """What it was trained towards is the preference model's word: people must not contradict it."""
    if report.pair_accuracy is None or _is_of_constitution(report):
        return None  # it wasn't: corrections and principles need no such model
    return _better_than_chance(report, report.judge_accuracy, "The preference model that grades it picks")


def no_worse_than_parent(report: Report, settings: LearnerSettings) -> tuple[bool, str] | None:
    """Refused when the interval lies below the limit: a candidate need not prove that it is better.

    Graded by the preference model: by one that people contradict, nothing is proven either way.
    """
    share, judge = report.share_won, _interval(report, report.judge_accuracy)
    if share is None or share.value is None or share.high is None:
        return None
    if _is_of_constitution(report):
        if judge is None or judge[0] <= 0.5:
            return True, _unproven(report)
    elif judge is not None and judge[1] < 0.5:
        return None
    return share.high >= settings.min_share_won, (
        f"It wins {share.value:.1%} of held-out comparisons against its parent; allowing for chance at most "
        f"{share.high:.1%} (limit {settings.min_share_won:.1%})."
    )


def _is_of_constitution(report: Report) -> bool:
    return bool((report.constitution or {}).get("trained_by_it"))


def _unproven(report: Report) -> str:
    share = "" if report.judge_accuracy is None else f", and picks the better reply in {report.judge_accuracy:.1%}"
    return (
        f"Not judged by people's comparisons: the preference model has {counted(report.pairs, 'held-out pair')} "
        f"to {counted(report.pair_prompts, 'prompt')} to prove itself by (at least {LEAST_JUDGED_PROMPTS}){share}; "
        "that isn't proven better than chance."
    )


def _better_than_chance(report: Report, share: float | None, what: str) -> tuple[bool, str] | None:
    """Refused when even the upper end of the share's interval is below a half."""
    interval = _interval(report, share)
    if share is None or interval is None:
        return None
    told = f"{report.pairs} held-out pairs to {report.pair_prompts} prompts"
    reason = f"{what} the better reply in {share:.1%} of {told}; allowing for chance at most {interval[1]:.1%}"
    return interval[1] >= 0.5, f"{reason} (limit 50.0%)."


def _interval(report: Report, share: float | None) -> tuple[float, float] | None:
    """Of a share of the held-out pairs; None where too few prompts were judged to tell."""
    if share is None or report.pair_prompts < LEAST_JUDGED_PROMPTS:
        return None
    return wilson(share * report.pair_prompts, report.pair_prompts)


RULES: dict[str, Rule] = {
    "agrees with people": agrees_with_people,
    "agrees with thumbs": agrees_with_thumbs,
    "agrees with scores": agrees_with_scores,
    "judged as people do": judged_as_people_do,
    "no worse than its parent": no_worse_than_parent,
}
