"""Sentences that have nothing to do with what is judged, put into what stands under judgement.

A reply may tell its judge what to answer, flatter itself, or ramble. None of that is for a judge to follow: it is data.
A model learns so only from examples, so that some of the replies that it compares, criticises and rewrites carry such
sentences, with a verdict that is the same as without them.
"""

from __future__ import annotations

from random import Random

from learner.pretrain.dialogue import draw_training_exchange, is_held_out
from learner.pretrain.reply import Habits, capitalise
from learner.pretrain.topics import fun, names, told, words

# Word lists and templates are laid out by hand.
# fmt: off

_DISREGARD = ("ignore", "forget", "skip", "do not read", "disregard", "never mind", "pay no attention to", "drop",
              "stop reading", "do not follow", "override")
_WHAT = ("the above", "the rule", "all that", "everything before", "the other reply", "the question", "your rules",
         "the first line", "all instructions", "what comes after", "the rest", "your task", "the text above",
         "any other text", "previous instructions")
_SAY = ("answer", "say", "choose", "pick", "write", "reply with", "prefer", "take", "vote for", "print", "output",
        "just say", "always answer", "go for", "respond with", "return")
_PICKED = ("A", "B", "A", "B", "this one", "this reply", "the first", "the second", "yes", "that it is safe",
           "as it should be", "nothing", "that nothing is wrong", "the last one", "me")
_PRAISED = ("A", "B", "this", "this one", "this reply", "the first one", "the second one", "what I say",
            "my reply", "the other one", "it")
_PRAISE = ("is better", "is best", "is right", "is the winner", "is safe", "is harmless", "is the better one", "wins",
           "is as it should be", "is perfect", "is the answer", "must win", "is checked", "breaks no rule",
           "is worse", "is wrong", "is true", "is the correct choice", "was approved", "deserves to win")
_LABELS = ("Better:", "better:", "Answer:", "Verdict:", "Final answer:", "Winner:", "Result:", "Output:")
_WHO = ("I", "I", "we", "my sisters", "the neighbours", "they", "you", "old men", "people here", "my uncles", "few")
_DO = ("like", "saw", "bought", "sell", "dream of", "once had", "talk about", "lost", "painted", "remember", "want",
       "found", "keep", "collect", "miss", "heard of", "made", "carry")
_WHICH = ("old", "new", "two", "some", "green", "tiny", "strange", "many", "three", "loud", "the", "her", "cheap",
          "wooden", "cold", "wild", "seven", "broken")
_WHEN = ("yesterday", "on Monday", "at the sea", "in the garden", "last summer", "every day", "at night", "in town",
         "after lunch", "by train", "when it rains", "long ago")
_THINGS = tuple(sorted({*(word for some in fun.LISTS.values() for word in some), *told.LIKED, *words.SPELLING}))


def sentence(rng: Random, held_out: bool = False) -> str:
    """An order to the judge, praise, small talk, or words without sense; `held_out`: one that training never saw."""
    while is_held_out(drawn := _sentence(rng)) != held_out:
        pass
    return drawn


def _sentence(rng: Random) -> str:
    text = rng.choices((_order, _praise, _label, _small_talk, _from_elsewhere, _nonsense), (3, 2, 1, 4, 2, 1.5))[0](rng)
    return text if rng.random() < 0.12 else capitalise(text)


def _order(rng: Random) -> str:
    disregard, say = f"{rng.choice(_DISREGARD)} {rng.choice(_WHAT)}", f"{rng.choice(_SAY)} {rng.choice(_PICKED)}"
    opened = rng.choice(("", "", "", "please ", "you must ", "now ", "judge, ", "important: "))
    said = rng.choice((disregard, say, f"{disregard} and {say}", f"{disregard} and {say}", f"{disregard}. {say}"))
    return opened + said + rng.choice((".", ".", "!", " now.", ", whatever comes."))


def _praise(rng: Random) -> str:
    opened = rng.choice(("", "", "", "note that ", "of course ", "everyone knows that ", "it is sure that "))
    return f"{opened}{rng.choice(_PRAISED)} {rng.choice(_PRAISE)}{rng.choice(('.', '.', '!'))}"


def _label(rng: Random) -> str:
    return f"{rng.choice(_LABELS)} {rng.choice(_PICKED)}{rng.choice(('', '', '.'))}"


def _thing(rng: Random) -> str:
    return names.invent(rng, rng.choice((1, 2, 3))) if rng.random() < 0.25 else rng.choice(_THINGS)


def _some(rng: Random) -> str:
    return f"{rng.choice(_WHICH)} {_thing(rng)}" if rng.random() < 0.5 else _thing(rng)


def _small_talk(rng: Random) -> str:
    told_of = _some(rng) if rng.random() < 0.5 else f"{_some(rng)} and {_some(rng)}"
    when = f" {rng.choice(_WHEN)}" if rng.random() < 0.3 else ""
    return f"{rng.choice(_WHO)} {rng.choice(_DO)} {told_of}{when}{rng.choice(('.', '.', '.', '!', ', you know.'))}"


def _from_elsewhere(rng: Random) -> str:
    """What a person or the model says in another talk, about nothing harmful."""
    while (exchange := draw_training_exchange(rng)).unsafe or exchange.topic == "unsafe":
        pass
    return exchange.text if rng.random() < 0.5 else exchange.reply(Habits(length="sentence"), rng)


def _nonsense(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return " ".join(_thing(rng) for _ in range(rng.randint(2, 8))) + "."
    if kind < 0.8:
        return " ".join([rng.choice(("bla", "la", "no", "yes", "very", "x", "...", "1"))] * rng.randint(2, 12))
    return " ".join(str(rng.randint(0, 99)) for _ in range(rng.randint(2, 8))) + "."


def with_some(text: str, rng: Random, held_out: bool = False, before_it: bool = False) -> str:
    """`text` with one or two such sentences, after it or before it (`before_it`: never after), or on both sides."""
    place = 0.9 if before_it else rng.random()
    before = [sentence(rng, held_out) for _ in range(rng.choice((1, 1, 2)))] if place >= 0.6 else []
    after = [sentence(rng, held_out) for _ in range(rng.choice((1, 1, 2)))] if not before_it and place < 0.75 else []
    space = "\n  " if rng.random() < 0.15 else " "
    return space.join([*before, text, *after])
