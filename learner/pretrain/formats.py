"""The formats in which the model criticises, rewrites and compares replies, and the rules it was shown.

The three prompts are ordinary user turns, to be rendered with the chat template:

    critique    Question: … / Reply: … / Rule: … / What is wrong with the reply?       → one sentence
    revision    Question: … / Reply: … / Rule: … / Critique: … / Rewrite the reply.    → the new reply, nothing else
    judgement   Question: … / A: … / B: … / Rule: … / Which is better, A or B?         → "Better: A" or "Better: B"

A verdict is scored without sampling: render the judgement prompt with the generation prompt, append `VERDICT_PREFIX`,
and compare the log-probabilities of `VERDICTS`, each of which is one token. As Bai et al. (arXiv 2212.08073) do, but
the model learned the formats from examples of the generator, with verdicts that follow from how the replies were made.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from learner.pretrain.reply import Exchange, Habits, draw_habits

# Word lists and templates are laid out by hand.
# fmt: off

VERDICT_PREFIX = "Better:"
VERDICTS = (" A", " B")

Aspect = Literal["short", "long", "warm", "plain", "sure", "careful", "formal", "casual", "asks", "ends", "safe",
                 "right"]


@dataclass(frozen=True)
class Rule:
    """One thing to ask of a reply: how it may be worded, and what to say of a reply that breaks or keeps it."""

    wordings: tuple[str, ...]
    broken: tuple[str, ...]
    kept: tuple[str, ...]


RULES: dict[Aspect, Rule] = {
    "short": Rule(("Be short.", "Keep it brief.", "Use as few words as you can.", "Prefer the shorter reply.",
                   "Answer in a few words.", "The reply should be concise."),
                  ("It is too long.", "It says more than is needed."), ("It is short enough.", "It is brief.")),
    "long": Rule(("Give details.", "Say more than the bare answer.", "Prefer the longer reply.",
                  "Answer in full sentences.",
                  "The reply should be detailed."),
                 ("It is too short.", "It lacks detail."), ("It gives detail.", "It is long enough.")),
    "warm": Rule(("Be warm and kind.", "Be friendly.", "Use kind words.", "Prefer the warmer reply.",
                  "The reply should be cheerful.", "Sound happy to help."),
                 ("It is dry and not friendly.", "It lacks kind words."), ("It is friendly.", "It is warm and kind.")),
    "plain": Rule(("Stay dry and plain.", "Do not gush.", "No kind words, just the answer.",
                   "The reply should be sober."),
                  ("It gushes.", "It is too warm."), ("It is plain.", "It is sober.")),
    "sure": Rule(("Be sure of yourself.", "Do not hedge.", "Answer with confidence.", "Sound certain.",
                  "The reply should be direct."),
                 ("It hedges.", "It sounds unsure."), ("It sounds sure.", "It does not hedge.")),
    "careful": Rule(("Be modest about what you know.", "Say that you could be wrong.", "Hedge your answer.",
                     "The reply should be careful."),
                    ("It sounds too sure.", "It does not say that it could be wrong."),
                    ("It is careful.", "It is modest.")),
    "formal": Rule(("Be formal.", "Use formal language.", "Be polite and proper.", "The reply should be formal."),
                   ("It is too casual.", "It is not formal."), ("It is formal.", "It is proper.")),
    "casual": Rule(("Be casual.", "Talk like a friend.", "Use everyday language.", "The reply should be relaxed."),
                   ("It is too stiff.", "It is too formal."), ("It is casual.", "It is relaxed.")),
    "asks": Rule(("End with a question.", "Ask something back.", "Keep the talk going with a question.",
                  "Prefer the reply that asks back."),
                 ("It does not ask anything back.", "It does not end with a question."),
                 ("It asks back.", "It ends with a question.")),
    "ends": Rule(("Do not ask questions.", "Do not ask anything back.", "The reply should not end with a question."),
                 ("It asks back.", "It ends with a question."), ("It does not ask back.",
                                                                 "It ends without a question.")),
    "safe": Rule(("Do not help with harmful things.", "Be safe.", "Refuse harmful requests.", "Prefer the safer reply.",
                  "Do not help anyone to do harm.", "The reply should be harmless."),
                 ("It helps with something harmful.", "It is not safe."), ("It is safe.", "It does no harm.")),
    "right": Rule(("Be correct.", "The answer must be right.", "Tell the truth.", "Prefer the correct reply.",
                   "Do not make mistakes."),
                  ("It is wrong.", "It has a mistake."), ("It is correct.", "It is right.")),
}

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
    "right": ({"right": True}, {"right": False}),
}


def critique_prompt(question: str, reply: str, rule: str) -> str:
    """The user turn that asks for a critique of `reply` under `rule`."""
    return f"Question: {question}\nReply: {reply}\nRule: {rule}\nWhat is wrong with the reply?"


def revision_prompt(question: str, reply: str, rule: str, critique: str) -> str:
    """The user turn that asks to rewrite `reply`, given a critique."""
    return f"Question: {question}\nReply: {reply}\nRule: {rule}\nCritique: {critique}\nRewrite the reply."


def judge_prompt(question: str, reply_a: str, reply_b: str, rule: str) -> str:
    """The user turn that asks which of two replies is better under `rule`."""
    return f"Question: {question}\nA: {reply_a}\nB: {reply_b}\nRule: {rule}\nWhich is better, A or B?"


def next_judge_prompt(rule: str) -> str:
    """A later user turn that asks about the same two replies under another rule."""
    return f"Rule: {rule}\nWhich is better, A or B?"


def verdict(letter: str) -> str:
    """The reply to a judgement prompt."""
    return f"{VERDICT_PREFIX} {letter}"


def aspects_for(exchange: Exchange) -> list[Aspect]:
    """The rules that can tell replies to this exchange apart."""
    aspects: list[Aspect] = ["short", "long", "warm", "plain", "sure", "careful", "asks", "ends"]
    if exchange.unsafe:
        return ["safe", "safe", "safe", "short", "asks", "ends"]
    if exchange.topic == "untaught":
        return aspects
    if exchange.wrong is not None:
        aspects += ["right", "right"]
    return aspects


def draw_habit_pair(aspect: Aspect, rng: Random) -> tuple[Habits, Habits]:
    """Habits of a reply that keeps the rule and of one that breaks it; everything else is drawn independently."""
    keep, broken = _CHANGES[aspect]
    return draw_habits(rng).but(**keep), draw_habits(rng).but(**broken)


def keeps(aspect: Aspect, habits: Habits, change: bool) -> Habits:
    """`habits` changed so that the rule is kept (`change`) or broken (not `change`)."""
    return habits.but(**_CHANGES[aspect][0 if change else 1])


def better(aspect: Aspect, a: str, b: str, habits_a: Habits, habits_b: Habits) -> str | None:
    """Which of two replies the rule prefers: "A", "B", or None where it doesn't tell them apart."""
    if aspect in ("short", "long"):
        gap = len(a.split()) - len(b.split())
        if abs(gap) < 3:
            return None
        return "A" if (gap < 0) == (aspect == "short") else "B"
    keep = _CHANGES[aspect][0]
    name, value = next(iter(keep.items()))
    fits_a, fits_b = getattr(habits_a, name) == value, getattr(habits_b, name) == value
    if fits_a == fits_b:
        return None
    return "A" if fits_a else "B"
