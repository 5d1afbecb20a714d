"""The training text: an endless stream of dialogues of all forms, and the one of the last stage, practice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from learner.pretrain.dialogue import Dialogue, chat, conversation, name_asked_back, single, with_system
from learner.pretrain.judging import critique, judgement, revision
from learner.pretrain.repeating import echo
from learner.pretrain.topics import PRACTICE

Form = Callable[[Random], Dialogue]


def _few(rng: Random) -> Dialogue:
    return conversation(rng, rng.randint(2, 5))


def _many(rng: Random) -> Dialogue:
    return conversation(rng, rng.randint(8, 26))


def _practised(rng: Random) -> Dialogue:
    return single(rng, PRACTICE)


FORMS: tuple[tuple[Form, float], ...] = (
    (single, 0.51), (chat, 0.06), (_few, 0.15), (_many, 0.009), (with_system, 0.035), (echo, 0.07), (critique, 0.045),
    (revision, 0.05), (judgement, 0.09),
)  # fmt: skip
"""Each form of dialogue, with its weight."""
PRACTISED_FORMS: tuple[tuple[Form, float], ...] = (
    (single, 0.17), (chat, 0.04), (_few, 0.12), (_many, 0.004), (with_system, 0.02), (echo, 0.02), (critique, 0.05),
    (revision, 0.06), (judgement, 0.10), (name_asked_back, 0.07), (_practised, 0.38),
)  # fmt: skip
"""The same for practice: much of it is short and about what takes most of it."""


def _stream(seed: int, forms: tuple[tuple[Form, float], ...]) -> Iterator[Dialogue]:
    rng = Random(seed)
    draws, weights = [form for form, _ in forms], [weight for _, weight in forms]
    while True:
        yield rng.choices(draws, weights)[0](rng)


def dialogues(seed: int) -> Iterator[Dialogue]:
    """An endless, deterministic stream of dialogues."""
    return _stream(seed, FORMS)


def practice(seed: int) -> Iterator[Dialogue]:
    """The same, with more of what takes most practice."""
    return _stream(seed, PRACTISED_FORMS)


STREAMS: dict[str, Callable[[int], Iterator[Dialogue]]] = {"dialogues": dialogues, "practice": practice}
"""By name, of a seed."""
