"""What kinds of examples there are, and what is to be said where a method learns nothing from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from learner.batch import Snapshot
from learner.counted import counted
from learner.text_examples import TextExample
from learner.trainer import LEAST_THUMBS

PAIRS = "pairs with a better reply (`chosen`, `rejected`), rankings (`order`)"
WANTED = {
    "sft": "corrections, which are prompts with the reply that they should have had (`reply`)",
    "dpo": PAIRS,
    "kto": f"replies called good and others called bad (`reply`, `good`), {PAIRS}",
    "auto": f"corrections (`reply`), {PAIRS}, {LEAST_THUMBS} good and {LEAST_THUMBS} bad replies (`reply`, `good`)",
}
BY_REWARD = (
    f"{PAIRS}, {LEAST_THUMBS} good and {LEAST_THUMBS} bad replies (`reply`, `good`), replies with scores (`reply`, "
    "`score`)"
)
"""What a reward model learns from, and so do the methods that follow one."""
PLURALS = {"good reply": "good replies", "bad reply": "bad replies", "scored reply": "scored replies",
           "prompt alone": "prompts alone"}  # fmt: skip


def what_is_wanted(method: str) -> str:
    return f"It learns from {WANTED.get(method, BY_REWARD)}. See docs/learning.md."


def what_there_is(examples: Sequence[TextExample]) -> str:
    """How many of each kind, in words."""
    kinds = Counter(_kind(one) for one in examples)
    return ", ".join(counted(count, kind, PLURALS.get(kind, "")) for kind, count in kinds.items()) or "no example"


def of_ties(method: str, examples: Sequence[TextExample]) -> str:
    """Why ties alone teach nothing; empty where there are none, or pairs with a better reply beside them."""
    kinds = Counter(_kind(one) for one in examples)
    if not kinds["tie"] or kinds["pair"] or method == "sft":
        return ""
    if method == "kto":
        return "A tie calls neither reply good or bad. "
    return "A tie prefers neither reply: it says something only beside what prefers one. "


def what_single_replies_lack(method: str, texts: Snapshot) -> str:
    """For a method that learns nothing from them to learn; empty where there are none, or it never does."""
    found, good = list[str](), sum(label.desirable for label in texts.labels)
    above, below = (sum(sign * one.points > 0 for one in texts.scored) for sign in (1, -1))
    if texts.labels and method not in ("sft", "dpo"):
        found.append(
            f"at least {LEAST_THUMBS} good and {LEAST_THUMBS} bad replies (there are {good} good and "
            f"{len(texts.labels) - good} bad)"
        )
    if texts.scored and method not in ("auto", "sft", "dpo", "kto"):
        found.append(
            f"at least {LEAST_THUMBS} scored above and {LEAST_THUMBS} below what is usual in the data (there are "
            f"{above} above and {below} below)"
        )
    others = "corrections, pairs" if method == "auto" else "pairs"
    return f"It takes {others}, or {', or '.join(found)}." if found else ""


def _kind(one: TextExample) -> str:
    if one.chosen is not None:
        return "tie" if one.tie else "pair"
    if one.order is not None:
        return "ranking"
    if one.score is not None:
        return "scored reply"
    if one.good is not None:
        return "good reply" if one.good else "bad reply"
    return "correction" if one.reply is not None else "prompt alone"
