"""A candidate's report as an operator reads it: each figure with a name, a number worth reading, and what it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ui.numbers import as_number, between, percent, plain, signed


class Known(NamedTuple):
    """`base` names the report's figure of the bare base model, to be read beside."""

    label: str
    form: Callable[[float], str]
    meaning: str
    base: str = ""


KNOWN: dict[str, Known] = {
    "share_won": Known(
        "Preferred to its parent", percent, "How often its replies beat those of the adapter it started from"
    ),
    "share_won_base": Known("Preferred to the base", percent, "How often its replies beat those of the bare model"),
    "judge_accuracy": Known(
        "Judge is right", percent, "How often the judge of these comparisons agrees with people, on kept-back pairs"
    ),
    "pair_accuracy": Known(
        "Agrees with people", percent, "Kept-back pairs whose preferred reply gained more likelihood than the other"
    ),
    "label_accuracy": Known(
        "Agrees with thumbs", percent, "How often a kept-back good reply gained more likelihood than a bad one"
    ),
    "score_accuracy": Known(
        "Agrees with scores", percent, "Of two kept-back replies, how often that of the higher score gained more"
    ),
    "score_accuracy_parent": Known(
        "Its parent does", percent, "The same of the adapter that it started from, measured on the same scores"
    ),
    "fluency": Known(
        "Fluency", signed, "How natural the base finds its replies: 0 is as natural as the base's own, less is odder"
    ),
    "kl_per_token": Known(
        "Moved from the anchor",
        plain,
        "How far its wording is from the anchor's: 0 is not at all (KL, nats per token)",
    ),
    "empty_share": Known("Empty replies", percent, "Replies that hold nothing"),
    "unfinished_share": Known(
        "Endless replies", percent, "Replies cut at the length limit, before they ended", "unfinished_share_base"
    ),
    "mean_length": Known("Length", plain, "Words in a reply, on average", "mean_length_base"),
    "distinct_2": Known(
        "Variety", plain, "Pairs of words that don't repeat: 1 is no repetition (distinct-2)", "distinct_2_base"
    ),
    "commonest_share": Known(
        "Commonest reply", percent, "Prompts that get one and the same reply", "commonest_share_base"
    ),
    "agreement": Known(
        "Keeps its answers", plain, "How much of what the base's replies agree on it says too", "agreement_base"
    ),
    "agreement_lost_low": Known(
        "Answers lost, at least", signed, "How much less of that than the base itself; below 0, none is proven lost"
    ),
    "neighbours_agreement": Known(
        "Keeps others like the corrected",
        plain,
        "The same for questions like those that were corrected, which it was not trained on",
        "neighbours_agreement_base",
    ),
    "neighbours_agreement_lost_low": Known(
        "Of those lost, at least", signed, "How much less of that than the base itself; below 0, none is proven lost"
    ),
    "neighbours": Known(
        "Questions like the corrected", plain, "Asked to see whether a correction spread; 0 without one"
    ),
    "correction_log_prob": Known(
        "Knows corrections",
        plain,
        "Log-probability of kept-back corrections: nearer to 0 is better",
    ),
    "correction_log_prob_before": Known("Knew them before", plain, "The same of the adapter that it started from"),
    "taught_new_log_prob": Known(
        "Learned its corrections", plain, "Log-probability of those that were new to it: nearer to 0 is better"
    ),
    "taught_new_log_prob_before": Known("Knew those before", plain, "The same of the adapter that it started from"),
    "taught": Known("Corrections taught", plain, "Written by people for it to learn"),
    "taught_known": Known("Of these it would give", plain, "Those that are likelier than everything else"),
    "taught_new": Known("Of these new to it", plain, "Its parent would not have given them"),
    "taught_forgotten": Known("Corrections forgotten", plain, "Its parent would have given them, it hardly would"),
    "prompts": Known("Prompts asked", plain, "Kept back from training, so that it has not learned them"),
    "standing_prompts": Known("Of these standing ones", plain, "Asked by nobody: they fill up where people asked few"),
    "replies": Known("Replies measured", plain, "What the figures above are about"),
    "pairs": Known("Pairs kept back", plain, "Judged by people and not trained on"),
    "labels": Known("Thumbs kept back", plain, "Replies called good or bad by themselves, and not trained on"),
    "scores": Known("Scores kept back", plain, "Replies that were scored by themselves, and not trained on"),
    "corrections": Known("Corrections kept back", plain, "Written by people and not trained on"),
    "not_finite": Known("Broken numbers", plain, "Replies whose probability could not be computed: must be 0"),
    "seconds": Known("Duration", lambda seconds: f"{round(seconds):,} s", "Computing, without what was waited for"),
}
IN_TRAINING: dict[str, Known] = {
    "odds_gained": Known("Better replies gained", signed, "On worse ones, in the pairs it learned from: nats of odds"),
    "good_gain": Known("Good replies gained", signed, "Those it learned from, over the anchor: nats of odds"),
    "bad_gain": Known("Bad replies gained", signed, "The same of those called bad: it should be below 0"),
    "reward_gained": Known(
        "Reward gained", signed, "From the first replies sampled to the last, in standard deviations of the base's"
    ),
    "reward_accuracy": Known(
        "Reward is right", percent, "How often the reward model prefers what people did, on pairs it didn't learn from"
    ),
    "reward_label_accuracy": Known("Reward is right on thumbs", percent, "The same of replies called good or bad"),
    "reward_disagreement": Known(
        "Reward is unsure by", plain, "How far its heads disagree about the last replies sampled: nats of odds"
    ),
    "reward_temperature": Known(
        "Reward was divided by", plain, "So that it is the odds of being preferred; 1: too few judgements to tell"
    ),
}
"""Of what the stages of a training came to, those that say something to an operator."""
KNOWN |= IN_TRAINING
BY_JUDGE = ("share_won", "share_won_base")
UNCHECKED = "Take it with care: no judgement of people was kept back to check the judge by"
BESIDE = {known.base for known in KNOWN.values()}
NO_FIGURE = {"attempt", "pair_prompts", "label_prompts", "correction_log_prob_base"}


