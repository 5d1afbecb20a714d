"""Replies of which people like the one with the better colour."""

from __future__ import annotations

from random import Random

from learner.batch import Pair, TokenIds
from tests.learner.tiny_model import ids

COLOURS = ["red", "blue", "green"]  # the first is liked best
FILLERS = ["one", "two", "three", "four", "five", "six", "short", "long", "great", "dear"]


def said(colour: str, rng: Random) -> TokenIds:
    return ids(" ".join([colour, *rng.sample(FILLERS, 2)]), end=True)


def asked(number: int) -> TokenIds:
    return ids(f"<bos> what is {FILLERS[number % 10]} {FILLERS[number // 10 % 10]} ?")


def comparisons(count: int, seed: int = 0, wrong: float = 0.0) -> list[Pair]:
    rng = Random(seed)
    pairs = []
    for number in range(count):
        better, worse = sorted(rng.sample(range(3), 2))
        replies = said(COLOURS[better], rng), said(COLOURS[worse], rng)
        chosen, rejected = replies[::-1] if rng.random() < wrong else replies
        pairs.append(Pair(asked(number), chosen, rejected))
    return pairs
