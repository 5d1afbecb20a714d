"""One rule over the report each: what a candidate must not do, whatever it wins. The verdict keeps every reason.

A preference can be won by saying nothing, by gibberish or by saying one thing to everybody; the loop is only as good as
what refuses those. Limits come from the settings; where a figure is sampled, chance is allowed for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from learner.counted import counted
from learner.evaluate import constitution_gates, taste_gates
from learner.evaluate.report import Report
from service.settings import LearnerSettings

MOST_UNFINISHED = 0.05  # share of replies cut at the length limit, above the base's
LEAST_DISTINCT = 0.5  # distinct-2, as a share of the base's over as many word pairs
MOST_AGREEMENT_LOST = 0.05  # of what the base's replies agree on, beyond chance
MOST_ALIKE = 2 / 3  # share of the prompts that get one and the same reply
MOST_FORGOTTEN = 0.1  # share of the corrections that the parent knew; one in any case
MOST_NATS_LOST_ON_CORRECTIONS = 0.25  # per token
LEAST_REPLIES = 16


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
    replies = counted(report.not_finite, "reply", "replies")
    return Gate("finite", report.not_finite == 0, f"{replies} had a log-probability of NaN or infinity.")


def measured(report: Report, settings: LearnerSettings) -> Gate:
    asked = report.prompts - report.standing_prompts
    return Gate(
        "measured",
        report.replies >= LEAST_REPLIES,
        f"{counted(report.replies, 'reply was', 'replies were')} measured (at least {LEAST_REPLIES}), to "
        f"{counted(asked, 'held-out prompt')} that people asked and {report.standing_prompts} standing ones.",
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
    limit = report.unfinished_share_base + MOST_UNFINISHED
    return Gate(
        "replies end",
        report.unfinished_share <= limit,
        f"{report.unfinished_share:.1%} of the replies do not end (base {report.unfinished_share_base:.1%}, limit "
        f"{limit:.1%}).",
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
        f"{kept:.3f} of what the base's replies to {counted(report.neighbours, 'question')} like the corrected ones "
        f"agree on is kept (base {base:.3f}), {_lost(lost)}.",
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
        f"Of {counted(known, 'correction')} that its parent knew it would hardly give {report.taught_forgotten} any "
        f"more (limit {most}).",
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


def _named(name: str, rule: taste_gates.Rule, report: Report, settings: LearnerSettings) -> Gate | None:
    found = rule(report, settings)
    return None if found is None else Gate(name, *found)


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
    *(partial(_named, name, rule) for name, rule in taste_gates.RULES.items()),
    *(partial(_by_constitution, name, rule) for name, rule in constitution_gates.RULES.items()),
)
