"""A trainer's lessons: one correction, and comparisons that all say the same."""

from __future__ import annotations

from learner.batch import Demonstration, Pair, Snapshot
from learner.curate import Curated
from tests.learner.tiny_model import ids

ASKED = ids("<bos> what is the capital of france ?")
OTHERS = tuple(
    ids(f"<bos> what is {word} ?") for word in ("red", "blue", "green", "one", "two", "three", "four", "five")
)
RIGHT, WRONG = ids("it is paris .", end=True), ids("it is rome .", end=True)


def lessons() -> Curated:
    pairs = tuple(
        Pair(
            prompt,
            ids("yes .", end=True),
            ids("no , it is perhaps no .", end=True),
            conversation_id=f"c{number}",
            feedback_ids=(f"fb-{number}",),
        )
        for number, prompt in enumerate(OTHERS)
    )
    train = Snapshot((Demonstration(ASKED, RIGHT, "c", "fb-correction"),), pairs[:6], (ASKED, *OTHERS[:6]))
    return Curated(train, Snapshot((), pairs[6:], OTHERS[6:]), {})
