"""Dialogues in which the user wants words said: the model repeats them as they are.

Copying from what was said is what names, revisions and comparisons rest on, and this is the plainest practice of it.
"""

from __future__ import annotations

from random import Random

from learner.pretrain.dialogue import Dialogue, Message, draw_training_exchange
from learner.pretrain.reply import draw_habits
from learner.pretrain.topics import names, words

# Word lists and templates are laid out by hand.
# fmt: off

_SAY = (
    "Repeat after me: {t}", "Say: {t}", "Repeat: {t}", "repeat after me: {t}", "Please say: {t}", "say this: {t}",
    "Can you say this? {t}", "Repeat these words: {t}", "Write this down: {t}", "Echo: {t}",
)


def _some_words(rng: Random) -> str:
    """Words without connection: known ones, names, invented ones and numbers."""
    def word() -> str:
        return rng.choice((
            lambda: rng.choice(words.SPELLING), lambda: rng.choice(list(words.OPPOSITES)),
            lambda: names.draw_name(rng), lambda: names.invent(rng, 2), lambda: str(rng.randint(0, 99)),
        ))()
    return rng.choice((" ", " ", ", ")).join(word() for _ in range(rng.randint(1, 9)))


def _a_reply(rng: Random) -> str:
    return draw_training_exchange(rng).reply(draw_habits(rng), rng)


def echo(rng: Random) -> Dialogue:
    """The user gives the model words or sentences to say."""
    text = _some_words(rng) if rng.random() < 0.5 else _a_reply(rng)
    return [Message("user", rng.choice(_SAY).format(t=text)), Message("assistant", text)]