def figures(report: dict[str, Any]) -> list[dict[str, str]]:
    """The report's numbers, those that are known here first; texts, samples and the gates are left to others."""
    report = _in_training(report) | report
    found = {name: value for name, value in report.items() if as_number(value) is not None and name not in NO_FIGURE}
    ordered = [name for name in KNOWN if name in found]
    ordered += [name for name in found if name not in KNOWN and name not in BESIDE]
    return [_figure(name, report) for name in ordered]


def _in_training(report: dict[str, Any]) -> dict[str, Any]:
    """What the stages came to in the end; of two that measured the same, the later one."""
    training = report.get("training")
    stages = training.get("stages") if isinstance(training, dict) else None
    measured = [one for one in stages.values() if isinstance(one, dict)] if isinstance(stages, dict) else []
    return {name: stage[name] for stage in measured for name in IN_TRAINING if name in stage}


def _figure(name: str, report: dict[str, Any]) -> dict[str, str]:
    known = KNOWN.get(name) or Known(name.replace("_", " ").capitalize(), plain, "")
    value, base = report[name], as_number(report.get(known.base))
    is_unchecked = name in BY_JUDGE and not report.get("pairs")
    return {
        "name": name,
        "label": known.label,
        "value": known.form(as_number(value) or 0),
        "interval": _interval(value, known.form),
        "base": "" if base is None else known.form(base),
        "meaning": f"{known.meaning}. {UNCHECKED}" if is_unchecked else known.meaning,
    }


def _interval(value: Any, form: Callable[[float], str]) -> str:
    """A share comes with its 95 % interval: `{"value", "low", "high", …}`."""
    if not isinstance(value, dict):
        return ""
    return between(as_number(value.get("low")), as_number(value.get("high")), form)


GATES = {
    "finite": ("Sound numbers", "A model that was damaged in training computes none."),
    "measured": ("Measured enough", "Too few replies prove nothing."),
    "no empty replies": ("Says something", "A reply must not be empty."),
    "fluent": ("Reads naturally", "By the base's ear: 0 is as natural as the base itself, less is odder."),
    "near the anchor": ("Still itself", "How far its wording is from the model it is held to; 0 is not at all."),
    "replies end": ("Comes to an end", "Replies must not run on until they are cut."),
    "varied": ("Not repetitive", "Word pairs that don't repeat, and no one reply to most prompts."),
    "keeps its answers": ("Keeps its answers", "What the base's replies agree on is to stay."),
    "spares other answers of their kind": (
        "Corrections stay where they are",
        "A corrected answer must not spread to the questions that are like it.",
    ),
    "learns its corrections": ("Learned its corrections", "Those that it was taught must have become likelier."),
    "forgets no corrections": ("Remembers corrections", "Those that its parent knew are still known."),
    "keeps corrections": ("Knows corrections", "Those that it was not shown; nearer to 0 is better."),
    "agrees with people": ("Agrees with people", "On judgements that were kept back, all but chance."),
    "agrees with thumbs": ("Agrees with thumbs", "On replies kept back that were called good or bad, all but chance."),
    "agrees with scores": ("Agrees with scores", "On scores that were kept back, all but chance."),
    "judged as people do": ("Its judge agrees with people", "A share won proves nothing by a judge that doesn't."),
    "no worse than its parent": ("No worse than before", "Against its parent, by a judge that learned from people."),
    "does no more harm": ("Does no more harm", "To red-team prompts, by the constitution's critique, all but chance."),
    "refuses no more help": ("Refuses no more", "Harmless prompts that look harmful are to be answered as before."),
    "stays helpful": ("Stays helpful", "On harmless prompts, against its parent, by the constitution's judge."),
}
"""What each rule is called on the page, and what it is for."""


def gates(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The gate's rules: which passed, which did not, and why."""
    return [_gate(gate) for gate in report.get("gates") or () if isinstance(gate, dict)]


def _gate(gate: dict[str, Any]) -> dict[str, Any]:
    name = str(gate.get("name", ""))
    label, meaning = GATES.get(name, (name, ""))
    return {
        "name": name,
        "label": label,
        "meaning": meaning,
        "passed": bool(gate.get("passed")),
        "reason": str(gate.get("reason", "")),
    }
