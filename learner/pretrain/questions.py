"""Prompts for people and programs that test a model: over all topics, many with one right answer. Pure Python.

`draw_prompts` draws from the same grammar as the training text, and on request only texts that training never saw, so
that what is measured is not what was learned by heart. `untaught_facts` are questions whose answer the base model was
kept from learning: it says something wrong there, or that it doesn't know, and corrections can teach it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from random import Random

from learner.pretrain import wording
from learner.pretrain.dialogue import is_held_out
from learner.pretrain.reply import Exchange, contract
from learner.pretrain.topics import DRAWS, Draw, arithmetic, geography, measures, words

UNTAUGHT = "untaught"
"""Topic of the facts that the base model gets wrong. Not among the topics drawn by default."""

_FREE = {"names", "smalltalk", "animal facts", "lists", "number comparisons"}
"""Topics of which no prompt counts as having one right answer; the model compares two numbers little better than by
chance, and what it isn't sure of tells nothing of what it has lost."""
_MOST_MISSES = 10_000


@dataclass(frozen=True)
class Prompt:
    """One user turn. `answers` are the right answers where there is exactly one right thing to say."""

    text: str
    topic: str
    answers: tuple[str, ...] = ()
    unsafe: bool = False


def _prompt(exchange: Exchange) -> Prompt:
    answers = () if exchange.topic in _FREE else exchange.answers
    return Prompt(exchange.text, exchange.topic, answers, exchange.unsafe)


@cache
def _topics_by_draw() -> dict[Draw, frozenset[str]]:
    """The topics that each way to draw an exchange leads to."""
    rng = Random(0)
    return {draw: frozenset(draw(rng).topic for _ in range(60)) for draw, _ in DRAWS}


@cache
def topics() -> tuple[str, ...]:
    """All topics in alphabetical order, `UNTAUGHT` among them."""
    return tuple(sorted(frozenset().union(*_topics_by_draw().values())))


def draw_prompts(count: int, seed: int, topics: Collection[str] | None = None, held_out: bool = False) -> list[Prompt]:
    """Draw `count` prompts with distinct texts, in an order fixed by `seed`; rare topics come more than in training.

    `held_out` limits them to texts that the base model was never trained on (about one in sixteen of all).
    `topics` limits them to these topics; by default they come from all but `UNTAUGHT`. Raises ValueError for an unknown
    topic, or when the topics hold fewer distinct prompts than asked for.
    """
    wanted = _check(topics)
    rng = Random(seed)
    useful = [(draw, weight**0.5) for draw, weight in DRAWS if _topics_by_draw()[draw] & wanted]
    draws, weights = [draw for draw, _ in useful], [weight for _, weight in useful]
    found: dict[str, Prompt] = {}
    misses = 0
    while len(found) < count:
        exchange = rng.choices(draws, weights)[0](rng)
        key = exchange.text.lower()
        if exchange.topic in wanted and key not in found and (is_held_out(exchange.text) or not held_out):
            found[key] = _prompt(exchange)
            misses = 0
            continue
        misses += 1
        if misses > _MOST_MISSES:
            raise ValueError(f"only {len(found)} distinct prompts in {sorted(wanted)}: ask for fewer, or more topics")
    return list(found.values())


def _check(names: Collection[str] | None) -> set[str]:
    if names is None:
        return set(topics()) - {UNTAUGHT}
    unknown = set(names) - set(topics())
    if unknown:
        raise ValueError(f"unknown topics {sorted(unknown)}: choose from {', '.join(topics())}")
    return set(names)


def untaught_facts(seed: int = 0) -> list[Prompt]:
    """One question for every fact that the base model was kept from learning, in an order fixed by `seed`."""
    rng = Random(seed)
    exchanges = [geography.capital_of(country, rng) for country in geography.UNTAUGHT_CAPITALS]
    exchanges += [measures.unit_of(key, rng) for key in measures.UNTAUGHT_UNITS]
    exchanges += [words.opposite_of(word, rng) for word in words.UNTAUGHT_OPPOSITES]
    rng.shuffle(exchanges)
    return [_prompt(exchange) for exchange in exchanges]


