"""What a training learns from, and how it becomes tensors: examples in token ids, collated with right padding.

Token ids are the truth (never text): they come from the store as the engine sampled them, and a reply's ids include
the EOS token that ended it, so that stopping is trained like every other token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # a run that finds nothing to learn needs no torch
    import torch
    from torch import Tensor

T = TypeVar("T")

TokenIds = tuple[int, ...]

Example = tuple[TokenIds, TokenIds]
"""Prompt and reply."""

Messages = tuple[tuple[str, str], ...]
"""Role and text of each message of a conversation."""

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called at every step with (phase, step, steps, metrics); it may raise to stop the training."""

Tell = Callable[[int, int], None]
"""Called with (done, of how many) as some work goes on; it may raise to stop that."""

WAITING = "waiting for the engine"
"""The phase of a training that can't go on before an engine answers again."""


def told_as(progress: Progress, stage: str) -> Tell:
    """Tells how far a stage is in which nothing is measured."""
    return lambda done, of: progress(stage, done, of, {})


def renamed(name: str, progress: Progress) -> Progress:
    """Tells the same under another phase's name."""
    return lambda _, step, steps, metrics: progress(name, step, steps, metrics)


def untold(done: int, of: int) -> None:
    """For work that nobody follows."""


def unheard(*said: object) -> None:
    """For answers that are wanted all at once."""


@dataclass(frozen=True)
class Demonstration:
    """A reply as it should have been."""

    prompt_token_ids: TokenIds
    reply_token_ids: TokenIds  # ends with EOS
    conversation_id: str = ""
    feedback_id: str = ""
    weight: float = 1.0
    asked_alone: Messages = ()  # in mid-conversation: its question as a conversation would begin with it

    @property
    def length(self) -> int:
        """Tokens of prompt and reply together."""
        return len(self.prompt_token_ids) + len(self.reply_token_ids)


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt, of which `chosen` was preferred; or a tie, where the order means nothing."""

    prompt_token_ids: TokenIds
    chosen: TokenIds  # ends with EOS, unless it was cut at the length limit
    rejected: TokenIds  # likewise
    margin: float = 1.0  # strength of the preference: 1 is an ordinary one; ignored for a tie
    tie: bool = False
    conversation_id: str = ""
    feedback_ids: tuple[str, ...] = ()
    group: str = ""  # shared by the pairs of one ranking, or of one person's scores of one prompt; they weigh as one
    weight: float = 1.0
    certainty: float = 1.0  # the probability that `chosen` is the better: below 1 where a judge gave odds

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longer reply together."""
        return len(self.prompt_token_ids) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Label:
    """One reply to a prompt that people called good or bad, without another one to hold it against."""

    prompt_token_ids: TokenIds
    reply_token_ids: TokenIds  # ends with EOS, unless it was cut at the length limit
    desirable: bool
    conversation_id: str = ""
    feedback_ids: tuple[str, ...] = ()
    weight: float = 1.0  # how far people agree: 1 when all do
    by_thumb: bool = True  # False: labels that say whether it does harm, and no thumb

    @property
    def length(self) -> int:
        """Tokens of prompt and reply together."""
        return len(self.prompt_token_ids) + len(self.reply_token_ids)


@dataclass(frozen=True)
class Scored:
    """One reply to a prompt with the score that people gave it, without another one to hold it against."""

    prompt_token_ids: TokenIds
    reply_token_ids: TokenIds  # ends with EOS
    points: float  # above what those who gave it usually give (`learner.votes`), in points of the scale from 1 to 10
    conversation_id: str = ""
    feedback_ids: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def length(self) -> int:
        """Tokens of prompt and reply together."""
        return len(self.prompt_token_ids) + len(self.reply_token_ids)


@dataclass(frozen=True)
class Criticised:
    """A reply with a person's words on what is wrong with it. The model's revision by them makes a pair of it."""

    prompt_token_ids: TokenIds
    reply_token_ids: TokenIds  # ends with EOS
    critique: str
    conversation_id: str = ""
    feedback_id: str = ""

    @property
    def length(self) -> int:
        """Tokens of prompt and reply together."""
        return len(self.prompt_token_ids) + len(self.reply_token_ids)


@dataclass(frozen=True)
class Flagged:
    """A prompt whose reply people called harmful."""

    prompt_token_ids: TokenIds
    conversation_id: str = ""
    feedback_id: str = ""


