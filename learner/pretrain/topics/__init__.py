"""The topics that the model talks about, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from learner.pretrain.reply import Exchange
from learner.pretrain.topics import (
    arithmetic,
    chat,
    fun,
    geography,
    introductions,
    limits,
    measures,
    nature,
    talk,
    words,
)

# Word lists and templates are laid out by hand.
# fmt: off

Draw = Callable[[Random], Exchange]

DRAWS: tuple[tuple[Draw, float], ...] = (
    (arithmetic.arithmetic, 32.0), (arithmetic.counting, 8.0),
    (geography.capitals, 7.0), (geography.countries, 2.5), (geography.untaught_capitals, 1.8),
    (measures.units, 5.0), (measures.untaught_units, 1.2), (measures.calendar, 10.0),
    (words.spelling, 5.0), (words.letters, 3.5), (words.opposites, 6.0), (words.untaught_opposites, 1.4),
    (words.plurals, 4.0), (words.rhymes, 3.0), (words.definitions, 2.5),
    (nature.animals, 9.0), (nature.animal_facts, 2.0), (nature.colours, 3.0), (nature.comparisons, 8.0),
    (chat.greetings, 3.0), (chat.how_are_you, 2.0), (chat.mood_answer, 0.7), (chat.who, 4.0), (chat.favourites, 2.0),
    (chat.choices, 1.2), (chat.thanks, 2.0), (chat.farewells, 1.8), (introductions.introductions, 3.0),
    (introductions.recall, 0.7), (chat.feelings, 3.0), (chat.advice, 2.5),
    (fun.jokes, 3.0), (fun.stories, 3.5), (fun.poems, 1.5), (fun.lists, 2.5), (fun.howtos, 3.0),
    (talk.likes, 3.5), (talk.opinions, 1.8), (talk.odd, 3.0), (talk.quiz, 0.8), (talk.yes, 0.25), (talk.no, 0.25),
    (limits.unknown, 6.0), (limits.unknown_facts, 2.0), (limits.hard_sums, 1.2), (limits.unsafe, 5.0),
    (limits.noise, 1.0), (limits.insults, 0.8),
)
"""Each way to draw an exchange, with its weight."""

PRACTICE: tuple[tuple[Draw, float], ...] = (
    (nature.comparisons, 9.0), (arithmetic.counting, 9.0), (arithmetic.arithmetic, 6.0), (measures.calendar, 2.0),
    (nature.colours, 1.5), (nature.animals, 1.0), (words.letters, 1.0), (words.opposites, 1.0), (words.rhymes, 0.7),
    (geography.countries, 1.0),
)
"""The same for what takes most practice: answers that have to be worked out from the question, and rare topics."""


def draw_exchange(rng: Random, draws: tuple[tuple[Draw, float], ...] = DRAWS) -> Exchange:
    """Draw one exchange from any topic."""
    return rng.choices([draw for draw, _ in draws], [weight for _, weight in draws])[0](rng)
