"""How often the candidate's replies are preferred to another model's, as a preference model grades them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from learner.batch import Pair, TokenIds
from learner.evaluate.answers import Answers
from learner.evaluate.intervals import Share, Z
from learner.methods.preference_model import PreferenceModel


def win_rates(
    judge: PreferenceModel | None,
    prompts: Sequence[TokenIds],
    candidate: Answers,
    parent: Answers,
    base: Answers,
    pairs: Sequence[Pair],
) -> dict[str, Any]:
    """Of the candidate against its parent and against the base, and how far to trust the judge; nothing without one."""
    if judge is None:
        return {}
    of_candidate, of_base = (_grades(judge, prompts, answers) for answers in (candidate, base))
    of_parent = of_base if parent is base else _grades(judge, prompts, parent)
    return {
        "share_won": share_won(of_candidate, of_parent),
        "share_won_base": share_won(of_candidate, of_base),
        "judge_accuracy": judge.accuracy(pairs),
    }


def _grades(judge: PreferenceModel, prompts: Sequence[TokenIds], answers: Answers) -> Tensor:
    """(P, K) grades."""
    examples = [(prompts[reply.prompt], reply.token_ids) for reply in answers.flat]
    return judge.score(examples).reshape(len(prompts), -1)


def share_won(ours: Tensor, theirs: Tensor) -> Share:
    """Every reply of ours against every one of theirs to the same prompt: (P, K) and (P, L) grades → share won.

    The interval treats the prompts, not the comparisons, as the independent draws.
    """
    differences = ours.unsqueeze(2) - theirs.unsqueeze(1)  # (P, K, L)
    wins, losses = (differences > 0).sum((1, 2)).double(), (differences < 0).sum((1, 2)).double()
    decided = wins + losses
    total = float(decided.sum())
    ties = differences.numel() - int(total)
    if total == 0:
        return Share(None, None, None, 0, ties)
    value = float(wins.sum()) / total
    used = int((decided > 0).sum())
    spread = float(((wins - value * decided) ** 2).sum()) ** 0.5 / total  # ratio estimator, clusters = prompts
    half = Z * max(spread, 0.5 / used / 4)
    return Share(value, max(0.0, value - half), min(1.0, value + half), int(total), ties)
