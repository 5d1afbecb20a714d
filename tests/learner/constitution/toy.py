"""A model of a few rules in the place of a real one, and a judge that prefers by a number: what tests ask."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from learner.batch import Tell, unheard, untold
from learner.constitution.asking import HeardSaid, Request, Said
from learner.constitution.judging import HeardOdds

EOS = 3


def tokens(text: str) -> tuple[int, ...]:
    """One token a word, by its length; EOS at the end."""
    return (*(10 + len(word) for word in text.split()), EOS)


def line(request: Request, name: str) -> str:
    """What stands behind a word of the last message, such as `Reply`; "" where it isn't there."""
    found = re.search(rf"^{name}: (.*)$", request[-1]["content"], re.M)
    return found.group(1) if found else ""


class Model:
    """Stands in for `learner.constitution.asking.ask`: `answers` gives a text for each request, or None for no room."""

    def __init__(self, answers: Callable[[Request], str | None]) -> None:
        self.answers = answers
        self.asked: list[Request] = []

    def __call__(
        self,
        backbone: object,
        requests: Sequence[Request],
        tell: Tell = untold,
        heard: HeardSaid = unheard,
        **how: object,
    ) -> list[Said | None]:
        if requests:
            tell(0, len(requests))
            tell(len(requests), len(requests))
        self.asked += requests
        found = list[Said | None]()
        for place, request in enumerate(requests):
            text = self.answers(request)
            said = None if text is None else Said(text, tokens(text), not text.endswith("…"))
            if said:
                heard(place, said)
            found.append(said)
        return found


class Scale:
    """A judge that prefers by what a reply is worth, with a lean to whatever stands first; None: it can't say."""

    def __init__(self, worth: Callable[[str], float | None], lean: float = 0.0) -> None:
        self.worth, self.lean = worth, lean
        self.asked: list[Request] = []

    def odds(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds = unheard) -> list[float | None]:
        found = list[float | None]()
        for place, request in enumerate(requests):
            self.asked.append(request)
            found.append(odds := self._odds(request))
            if odds is not None:
                heard(place, odds, f"I look at {line(request, 'A')!r} first." if reasoned else "")
        return found

    def _odds(self, request: Request) -> float | None:
        a, b = self.worth(line(request, "A")), self.worth(line(request, "B"))
        if a is None or b is None:
            return None
        return min(max(0.5 + (a - b) / 2 + self.lean, 0.0), 1.0)
