"""What the base answers, as far as it is sure: the words on which its replies to one prompt agree.

A reply holds an answer by saying its words. Words that repeat the question are no answer, unless the question named all
that can be said ("Which is faster, a car or an aeroplane?"): there the one that they name first must come first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.evaluate.agreement import MOST, RARE, WORD, consensus, words
from learner.sampling import sample

MAX_NEW_TOKENS = 128
ANSWERS = 6
"""Replies of the base to each prompt, from which its answers are read."""


@dataclass(frozen=True)
class Answer:
    """Without words there is no answer, and every reply holds it. `first`: of a choice, the one of its words that comes
    before all else that the question `named`. `firm`: every reply that it was read from holds it."""

    words: frozenset[str] = frozenset()
    first: str = ""
    named: frozenset[str] = frozenset()
    firm: bool = False

    def share_held(self, reply: str) -> float:
        """How much of it a reply holds, from 0 to 1."""
        if not self.words:
            return 1.0
        if self.first and _first_named(reply, self.words | self.named) != self.first:
            return 0.0
        return len(self.words & words(reply)) / len(self.words)

    @property
    def parts(self) -> tuple[list[str], str, list[str], bool]:
        """What JSON can hold."""
        return sorted(self.words), self.first, sorted(self.named), self.firm

    @classmethod
    def from_parts(cls, said: Sequence[str], first: str = "", named: Sequence[str] = (), firm: bool = False) -> Answer:
        return cls(frozenset(said), first, frozenset(named), firm)


Answers = Mapping[TokenIds, Answer]


def answers(backbone: Backbone, prompts: Sequence[TokenIds], seed: int) -> dict[TokenIds, Answer]:
    """What the base answers each prompt; no words where its replies agree on nothing."""
    asked = list(dict.fromkeys(prompts))
    if not asked:
        return {}
    sampled = sample(backbone, asked, role="base", per_prompt=ANSWERS, seed=seed, max_new_tokens=MAX_NEW_TOKENS)
    texts = [backbone.decode([reply.token_ids for reply in row]) for row in sampled]
    held = Counter(word for row in texts for text in row for word in words(text))
    found = {}
    for prompt, row in zip(asked, texts, strict=True):
        background = held - Counter(word for text in row for word in words(text))
        elsewhere = ANSWERS * (len(asked) - 1)
        agreed, question = consensus(row, background, elsewhere), words(backbone.decode([prompt])[0])
        named = frozenset(word for word in question if background[word] <= RARE * elsewhere)
        one = Answer(agreed - question) if agreed - question else _chosen(row, agreed, named)
        found[prompt] = replace(one, firm=bool(one.words) and all(one.share_held(text) == 1 for text in row))
    return found


def _chosen(replies: Sequence[str], agreed: frozenset[str], named: frozenset[str]) -> Answer:
    """Words of the question alone, as an answer: with the one of them that most replies name first, if there is one."""
    firsts = Counter(_first_named(reply, named) for reply in replies if agreed)
    for word, count in firsts.most_common(1):
        if word in agreed and count >= MOST * len(replies):
            return Answer(agreed, word, named)
    return Answer(agreed)


def _first_named(text: str, names: frozenset[str]) -> str:
    """The first of these words in a text; empty where it has none."""
    return next((word for word in WORD.findall(text.lower()) if word in names), "")


def answer_tokens(backbone: Backbone, reply: TokenIds, answer: Answer) -> list[bool]:
    """Which tokens of a reply are part of the words of the answer, or of the word before one: an article, say, which
    can decide what follows it."""
    so_far = backbone.decode([reply[: place + 1] for place in range(len(reply))])
    said = list(WORD.finditer(so_far[-1] if reply else ""))
    places = [place for place, word in enumerate(said) if word.group().lower() in answer.words]
    spans = [(said[max(0, place - 1)].start(), said[place].end()) for place in places]
    found, end = [], 0
    for text in so_far:
        start, end = end, len(text)
        found.append(any(start < last and end > first for first, last in spans))
    return found


def share_agreed(texts: Sequence[str], prompts: Sequence[TokenIds], answers: Answers) -> Tensor:
    """(len(texts),): the share of its prompt's answer that each reply holds; 1 where there is none."""
    return torch.tensor([answers.get(p, Answer()).share_held(text) for text, p in zip(texts, prompts, strict=True)])
