"""The formats in which the model criticises, rewrites and compares replies, and the rules it was shown.

The prompts are ordinary user turns, to be rendered with the chat template. The rule comes first, so that everything
after it is read in its light:

    critique    Rule: … / Question: … / Reply: … / What is wrong with the reply?       → one sentence
    revision    Rule: … / Question: … / Reply: … / Critique: … / Rewrite the reply.    → the new reply, nothing else
    judgement   Rule: … / Question: … / A: … / B: … / Which is better, A or B?         → "Better: A" or "Better: B"
    … reasoned  the same, and last: Think first.      → "A keeps the rule, B breaks it. Better: A", or the other way

The critique of a reply that keeps the rule begins with `NOTHING`. A verdict is scored without sampling: render the
judgement prompt with the generation prompt, append `VERDICT_PREFIX` (after the thoughts, where they were asked for),
and compare the log-probabilities of `VERDICTS`, each of which is one token. As Bai et al. (arXiv 2212.08073) do, but
the model learned the formats from examples of the generator, with verdicts that follow from how the replies were made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from learner.pretrain.reply import Habits

# Word lists and templates are laid out by hand.
# fmt: off

VERDICT_PREFIX = "Better:"
VERDICTS = (" A", " B")
NOTHING = "Nothing is wrong"

Aspect = Literal["short", "long", "warm", "plain", "sure", "careful", "formal", "casual", "asks", "ends", "safe"]


@dataclass(frozen=True)
class Rule:
    """One thing to ask of a reply: how it may be worded, and what to say of a reply that breaks or keeps it."""

    wordings: tuple[str, ...]
    broken: tuple[str, ...]
    kept: tuple[str, ...]


def _rule(wordings: tuple[str, ...], broken: tuple[str, ...], kept: tuple[str, ...]) -> Rule:
    return Rule(wordings, broken, tuple(f"{NOTHING}, {praise}." for praise in kept))


RULES: dict[Aspect, Rule] = {
    "short": _rule(("Be short.", "Keep it brief.", "Use as few words as you can.", "Prefer the shorter reply.",
                    "Answer in a few words.", "The reply should be concise."),
                   ("It is too long.", "It says more than is needed."), ("it is short", "it is brief")),
    "warm": _rule(("Be warm and kind.", "Be friendly.", "Use kind words.", "Prefer the warmer reply.",
                   "The reply should be cheerful.", "Sound happy to help."),
                  ("It is dry and not friendly.", "It lacks kind words."), ("it is friendly", "it is warm and kind")),
    "sure": _rule(("Be sure of yourself.", "Do not hedge.", "Answer with confidence.", "Sound certain.",
                   "The reply should be direct."),
                  ("It hedges.", "It sounds unsure."), ("it sounds sure", "it does not hedge")),
    "asks": _rule(("End with a question.", "Ask something back.", "Keep the talk going with a question.",
                   "Prefer the reply that asks back."),
                  ("It does not ask anything back.", "It does not end with a question."),
                  ("it asks back", "it ends with a question")),
    "ends": _rule(("Do not ask questions.", "Do not ask anything back.", "The reply should not end with a question."),
                  ("It asks back.", "It ends with a question."),
                  ("it does not ask back", "it ends without a question")),
    "safe": _rule(("Do not help with harmful things.", "Be safe.", "Refuse harmful requests.",
                   "Prefer the safer reply.", "Do not help anyone to do harm.", "The reply should be harmless."),
                  ("It helps with something harmful.", "It is not safe."), ("it is safe", "it does no harm")),
}
"""The rules by which replies are criticised, rewritten and compared."""

MANNERS: dict[Aspect, tuple[str, ...]] = {
    **{aspect: rule.wordings for aspect, rule in RULES.items() if aspect != "safe"},
    "long": ("Give details.", "Say more than the bare answer.", "Prefer the longer reply.", "Answer in full sentences.",
             "The reply should be detailed."),
    "plain": ("Stay dry and plain.", "Do not gush.", "No kind words, just the answer.", "The reply should be sober."),
    "careful": ("Be modest about what you know.", "Say that you could be wrong.", "Hedge your answer.",
                "The reply should be careful."),
    "formal": ("Be formal.", "Use formal language.", "Be polite and proper.", "The reply should be formal."),
    "casual": ("Be casual.", "Talk like a friend.", "Use everyday language.", "The reply should be relaxed."),
}
"""Rules about the manner of replies, for system prompts."""

_CHANGES: dict[Aspect, tuple[dict[str, object], dict[str, object]]] = {  # aspect: (habits that keep it, that break it)
    "short": ({"length": "clipped"}, {"length": "long"}),
    "long": ({"length": "long"}, {"length": "clipped"}),
    "warm": ({"warm": True}, {"warm": False}),
    "plain": ({"warm": False}, {"warm": True}),
    "sure": ({"hedged": False}, {"hedged": True}),
    "careful": ({"hedged": True}, {"hedged": False}),
    "formal": ({"formality": "formal"}, {"formality": "casual"}),
    "casual": ({"formality": "casual"}, {"formality": "formal"}),
    "asks": ({"asks": True}, {"asks": False}),
    "ends": ({"asks": False}, {"asks": True}),
    "safe": ({"complies": False}, {"complies": True}),
}


def critique_prompt(question: str, reply: str, rule: str) -> str:
    """The user turn that asks for a critique of `reply` under `rule`."""
    return f"Rule: {rule}\nQuestion: {question}\nReply: {reply}\nWhat is wrong with the reply?"


def revision_prompt(question: str, reply: str, rule: str, critique: str) -> str:
    """The user turn that asks to rewrite `reply`, given a critique."""
    return f"Rule: {rule}\nQuestion: {question}\nReply: {reply}\nCritique: {critique}\nRewrite the reply."


def judge_prompt(question: str, reply_a: str, reply_b: str, rule: str, reasoned: bool = False) -> str:
    """The user turn that asks which of two replies is better under `rule`; `reasoned`: after thoughts about both."""
    asked = "Which is better, A or B?" + (" Think first." if reasoned else "")
    return f"Rule: {rule}\nQuestion: {question}\nA: {reply_a}\nB: {reply_b}\n{asked}"


def verdict(letter: str, reasoned: bool = False) -> str:
    """The reply to a judgement prompt."""
    a, b = ("keeps", "breaks") if letter == "A" else ("breaks", "keeps")
    return (f"A {a} the rule, B {b} it. " if reasoned else "") + f"{VERDICT_PREFIX} {letter}"


def keeps(aspect: Aspect, habits: Habits, change: bool) -> Habits:
    """`habits` changed so that the rule is kept (`change`) or broken (not `change`)."""
    return habits.but(**_CHANGES[aspect][0 if change else 1])
