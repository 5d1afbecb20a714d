"""One rule over the report each: what a candidate must not do, whatever it wins. The verdict keeps every reason.

A preference can be won by saying nothing, by gibberish or by saying one thing to everybody; the loop is only as good as
what refuses those. Limits come from the settings; where a figure is sampled, chance is allowed for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from learner.evaluate import constitution_gates
from learner.evaluate.intervals import wilson
from learner.evaluate.report import Report
from service.settings import LearnerSettings

MOST_UNFINISHED = 0.05  # share of replies cut at the length limit, above the base's
LEAST_DISTINCT = 0.5  # distinct-2, as a share of the base's over as many word pairs
MOST_AGREEMENT_LOST = 0.05  # of what the base's replies agree on, beyond chance
MOST_ALIKE = 2 / 3  # share of the prompts that get one and the same reply
MOST_FORGOTTEN = 0.1  # share of the corrections that the parent knew; one in any case
MOST_NATS_LOST_ON_CORRECTIONS = 0.25  # per token
LEAST_REPLIES, LEAST_JUDGED_PROMPTS = 16, 6


@dataclass(frozen=True)
class Gate:
    """The outcome of one rule. `reason` says in plain words what was measured and what the limit is."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it did not pass; empty when it did."""
        return tuple(gate.reason for gate in self.gates if not gate.passed)


Rule = Callable[[Report, LearnerSettings], Gate | None]
"""None: the report has nothing that this rule could judge."""


def verdict(report: Report, settings: LearnerSettings) -> Verdict:
    """Hold the report against every rule."""
    return Verdict(tuple(gate for rule in RULES if (gate := rule(report, settings)) is not None))


def finite(report: Report, settings: LearnerSettings) -> Gate:
    return Gate(
        "finite", report.not_finite == 0, f"{report.not_finite} replies had a log-probability of NaN or infinity."
    )


def measured(report: Report, settings: LearnerSettings) -> Gate:
    asked = report.prompts - report.standing_prompts
    return Gate(
        "measured",
        report.replies >= LEAST_REPLIES,
        f"{report.replies} replies were measured (at least {LEAST_REPLIES}), to {asked} held-out prompts that people "
        f"asked and {report.standing_prompts} standing ones.",
    )


def no_empty_replies(report: Report, settings: LearnerSettings) -> Gate:
    passed = report.empty_share <= settings.max_empty_share
    return Gate(
        "no empty replies",
        passed,
        f"{report.empty_share:.1%} of the replies are empty (limit {settings.max_empty_share:.1%}).",
    )


def fluent(report: Report, settings: LearnerSettings) -> Gate:
    passed = report.fluency >= settings.min_fluency
    return Gate("fluent", passed, f"Fluency is {report.fluency:+.3f} nats a token (limit {settings.min_fluency:+.3f}).")


def near_the_anchor(report: Report, settings: LearnerSettings) -> Gate:
    passed = report.kl_per_token <= settings.max_kl_per_token
    return Gate(
        "near the anchor",
        passed,
        f"KL to the anchor is {report.kl_per_token:.3f} nats a token (limit {settings.max_kl_per_token:.3f}).",
    )


def ends(report: Report, settings: LearnerSettings) -> Gate:
    passed = report.unfinished_share <= report.unfinished_share_base + MOST_UNFINISHED
    return Gate(
        "replies end",
        passed,
        f"{report.unfinished_share:.1%} of the replies do not end (base {report.unfinished_share_base:.1%}).",
    )


def varied(report: Report, settings: LearnerSettings) -> Gate:
    limit, most = LEAST_DISTINCT * report.distinct_2_base, max(MOST_ALIKE, report.commonest_share_base)
    return Gate(
        "varied",
        report.distinct_2 >= limit and report.commonest_share <= most,
        f"Distinct-2 is {report.distinct_2:.3f} (limit {limit:.3f}, half of the base's), and the commonest reply is "
        f"that to {report.commonest_share:.0%} of the prompts (limit {most:.0%}).",
    )


def keeps_its_answers(report: Report, settings: LearnerSettings) -> Gate | None:
    """Refused when the loss is more than the limit and more than chance."""
    if report.agreement is None or report.agreement_base is None or report.agreement_lost_low is None:
        return None
    return Gate(
        "keeps its answers",
        report.agreement_lost_low <= MOST_AGREEMENT_LOST,
        f"{report.agreement:.3f} of what the base's replies agree on is kept "
        f"(base {report.agreement_base:.3f}), {_lost(report.agreement_lost_low)}.",
    )


def spares_neighbours(report: Report, settings: LearnerSettings) -> Gate | None:
    """A correction that spreads to the questions like it is refused, as above."""
    kept, base, lost = (
        report.neighbours_agreement, report.neighbours_agreement_base, report.neighbours_agreement_lost_low
    )  # fmt: skip
    if kept is None or base is None or lost is None:
        return None
    return Gate(
        "spares other answers of their kind",
        lost <= MOST_AGREEMENT_LOST,
        f"{kept:.3f} of what the base's replies to {report.neighbours} questions like the corrected ones agree on is "
        f"kept (base {base:.3f}), {_lost(lost)}.",
    )


def _lost(at_least: float) -> str:
    found = f"at least {at_least:.3f} lost" if at_least > 0 else "no loss is proven"
    return f"{found} (limit {MOST_AGREEMENT_LOST:.3f})"


def learns_corrections(report: Report, settings: LearnerSettings) -> Gate | None:
    """What people wrote for it to learn, and its parent didn't know, must become likelier."""
    now, before = report.taught_new_log_prob, report.taught_new_log_prob_before
    if now is None or before is None:
        return None
    return Gate(
        "learns its corrections",
        now > before,
        f"Corrections that are new to it: {report.taught_new}, of log-probability {now:.2f} (limit {before:.2f}); "
        f"of all {report.taught} it would give {report.taught_known}.",
    )


