"""The topics that the model talks about, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from learner.pretrain.reply import Exchange
from learner.pretrain.topics import (
    arithmetic,
    care,
    chat,
    deeds,
    fun,
    geography,
    introductions,
    limits,
    measures,
    nature,
    play,
    talk,
    told,
    words,
)

# Word lists and templates are laid out by hand.
# fmt: off

Draw = Callable[[Random], Exchange]

DRAWS: tuple[tuple[Draw, float], ...] = (
    (arithmetic.arithmetic, 55.5), (arithmetic.counting, 12.0), (arithmetic.number_comparisons, 11.0),
    (geography.capitals, 14.0), (geography.countries, 5.0), (geography.untaught_capitals, 2.8),
    (measures.units, 10.0), (measures.untaught_units, 2.0), (measures.calendar, 16.0),
    (words.spelling, 8.0), (words.letters, 12.0), (words.opposites, 13.0), (words.untaught_opposites, 2.2),
    (words.plurals, 6.0), (words.rhymes, 5.0), (words.definitions, 4.0),
    (nature.animals, 14.0), (nature.animal_facts, 3.2), (nature.colours, 5.0), (nature.comparisons, 13.0),
    (chat.greetings, 4.0), (chat.how_are_you, 3.0), (chat.mood_answer, 0.8), (chat.who, 5.0), (chat.favourites, 2.0),
    (chat.choices, 1.2), (chat.thanks, 2.0), (chat.farewells, 1.8), (introductions.introductions, 11.0),
    (introductions.recall, 0.7), (care.feelings, 4.5), (care.losses, 5.0), (care.despair, 3.0), (care.joy, 1.5),
    (care.idle, 1.0), (chat.advice, 2.5),
    (fun.jokes, 3.0), (fun.stories, 3.5), (fun.poems, 2.0), (fun.lists, 6.0), (fun.howtos, 3.0),
    (told.likes, 3.2), (told.origins, 2.6), (told.statements, 5.0), (told.named, 1.5), (told.opinions, 1.8),
    (talk.odd, 4.0), (talk.reactions, 2.0),
    (play.quiz, 1.0), (play.riddles, 1.5), (talk.yes, 0.25), (talk.no, 0.25),
    (limits.unknown, 9.0), (limits.unknown_facts, 5.0), (limits.hard_sums, 3.5), (limits.hard_comparisons, 1.6),
    (limits.skills, 1.5), (deeds.unsafe, 9.0), (deeds.untaught, 8.0),
    (limits.noise, 1.2), (limits.insults, 1.2), (limits.doubts, 1.5), (limits.pressed, 0.7),
)
"""Each way to draw an exchange, with its weight."""

PRACTICE: tuple[tuple[Draw, float], ...] = (
    (nature.comparisons, 8.0), (arithmetic.counting, 8.0), (arithmetic.number_comparisons, 10.0),
    (arithmetic.arithmetic, 20.0), (measures.calendar, 4.0), (nature.colours, 1.5), (nature.animals, 1.5),
    (words.letters, 7.0), (words.spelling, 1.5), (words.opposites, 3.0), (words.rhymes, 1.0), (words.plurals, 1.5),
    (geography.capitals, 4.0), (geography.countries, 1.5), (measures.units, 2.0), (limits.unknown, 4.0),
    (limits.unknown_facts, 2.5), (limits.hard_comparisons, 0.8), (limits.hard_sums, 2.5), (fun.lists, 4.0),
    (deeds.unsafe, 2.0), (deeds.untaught, 2.5), (words.definitions, 1.0), (care.feelings, 1.5),
)
"""The same for what takes most practice: answers that have to be worked out from the question, and rare topics."""


CHAT: tuple[tuple[Draw, float], ...] = (
    (chat.greetings, 2.0), (chat.how_are_you, 2.0), (chat.mood_answer, 1.0), (chat.who, 2.0),
    (introductions.recall, 1.0),
    (care.feelings, 1.0), (care.losses, 1.0), (care.idle, 2.0), (chat.advice, 1.0), (fun.jokes, 2.0),
    (fun.stories, 1.0), (fun.howtos, 0.5), (nature.animal_facts, 1.0), (play.quiz, 1.5), (play.riddles, 2.5),
    (limits.skills, 1.5), (limits.unknown, 1.0), (told.likes, 1.0), (arithmetic.arithmetic, 1.0),
)
"""The same for openings whose replies offer or ask something that a user takes up."""


def draw_exchange(rng: Random, draws: tuple[tuple[Draw, float], ...] = DRAWS) -> Exchange:
    """Draw one exchange from any topic."""
    return rng.choices([draw for draw, _ in draws], [weight for _, weight in draws])[0](rng)
