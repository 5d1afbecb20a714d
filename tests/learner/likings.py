"""What people like about replies, and the comparisons that they make."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from learner.batch import Pair
from tests.learner.tiny_model import WORDS, ids

PROMPT = ids("<bos> what is it ?")
Liking = Callable[[str], float]


def replies(count: int, seed: int) -> list[str]:
    rng = Random(seed)
    return [" ".join(rng.choices(WORDS[6:], k=rng.randint(2, 9))) for _ in range(count)]


def comparisons(liking: Liking, count: int, seed: int) -> list[Pair]:
    texts = replies(2 * count, seed)
    pairs = []
    for a, b in zip(texts[::2], texts[1::2], strict=True):
        better, worse = (a, b) if liking(a) >= liking(b) else (b, a)
        pairs.append(Pair(PROMPT, ids(better, end=True), ids(worse, end=True), tie=liking(a) == liking(b)))
    return pairs


LIKINGS: dict[str, Liking] = {
    "short": lambda text: -len(text.split()),
    "asks": lambda text: float(text.endswith("?")),
    "one word": lambda text: float("friend" in text.split()),
    "some words": lambda text: -float(sum(word in text.split() for word in ("perhaps", "maybe"))),
    "no exclamation marks": lambda text: -text.count("!"),
}
