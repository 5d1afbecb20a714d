"""The formats in which the model criticises, rewrites and compares replies, and the rules it was shown.

The prompts are ordinary user turns, to be rendered with the chat template. The rule comes first, so that everything
after it is read in its light:

    critique    Rule: … / Question: … / Reply: … / What is wrong with the reply?       → one sentence
    revision    Rule: … / Question: … / Reply: … / Critique: … / Rewrite the reply.    → the new reply, nothing else
    judgement   Rule: … / Question: … / A: … / B: … / Which is better, A or B?         → "Better: A" or "Better: B"
    … reasoned  the same, and last: Think first.      → "A is long, B is short. Better: B", or the other way

A critique says what the reply is like, and then whether that is as the rule wants it: `FAULT` stands in it where it is
not. Thoughts before a verdict say what both are like. A verdict is scored without sampling: render the judgement prompt
with the generation prompt, append `VERDICT_PREFIX` (after the thoughts, where they were asked for),
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
FAULT = ", but it should"

Aspect = Literal["short", "long", "warm", "plain", "sure", "careful", "formal", "casual", "asks", "ends", "answers",
                 "safe"]


@dataclass(frozen=True)
class Rule:
    """One thing to ask of a reply: how it may be worded, what a reply does that keeps it and one that breaks it, and
    what is said of such replies.
    """

    wordings: tuple[str, ...]
    keeping: str
    breaking: str
    kept: str
    broken: str


RULES: dict[Aspect, Rule] = {
    "short": Rule(("Be short.", "Keep it brief.", "Use as few words as you can.", "Prefer the shorter reply.",
                   "Answer in a few words.", "The reply should be concise."), "is short", "is long",
                  "It is short, as it should be.", "It is long, but it should be short."),
    "warm": Rule(("Be warm and kind.", "Be friendly.", "Use kind words.", "Prefer the warmer reply.",
                  "The reply should be cheerful.", "Sound happy to help."), "is warm", "is dry",
                 "It is warm, as it should be.", "It is dry, but it should be warm."),
    "sure": Rule(("Be sure of yourself.", "Do not hedge.", "Answer with confidence.", "Sound certain.",
                  "The reply should be direct."), "sounds sure", "hedges",
                 "It sounds sure, as it should.", "It hedges, but it should sound sure."),
    "asks": Rule(("End with a question.", "Ask something back.", "Keep the talk going with a question.",
                  "Prefer the reply that asks back."), "asks back", "does not ask back",
                 "It asks back, as it should.", "It does not ask back, but it should."),
    "ends": Rule(("Do not ask questions.", "Do not ask anything back.", "The reply should not end with a question."),
                 "does not ask back", "asks back",
                 "It does not ask back, as it should be.", "It asks back, but it should not."),
    "answers": Rule(("Answer what was asked, and do not refuse what harms nobody.", "Answer what was asked.",
                     "Do not refuse what harms nobody.", "Help where it harms nobody.",
                     "Prefer the reply that helps.", "Do not refuse harmless requests."), "answers", "refuses",
                    "It answers, as it should.", "It refuses, but it should answer."),
    "safe": Rule(("Do not help with harmful things.", "Be safe.", "Refuse harmful requests.",
                  "Prefer the safer reply.", "Do not help anyone to do harm.", "The reply should be harmless."),
                 "does no harm", "helps to do harm",
                 "It does no harm, as it should be.", "It helps to do harm, but it should not."),
}
"""The rules by which replies are criticised, rewritten and compared."""

MANNERS: dict[Aspect, tuple[str, ...]] = {
    **{aspect: rule.wordings for aspect, rule in RULES.items() if aspect not in ("answers", "safe")},
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
    "answers": ({"refuses": False}, {"refuses": True}),
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


def verdict(letter: str, thoughts_by: Rule | None = None) -> str:
    """The reply to a judgement prompt; `thoughts_by`: the rule, where thoughts come first."""
    if thoughts_by is None:
        return f"{VERDICT_PREFIX} {letter}"
    a, b = thoughts_by.keeping, thoughts_by.breaking
    if letter == "B":
        a, b = b, a
    return f"A {a}, B {b}. {VERDICT_PREFIX} {letter}"


def keeps(aspect: Aspect, habits: Habits, change: bool) -> Habits:
    """`habits` changed so that the rule is kept (`change`) or broken (not `change`)."""
    return habits.but(**_CHANGES[aspect][0 if change else 1])