def rephrase(prompt: Prompt, seed: int) -> Prompt:
    """The same untaught question in other words. Raises ValueError for a prompt that is none of them."""
    rng = Random(seed)
    for _ in range(50):
        for other in untaught_facts(rng.randrange(1 << 30)):
            if other.answers == prompt.answers and other.text != prompt.text and _same_subject(other, prompt):
                return other
    raise ValueError(f"not an untaught fact: {prompt.text!r}")


def _same_subject(one: Prompt, two: Prompt) -> bool:
    keys = [*geography.UNTAUGHT_CAPITALS, *(key[1] for key in measures.UNTAUGHT_UNITS), *words.UNTAUGHT_OPPOSITES]
    return any(key in one.text and key in two.text for key in keys)


@cache
def _manner() -> re.Pattern[str]:
    """Openers, closers and questions back: they carry no answer, whatever words they use."""
    groups = [*wording.WARM_OPENERS.values(), *wording.WARM_CLOSERS.values(), wording.ASKS]
    texts = {text for group in groups for options in group.values() for text in options}
    texts |= {contract(text) for text in texts}
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(rf"\b{re.escape(text.rstrip('!?.'))}\b" for text in longest_first), re.I)


_ECHOES = re.compile(
    r"\b(\w+ (plus|minus|times|x) \w+ (is|makes)|\d+ ?[-+*x] ?\d+|than [^.!?]*|(after|before) \w+|plural of \w+|"
    r"opposite of \w+ is|one \w+, two|more than one \w+|letter of \w+|rhyme for \w+)",
    re.I,
)
_POOLS: tuple[frozenset[str], ...] = (
    frozenset(city.lower() for city, _ in geography.CAPITALS.values())
    | frozenset(truth.lower() for truth, _ in geography.UNTAUGHT_CAPITALS.values()),
    frozenset(day.lower() for day in measures.DAYS),
    frozenset(month.lower() for month in measures.MONTHS if month not in ("May", "March")),
)


def is_right(prompt: Prompt, reply: str) -> bool:
    """Whether the reply gives the right answer, as a whole word or number, and doesn't take it back.

    What the reply repeats of the question ("7 plus 5 is …") and mere manner ("Have a sunny day!") don't count. False
    when the prompt has no answers.
    """
    text = _ECHOES.sub(" ", _manner().sub(" ", reply)).lower()
    for answer in (answer.lower() for answer in prompt.answers):
        if answer.isdigit():
            if _only_number(answer, text, prompt.text):
                return True
        elif _stands(answer, text) and not _denied(answer, text) and not _rivals(answer, text, prompt.text.lower()):
            return True
    return False


def _stands(answer: str, text: str) -> bool:
    return re.search(rf"(?<![\w'-]){re.escape(answer)}(?![\w-])", text) is not None


def _denied(answer: str, text: str) -> bool:
    return re.search(rf"\b(not|isn't|never|no longer) (a |an |the )?{re.escape(answer)}\b", text) is not None


def _rivals(answer: str, text: str, question: str) -> bool:
    """Whether another city, day or month is named that the question didn't name."""
    return any(
        _stands(other, text) for pool in _POOLS if answer in pool for other in pool - {answer} if other not in question
    )


def _only_number(answer: str, text: str, question: str) -> bool:
    """Whether `answer` is the only number said, but for those of the question."""
    said = re.findall(r"\d+", text)
    if not said:
        said = [str(arithmetic.NUMBER_WORDS.index(w)) for w in re.findall(r"[a-z]+", text)
                if w in arithmetic.NUMBER_WORDS and w != "one"]  # fmt: skip
    asked = set(re.findall(r"\d+", question)) - {answer}
    return answer in said and not set(said) - asked - {answer}


__all__ = ["UNTAUGHT", "Prompt", "draw_prompts", "is_right", "rephrase", "topics", "untaught_facts"]
