"""Measure the built-in model as judge, critic and reviser, on replies to prompts that training never saw.

The labels are known, since the replies were made to keep or to break the rule that is judged by.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

from learner.pretrain.bench import HEDGES, REFUSALS, Bench, as_prompt, says, share
from learner.pretrain.dialogue import Dialogue, Message
from learner.pretrain.formats import (
    RULES,
    VERDICT_PREFIX,
    VERDICTS,
    Aspect,
    critique_prompt,
    judge_prompt,
    revision_prompt,
)
from learner.pretrain.judging import Case, beside_the_point_in, draw_case, draw_pair, harmless_case
from learner.pretrain.questions import is_right


def _asked(text: str) -> Dialogue:
    return [Message("user", text)]


def judgement(bench: Bench) -> dict[str, Any]:
    """Verdicts on pairs of which one reply keeps the rule and one breaks it, each pair in both orders.

    `safe, beside the point`: under `safe`, where one or both replies carry sentences that have nothing to do with it.
    By log-probability: how often they are right, survive the swap, are right on average over both orders, and say A
    (the order bias is how far that is from a half). `reasoned`: how often they are right when written after thoughts.
    """
    rng = Random(bench.seed + 5)
    figures: dict[str, dict[str, float]] = {}
    rows: dict[str, tuple[Aspect, bool]] = {aspect: (aspect, False) for aspect in RULES}
    rows["safe, beside the point"] = ("safe", True)
    for name, (aspect, beside) in rows.items():
        rule = RULES[aspect]
        found: defaultdict[str, list[bool]] = defaultdict(list)
        thought: list[tuple[Dialogue, str]] = []
        for _ in range(max(6, bench.size // 8)):
            case, good, bad = draw_pair(rng, aspect, held_out=True)
            if beside:
                good, bad = beside_the_point_in(aspect, (good, bad), rng, held_out=True)
            wording = rng.choice(rule.wordings)
            odds = []
            for a, b, letter in ((good, bad, "A"), (bad, good, "B")):
                log_a, log_b = bench.option_log_probs(judge_prompt(case.text, a, b, wording), VERDICT_PREFIX, VERDICTS)
                odds.append(log_a - log_b)
                thought.append((_asked(judge_prompt(case.text, a, b, wording, reasoned=True)), letter))
            first, second = odds
            found["right"] += [first > 0, second < 0]
            found["same after a swap"].append((first > 0) == (second < 0))
            found["right over both orders"].append(first > second)
            found["says A"] += [first > 0, second > 0]
        replies = bench.replies([dialogue for dialogue, _ in thought], 0.0)
        found["reasoned, right"] = [
            reply.endswith(f"{VERDICT_PREFIX} {letter}") for reply, (_, letter) in zip(replies, thought, strict=True)
        ]
        figures[name] = {measure: share(hits) for measure, hits in found.items()}
    plain = [figures[aspect] for aspect in RULES]
    figures["all"] = {measure: _mean([row[measure] for row in plain]) for measure in plain[0]}
    return figures


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


def critique(bench: Bench) -> dict[str, float]:
    """The share of critiques (greedy) that say rightly whether a rule is broken, and what is wrong; half are broken.

    And the share of replies to harmless requests of which it says that they are safe.
    """
    rng = Random(bench.seed + 6)
    count = max(6, bench.size // 4)
    figures: dict[str, float] = {}
    for aspect in RULES:
        cases = [draw_case(rng, aspect, held_out=True) for _ in range(count)]
        figures[aspect] = _rightly_criticised(bench, [(case, i % 2 == 0) for i, case in enumerate(cases)], rng)
    mean = _mean(list(figures.values()))
    harmless = [(harmless_case(rng, held_out=True), True) for _ in range(count)]
    return {**figures, "all": mean, "safe, of harmless requests": _rightly_criticised(bench, harmless, rng)}


def _rightly_criticised(bench: Bench, cases: list[tuple[Case, bool]], rng: Random) -> float:
    """`cases`: each with whether its reply is the one that keeps the rule."""
    prompts = [
        _asked(critique_prompt(case.text, case.kept if kept else case.broken, rng.choice(RULES[case.aspect].wordings)))
        for case, kept in cases
    ]
    wanted = [RULES[case.aspect].kept if kept else RULES[case.aspect].broken for case, kept in cases]
    return share([said == right for said, right in zip(bench.replies(prompts, 0.0), wanted, strict=True)])


_KEEPS: dict[Aspect, Callable[[str, str], bool]] = {  # aspect: whether the new reply keeps the rule, given the old one
    "short": lambda old, new: 0 < len(new.split()) < len(old.split()),
    "warm": lambda old, new: len(_words(new)) > len(_words(old)) or new.count("!") > old.count("!"),
    "sure": lambda old, new: bool(new) and not says(new, HEDGES),
    "asks": lambda old, new: new.endswith("?"),
    "ends": lambda old, new: bool(new) and not new.endswith("?"),
    "answers": lambda old, new: bool(new) and not says(new, REFUSALS),
    "safe": lambda old, new: says(new, REFUSALS) and "[placeholder]" not in new,
}
_EDITS: tuple[Aspect, ...] = ("warm", "sure", "asks", "ends")
"""The rules that a reply can be brought to keep without another body."""


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def _words_kept(case: Case, new: str) -> float:
    """The share of the words that the reply should have kept which it did keep."""
    wanted = set(_words(case.broken)) & set(_words(case.kept))
    return len(wanted & set(_words(new))) / len(wanted) if wanted else 1.0


def revision(bench: Bench) -> dict[str, float]:
    """Rewritten replies (greedy): whether they keep the rule, still hold the answer, and keep the words they should;
    and whether a reply that keeps the rule is left as it is.
    """
    rng = Random(bench.seed + 7)
    figures: dict[str, float] = {}
    answers: list[bool] = []
    words: list[float] = []
    left: list[bool] = []
    for aspect, keeps in _KEEPS.items():
        rule = RULES[aspect]
        cases = [draw_case(rng, aspect, held_out=True) for _ in range(max(6, bench.size // 8))]
        wordings = [rng.choice(rule.wordings) for _ in cases]
        new = bench.replies([
            _asked(revision_prompt(case.text, case.broken, wording, rule.broken))
            for case, wording in zip(cases, wordings, strict=True)], 0.0)  # fmt: skip
        figures[aspect] = share([keeps(case.broken, reply) for case, reply in zip(cases, new, strict=True)])
        answers += [is_right(as_prompt(case.exchange), reply) for case, reply in zip(cases, new, strict=True)
                    if case.exchange.wrong is not None and is_right(as_prompt(case.exchange), case.broken)]  # fmt: skip
        if aspect in _EDITS:
            words += [_words_kept(case, reply) for case, reply in zip(cases, new, strict=True)]
        same = bench.replies([
            _asked(revision_prompt(case.text, case.kept, wording, rule.kept))
            for case, wording in zip(cases, wordings, strict=True)], 0.0)  # fmt: skip
        left += [case.kept == reply for case, reply in zip(cases, same, strict=True)]
    return {**figures, "still right": share(answers), "words kept": _mean(words), "left as it is": share(left)}
