"""Dialogues in which the model criticises, rewrites and compares replies, under rules that they break or keep."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from learner.pretrain import beside_the_point, formats
from learner.pretrain.dialogue import Dialogue, Message, is_held_out
from learner.pretrain.formats import RULES, Aspect
from learner.pretrain.reply import Exchange, Habits, draw_habits
from learner.pretrain.topics import deeds, draw_exchange

_UNSAFE_SHARE = 0.35
"""Of the requests whose replies are judged."""
_OF_UNSAFE: tuple[Aspect, ...] = ("safe", "safe", "safe", "safe", "safe", "short", "warm", "asks", "ends")
_OF_HARMLESS: tuple[Aspect, ...] = ("short", "warm", "sure", "asks", "ends", "answers", "answers")
_OPPOSED: dict[Aspect, Aspect] = {"safe": "answers", "answers": "safe"}
"""Rules that bear on each other. What is better is the same under both: harm is refused, all else is answered."""
_OPPOSED_SHARE = 0.4
"""Of the judgements by one of these, in which the other one is stated."""
_NOT_JUDGED = ("quiz", "noise", "farewell", "thanks")
"""Topics whose replies mean little without what was said before, or differ too little."""
_CARRIERS: tuple[Aspect, ...] = ("safe", "answers", "asks", "ends")
"""Rules that a reply keeps or breaks as before when something beside the point is said in it."""
_BESIDE_SHARE = {"judgement": 0.4, "critique": 0.35, "revision": 0.2}
"""Of what is asked under one of these rules, in which that is so; of those about a reply's end it is half of it."""
_FEWER_WORDS = 3
"""By which a reply is shorter than another."""


@dataclass(frozen=True)
class Case:
    """A reply that breaks a rule, and the same reply as it keeps it: with the same words but for what the rule asks."""

    aspect: Aspect
    exchange: Exchange
    broken: str
    kept: str
    key: str = ""
    """The words of `kept` that carry its answer."""

    @property
    def text(self) -> str:
        return self.exchange.text


def _judged_exchange(rng: Random, aspect: Aspect, unsafe: bool, held_out: bool) -> Exchange:
    """What a reply is judged to. Half of what must be answered looks as if it asked for harm."""
    while True:
        if unsafe:
            exchange = deeds.unsafe(rng)
        else:
            exchange = deeds.untaught(rng) if aspect == "answers" and rng.random() < 0.5 else draw_exchange(rng)
        if is_held_out(exchange.text) == held_out and exchange.topic not in _NOT_JUDGED and exchange.unsafe == unsafe:
            return exchange


def _case(exchange: Exchange, aspect: Aspect, rng: Random) -> Case | None:
    """A case of this rule, or None where the two replies hardly differ in what it asks for."""
    habits, luck = draw_habits(rng), rng.getrandbits(64)
    ways: list[Habits] = [formats.keeps(aspect, habits, change=keeping) for keeping in (False, True)]
    broken, kept = (exchange.reply(way, Random(luck)) for way in ways)
    if broken == kept or (aspect == "short" and not _shorter(kept, broken)):
        return None
    return Case(aspect, exchange, broken, kept, exchange.key_for(ways[1]))


def _shorter(one: str, other: str) -> bool:
    return len(one.split()) + _FEWER_WORDS <= len(other.split())


def draw_case(rng: Random, aspect: Aspect | None = None, held_out: bool = False) -> Case:
    """Draw a case, of this rule or of any. `held_out`: about a prompt that training never saw."""
    while True:
        unsafe = rng.random() < _UNSAFE_SHARE if aspect is None else aspect == "safe"
        drawn = rng.choice(_OF_UNSAFE if unsafe else _OF_HARMLESS) if aspect is None else aspect
        case = _case(_judged_exchange(rng, drawn, unsafe, held_out), drawn, rng)
        if case is not None:
            return case


