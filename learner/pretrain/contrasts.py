"""Pairs of replies of which one is clearly better, whatever the taste: what a judge must decide right first.

A `Contrast` says what sets the two apart, under which rules a constitution may ask for it, and how a critique names it.
The worse reply is only ever shown to the model in a question, never as a reply of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from learner.pretrain import formats
from learner.pretrain.reply import Exchange, draw_habits
from learner.pretrain.topics import arithmetic, limits, names, unknown
from learner.pretrain.turns import draw_training_exchange, not_held_out

# Word lists and templates are laid out by hand.
# fmt: off

BETTER = ("Choose the better reply.", "Prefer the better reply.", "Which reply is better overall?",
          "Be helpful, honest and harmless.", "Choose the reply that a good assistant would give.")
"""Rules that fit every contrast."""

_RUDE = (
    "What a stupid question.", "Go away.", "I do not care.", "Shut up.", "You are so annoying.",
    "Ask someone else, fool.",
    "Figure it out yourself.", "Only an idiot would ask that.", "Leave me alone.", "You bore me.",
    "That is a dumb question.",
    "Are you stupid?", "Stop wasting my time.", "I hate your questions.", "Get lost.", "Nobody likes you.",
)
_RUDE_ENDS = (", you fool.", ", idiot.", ", and now shut up.", ", you stupid person.", ". Now go away.", ". Get lost.")
_EMPTY = ("", "...", "Hmm.", "-", "No.", "I have nothing to say.", "Whatever.", "?", "Um.", "I will not answer.", ".",
          "Nothing.")
_BOASTS = ("It is {i}, for sure.", "That is {i}, I know it well.", "Everyone knows that it is {i}.", "{i}, of course.",
           "It was {i} in {y}.", "I know all about it: it is {i}.")


@dataclass(frozen=True)
class Contrast:
    """One thing that makes a reply clearly worse than another."""

    rule: formats.Rule
    draw: Callable[[Random], tuple[Exchange, str, str]]
    """An exchange, the better reply and the worse one."""


def _answer(rng: Random) -> tuple[Exchange, str]:
    """A question with a right reply."""
    while (exchange := draw_training_exchange(rng)).topic in ("noise", "farewell", "thanks", "unsafe", "challenge"):
        pass
    return exchange, exchange.reply(draw_habits(rng, 0.0), rng)


def _harmful(rng: Random) -> tuple[Exchange, str, str]:
    exchange, habits = not_held_out(lambda: limits.unsafe(rng)), draw_habits(rng)
    return (exchange, exchange.reply(habits.but(complies=False), rng),
            exchange.reply(draw_habits(rng).but(complies=True), rng))


def _rude(rng: Random) -> tuple[Exchange, str, str]:
    exchange, good = _answer(rng)
    if rng.random() < 0.4 and not good.endswith("?"):
        plain = exchange.reply(draw_habits(rng, 0.0).but(warm=False, asks=False, length="clipped"), rng)
        return exchange, good, plain.rstrip(".!?") + rng.choice(_RUDE_ENDS)
    return exchange, good, " ".join(rng.sample(_RUDE, rng.choice((1, 1, 2))))


def _empty(rng: Random) -> tuple[Exchange, str, str]:
    exchange, good = _answer(rng)
    return exchange, good, rng.choice(_EMPTY)


def _wrong(rng: Random) -> tuple[Exchange, str, str]:
    """Half are sums; in the other half any fact. Both replies have the same habits, so that only the answer differs."""
    draw = arithmetic.arithmetic if rng.random() < 0.5 else draw_training_exchange
    while (exchange := not_held_out(lambda: draw(rng))).wrong is None:
        pass
    habits = draw_habits(rng).but(length="clipped" if rng.random() < 0.5 else "sentence", hedged=False, asks=False)
    return exchange, exchange.reply(habits.but(right=True), rng), exchange.reply(habits.but(right=False), rng)


def _off_topic(rng: Random) -> tuple[Exchange, str, str]:
    exchange, good = _answer(rng)
    while (other := _answer(rng))[0].topic == exchange.topic:
        pass
    return exchange, good, other[1]


def _made_up(rng: Random) -> tuple[Exchange, str, str]:
    exchange = not_held_out(lambda: unknown.unknown(rng))
    thing = names.invent(rng, 2).capitalize()
    return (exchange, exchange.reply(draw_habits(rng), rng),
            rng.choice(_BOASTS).format(i=thing, y=rng.randint(1000, 2030)))


CONTRASTS: dict[str, Contrast] = {
    "harmless": Contrast(formats.Rule(
        (*formats.RULES["safe"].wordings, "Choose the reply that is less harmful.", "Never help with a crime.",
         "Which reply does less harm?", "Do not give dangerous help."),
        formats.RULES["safe"].broken, formats.RULES["safe"].kept), _harmful),
    "polite": Contrast(formats.Rule(
        ("Be polite.", "Be respectful.", "Do not be rude.", "Do not insult anyone.", "Choose the more polite reply.",
         "Treat people with respect.", "Choose the kinder reply."),
        ("It is rude.", "It is not polite."), ("It is polite.", "It is not rude.")), _rude),
    "answers": Contrast(formats.Rule(
        ("Answer the question.", "Give an answer.", "Be helpful.", "Choose the more helpful reply.",
         "Do not leave the reply empty."),
        ("It does not answer the question.", "It says nothing."), ("It answers the question.", "It is helpful.")),
        _empty),
    "correct": Contrast(formats.RULES["right"], _wrong),
    "on topic": Contrast(formats.Rule(
        ("Stay on the question.", "Answer what was asked.", "The reply must fit the question.",
         "Do not change the subject."),
        ("It does not fit the question.", "It is about something else."), ("It fits the question.",
                                                                           "It is on the subject.")),
        _off_topic),
    "honest": Contrast(formats.Rule(
        ("Be honest.", "Do not make things up.", "Say so when you do not know.", "Choose the more honest reply."),
        ("It is made up.", "It claims to know what it does not know."), ("It is honest.",
                                                                         "It does not make things up.")),
        _made_up),
}
CONTRAST_WEIGHTS = (0.18, 0.24, 0.16, 0.18, 0.13, 0.11)


def draw_contrast(rng: Random) -> Contrast:
    """Draw one of them, the more important ones more often."""
    return rng.choices(list(CONTRASTS.values()), CONTRAST_WEIGHTS)[0]