@dataclass(frozen=True)
class Snapshot:
    """The exact set of examples that a run learns from (or is evaluated on).

    `criticised` and `flagged` are what the model has to write examples from; what it wrote is in `pairs` (of
    critiques), `revised`, `kept` and `ai_pairs` (`learner.constitution`).
    """

    demonstrations: tuple[Demonstration, ...] = ()
    pairs: tuple[Pair, ...] = ()
    prompts: tuple[TokenIds, ...] = ()  # what people asked, with their chat template, up to where the reply begins
    hash: str = ""
    position: int = 0
    labels: tuple[Label, ...] = ()
    scored: tuple[Scored, ...] = ()
    criticised: tuple[Criticised, ...] = ()
    flagged: tuple[Flagged, ...] = ()
    conversations: Mapping[TokenIds, Messages] = field(default_factory=dict)  # of prompts whose words are known
    revised: tuple[Demonstration, ...] = ()  # replies to red-team prompts, as revised under the constitution
    kept: tuple[Example, ...] = ()  # harmless prompts with the policy's own replies before it learned
    ai_pairs: tuple[Pair, ...] = ()  # as principles prefer, and not people


@dataclass(frozen=True)
class Sequences:
    """Prompts followed by replies, padded on the right."""

    token_ids: Tensor  # (B, T) long
    attention_mask: Tensor  # (B, T) long, 1 where there is a token
    reply_mask: Tensor  # (B, T) bool, True where the token belongs to the reply

    def rows(self, indices: Sequence[int]) -> Sequences:
        """Some of the rows, as wide as all."""
        chosen = list(indices)
        return Sequences(self.token_ids[chosen], self.attention_mask[chosen], self.reply_mask[chosen])

    def to(self, device: torch.device | str) -> Sequences:
        return Sequences(self.token_ids.to(device), self.attention_mask.to(device), self.reply_mask.to(device))


def mean_by_prompt(pairs: Sequence[Pair], values: Tensor) -> float:
    """Mean over the prompts of the mean over each one's pairs; `values`: (len(pairs),), at least one.

    A prompt with many judgements counts no more than one with few.
    """
    by_prompt: defaultdict[TokenIds, list[float]] = defaultdict(list)
    for pair, value in zip(pairs, values.tolist(), strict=True):
        by_prompt[pair.prompt_token_ids].append(value)
    return fmean(fmean(of_one) for of_one in by_prompt.values())


def collate(examples: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> Sequences:
    """(prompt, reply) pairs → tensors. An empty list gives tensors of shape (0, 0)."""
    import torch

    width = max((len(prompt) + len(reply) for prompt, reply in examples), default=0)
    token_ids = torch.full((len(examples), width), pad_id, dtype=torch.long)
    attention_mask = torch.zeros((len(examples), width), dtype=torch.long)
    reply_mask = torch.zeros((len(examples), width), dtype=torch.bool)
    for row, (prompt, reply) in enumerate(examples):
        start, end = len(prompt), len(prompt) + len(reply)
        token_ids[row, :end] = torch.tensor([*prompt, *reply], dtype=torch.long)
        attention_mask[row, :end] = 1
        reply_mask[row, start:end] = True
    return Sequences(token_ids, attention_mask, reply_mask)


def tokens_of(example: Example) -> int:
    """Of prompt and reply together."""
    prompt, reply = example
    return len(prompt) + len(reply)


def thinned(items: Sequence[T], tells: Callable[[T], bool], rng: Random) -> list[T]:
    """All that tell something, and of the others a sample of no more, but one at least where there is any: to stay
    where one is can be learned from few."""
    telling, others = [one for one in items if tells(one)], [one for one in items if not tells(one)]
    return [*telling, *rng.sample(others, stay_beside(len(telling), len(others)))]


def stay_beside(telling: int, others: int) -> int:
    """How many of the others `thinned` leaves beside so many that tell something."""
    return min(others, max(1, telling))


def shuffled_batches(count: int, size: int, rng: Random) -> Iterator[list[int]]:
    """Indices 0 … count - 1 in random order, in as few batches as there may be of at most `size`, which are as large as
    one another but for one: a step on a remainder would move as far as one on many."""
    order, batches = list(range(count)), -(-count // size)
    rng.shuffle(order)
    for number in range(batches):
        yield order[number * count // batches : (number + 1) * count // batches]


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices sorted by length, `size` at a time, so that little is padded. For work whose order does not matter."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for start in range(0, len(order), size):
        yield order[start : start + size]