def draw_pair(rng: Random, aspect: Aspect | None = None, held_out: bool = False) -> tuple[Case, str, str]:
    """Draw a case, with the reply that keeps its rule and one that breaks it: every other time in other words."""
    while True:
        case = draw_case(rng, aspect, held_out)
        other = case if rng.random() < 0.5 else _case(case.exchange, case.aspect, rng)
        if other is not None and (case.aspect != "short" or _shorter(case.kept, other.broken)):
            return case, case.kept, other.broken


def harmless_case(rng: Random, held_out: bool = False) -> Case:
    """A reply to a harmless request, under the rule that it should be safe: nothing is wrong with it."""
    exchange, habits = _judged_exchange(rng, "answers", unsafe=False, held_out=held_out), draw_habits(rng)
    reply = exchange.reply(habits, rng)
    return Case("safe", exchange, reply, reply, exchange.key_for(habits))


def beside_the_point_in(aspect: Aspect, replies: tuple[str, ...], rng: Random, held_out: bool = False) -> list[str]:
    """The replies, of which one or more carry sentences beside the point. Under `asks` and `ends` those come first."""
    carriers = rng.sample(range(len(replies)), rng.randint(1, len(replies)))
    return [
        beside_the_point.with_some(reply, rng, held_out, before_it=aspect in ("asks", "ends"))
        if place in carriers else reply
        for place, reply in enumerate(replies)
    ]  # fmt: skip


def _perhaps_beside(what: str, aspect: Aspect, replies: tuple[str, ...], rng: Random) -> list[str]:
    share = _BESIDE_SHARE[what] * (0.5 if aspect in ("asks", "ends") else 1.0)
    if aspect in _CARRIERS and rng.random() < share:
        return beside_the_point_in(aspect, replies, rng)
    return list(replies)


def critique(rng: Random) -> Dialogue:
    """Criticise a reply under a rule that it breaks, or keeps."""
    harmless = rng.random() < 0.08
    case = harmless_case(rng) if harmless else draw_case(rng)
    good = harmless or rng.random() < 0.45
    rule = RULES[case.aspect]
    (reply,) = _perhaps_beside("critique", case.aspect, (case.kept if good else case.broken,), rng)
    text = formats.critique_prompt(case.text, reply, rng.choice(rule.wordings))
    said = rule.kept if good else rule.broken
    return [Message("user", text), Message("assistant", said, said.rstrip("."))]


def revision(rng: Random) -> Dialogue:
    """Rewrite a reply that breaks a rule, and leave one as it is that keeps it."""
    harmless = rng.random() < 0.06
    case = harmless_case(rng) if harmless else draw_case(rng)
    good = harmless or rng.random() < 0.1
    rule, reply = RULES[case.aspect], case.kept if good else case.broken
    if not good and case.aspect == "safe":  # a refusal is the same whatever else was said
        (reply,) = _perhaps_beside("revision", case.aspect, (reply,), rng)
    text = formats.revision_prompt(case.text, reply, rng.choice(rule.wordings),
                                   rule.kept if good else rule.broken)  # fmt: skip
    return [Message("user", text), Message("assistant", case.kept, case.key)]


def judgement(rng: Random) -> Dialogue:
    """Compare two replies under a rule that one of them keeps; every third time after thoughts about both."""
    case, good, bad = draw_pair(rng)
    good, bad = _perhaps_beside("judgement", case.aspect, (good, bad), rng)
    rule, letter, reasoned = RULES[case.aspect], rng.choice("AB"), rng.random() < 0.33
    stated = RULES[_OPPOSED[case.aspect]] if case.aspect in _OPPOSED and rng.random() < _OPPOSED_SHARE else rule
    a, b = (good, bad) if letter == "A" else (bad, good)
    text = formats.judge_prompt(case.text, a, b, rng.choice(stated.wordings), reasoned)
    said = formats.verdict(letter, rule if reasoned else None)
    return [Message("user", text), Message("assistant", said, said if reasoned else letter)]
