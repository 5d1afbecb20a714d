"""The turns that dialogues are made of, and which prompts training never sees."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from learner.pretrain.reply import Exchange, Habits
from learner.pretrain.topics import DRAWS, Draw, draw_exchange
from learner.pretrain.user import as_typed

HELD_OUT_SHARE = 16
"""One in so many prompt texts is never used in training."""


@dataclass(frozen=True)
class Message:
    """One turn. `role` is system, user or assistant; `key` the words of a reply that carry its answer."""

    role: str
    content: str
    key: str = ""


Dialogue = list[Message]


def is_held_out(text: str) -> bool:
    """Whether this prompt text is kept out of the training data, for evaluation."""
    return zlib.crc32(text.strip().lower().encode()) % HELD_OUT_SHARE == 0


def not_held_out(draw: Callable[[], Exchange]) -> Exchange:
    """Draw until the text isn't held out."""
    while is_held_out((exchange := draw()).text):
        pass
    return exchange


def draw_training_exchange(rng: Random, draws: tuple[tuple[Draw, float], ...] = DRAWS) -> Exchange:
    """Draw an exchange whose prompt isn't held out."""
    return not_held_out(lambda: draw_exchange(rng, draws))


def turn(exchange: Exchange, habits: Habits, rng: Random, name: str = "") -> Dialogue:
    """What the user types, and a reply with these habits, to a user of that name if it is known."""
    return [Message("user", as_typed(exchange.text, exchange.topic, rng, exchange.subject)),
            Message("assistant", exchange.reply(habits, rng, name), exchange.key_for(habits))]  # fmt: skip