def forgets_no_corrections(report: Report, settings: LearnerSettings) -> Gate | None:
    """By the count: what some gain must not pay for what others lose."""
    known = report.taught - report.taught_new
    if known == 0:
        return None
    most = max(1, int(MOST_FORGOTTEN * known))
    return Gate(
        "forgets no corrections",
        report.taught_forgotten <= most,
        f"Of {known} corrections that its parent knew it would hardly give {report.taught_forgotten} any more "
        f"(limit {most}).",
    )


def keeps_corrections(report: Report, settings: LearnerSettings) -> Gate | None:
    """Held against the parent, and against the base too: what every run loses a little of is lost after many."""
    before, base = report.correction_log_prob_before, report.correction_log_prob_base
    if report.correction_log_prob is None or before is None or base is None:
        return None
    limit = max(before, base) - MOST_NATS_LOST_ON_CORRECTIONS
    return Gate(
        "keeps corrections",
        report.correction_log_prob >= limit,
        f"Held-out corrections have log-probability {report.correction_log_prob:.2f} a token (limit {limit:.2f}).",
    )


def agrees_with_people(report: Report, settings: LearnerSettings) -> Gate | None:
    """Refused when it moved against the held-out judgements themselves, beyond chance."""
    return _better_than_chance("agrees with people", report, report.pair_accuracy, "It moved towards")


def agrees_with_thumbs(report: Report, settings: LearnerSettings) -> Gate | None:
    """The same of single thumbs; the prompts of the rarer kind are the draws."""
    share, draws = report.label_accuracy, report.label_prompts
    if share is None or draws < LEAST_JUDGED_PROMPTS:
        return None
    high = wilson(share * draws, draws)[1]
    return Gate(
        "agrees with thumbs",
        high >= 0.5,
        f"Of {report.labels} held-out replies, a good one gained more than a bad one in {share:.1%} of the cases, at "
        f"most {high:.1%} (limit 50.0%).",
    )


def agrees_with_scores(report: Report, settings: LearnerSettings) -> Gate | None:
    """The same of single scores. Too few to tell refuse nothing, and are told of."""
    name, share = "agrees with scores", report.score_accuracy
    if share is None:
        return None
    if share.value is None or share.high is None or share.decided < LEAST_JUDGED_PROMPTS:
        found = f"{report.scores} held-out scores, which make {share.decided} pairs of prompts scored differently"
        return Gate(name, True, f"Not judged by scores: there are {found} (at least {LEAST_JUDGED_PROMPTS}).")
    before = "" if report.score_accuracy_parent is None else f"; its parent: {report.score_accuracy_parent:.1%}"
    return Gate(
        name,
        share.high >= 0.5,
        f"Of {report.scores} held-out scored replies, the better of two gained more in {share.value:.1%} of the cases, "
        f"at most {share.high:.1%} (limit 50.0%){before}.",
    )


def judged_as_people_do(report: Report, settings: LearnerSettings) -> Gate | None:
    """What it was trained towards is the preference model's word: people must not contradict it."""
    if report.pair_accuracy is None:
        return None  # it wasn't: corrections need no such model
    what = "The preference model that grades it picks"
    return _better_than_chance("judged as people do", report, report.judge_accuracy, what)


def _better_than_chance(name: str, report: Report, share: float | None, what: str) -> Gate | None:
    """Refused when even the upper end of the share's 95 % interval, with prompts as the draws, is below a half."""
    high = _highest(report, share)
    if share is None or high is None:
        return None
    told = f"{report.pairs} held-out pairs to {report.pair_prompts} prompts"
    reason = f"{what} the better reply in {share:.1%} of {told}, at most {high:.1%}"
    return Gate(name, high >= 0.5, f"{reason} (limit 50.0%).")


def _highest(report: Report, share: float | None) -> float | None:
    """The upper end of its interval; None where too few prompts were judged to tell."""
    if share is None or report.pair_prompts < LEAST_JUDGED_PROMPTS:
        return None
    return wilson(share * report.pair_prompts, report.pair_prompts)[1]


def no_worse_than_parent(report: Report, settings: LearnerSettings) -> Gate | None:
    """Refused when the interval lies below the limit: a candidate need not prove that it is better.

    Graded by the preference model: by one that people contradict, nothing is proven either way.
    """
    share, judge = report.share_won, _highest(report, report.judge_accuracy)
    if share is None or share.value is None or share.high is None or (judge is not None and judge < 0.5):
        return None
    return Gate(
        "no worse than its parent",
        share.high >= settings.min_share_won,
        f"It wins {share.value:.1%} of held-out comparisons against its parent, at most {share.high:.1%} "
        f"(limit {settings.min_share_won:.1%}).",
    )


def _by_constitution(
    name: str, rule: constitution_gates.Rule, report: Report, settings: LearnerSettings
) -> Gate | None:
    found = rule(report.constitution or {})
    return None if found is None else Gate(name, *found)


RULES: tuple[Rule, ...] = (
    finite,
    measured,
    no_empty_replies,
    fluent,
    near_the_anchor,
    ends,
    varied,
    keeps_its_answers,
    spares_neighbours,
    learns_corrections,
    forgets_no_corrections,
    keeps_corrections,
    agrees_with_people,
    agrees_with_thumbs,
    agrees_with_scores,
    judged_as_people_do,
    no_worse_than_parent,
    *(partial(_by_constitution, name, rule) for name, rule in constitution_gates.RULES.items()),
)
