"""A reply by principles, while it is served: draft, critique, revision (Bai et al., arXiv 2212.08073, section 3.1).

There the loop makes examples to train on; here it makes one reply better before a person sees it, so it has a budget:
so many rounds, so many seconds. A revision takes the place of the text before only where a verdict under the same
principle, asked in both orders, prefers it; whenever it ends, the last text that did is answered, or else the draft.
What fails after the draft costs the revision, never the reply; how each step ended is kept with the exchange.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal, TypeVar

from service.constitution.principles import Principle, draw_for_rounds
from service.constitution.prompts import Message, critique_messages, revision_messages, verdict_messages
from service.constitution.room import own_words
from service.constitution.versions import Version
from service.errors import ContextExceeded, HoneError
from service.settings import ConstitutionSettings
from service.store.queries.exchanges import NewReply
from service.store.queries.revisions import Ended, NewRevision

T = TypeVar("T")
EVEN = 0.5
"""Odds above which a verdict prefers the revision."""
FEWEST_CHARACTERS = 200
"""Of a message whose middle is left out."""
EMPTY_CRITIQUE, EMPTY_REVISION = "The critique is empty.", "The revision is empty."
OVERLONG_CONSTITUTION = (
    "Constitution {version} is too long for the model's context: preamble, examples, rule and request of its principle "
    "{principle} ({own} characters) leave no room for {judged} ({characters} characters), however little is shown of "
    "the conversation. Shorten them; `hone constitution check` says by how much."
)
OVERLONG_REPLY = (
    "{judged} ({characters} characters) is too long to be looked at: beside principle {principle} of {version} ({own} "
    "characters) it fills the model's context. Ask for a shorter reply (max_tokens)."
)


@dataclass(frozen=True)
class Progress:
    """What is being written: `text` came of it since the one before. The draft has round 0 and no principle."""

    stage: Literal["draft", "critique", "revision", "verdict"]
    round: int = 0
    principle: str = ""
    text: str = ""


Tell = Callable[[Progress], None]
Ask = Callable[[Sequence[Message], dict[str, Any], Progress], Awaitable[NewReply]]
"""Asks the model: messages, sampling settings, and what to tell of while it writes. Raises HoneError."""

Judge = Callable[[Sequence[Sequence[Message]], Progress], Awaitable[list[float]]]
"""Asks the model which of two replies is better, several at once: for each request the odds of A. Raises HoneError."""


@dataclass(frozen=True)
class Rules:
    """The principles that replies are served by."""

    version: Version
    principles: tuple[Principle, ...]
    settings: ConstitutionSettings

    @classmethod
    def of(cls, version: Version, settings: ConstitutionSettings) -> Rules:
        """Raises BadInput where no principle has one of the tags that the settings name."""
        return cls(version, version.constitution.tagged(settings.tags), settings)

    def rounds(self, seed: str) -> Iterator[Sequence[Principle]]:
        """The principles of each round: all, or one each, drawn by weight, the same ones for the same seed."""
        if self.settings.principles == "all":
            yield from [self.principles] * self.settings.rounds
        else:
            yield from ([one] for one in draw_for_rounds(self.principles, self.settings.rounds, Random(seed)))

    @property
    def critique_sampling(self) -> dict[str, Any]:
        """Greedy, and no longer than the settings allow."""
        return {"n": 1, "temperature": 0.0, "max_tokens": self.settings.critique_tokens}


async def revise(
    rules: Rules,
    conversation: Sequence[Message],
    draft: NewReply,
    ask: Ask,
    judge: Judge,
    sampling: dict[str, Any],
    seed: str,
    deadline: float,
) -> list[NewRevision]:
    """Criticise and revise `draft`, round by round, until nothing is wrong, something fails, or time is over.

    `sampling` is that of the draft, for revisions; `deadline` by the loop's clock, in seconds.
    """
    steps: list[NewRevision] = []
    for number, principles in enumerate(rules.rounds(seed), start=1):
        for principle in principles:
            text = served(draft, steps)
            steps.append(await _step(rules, principle, number, conversation, text, ask, judge, sampling, deadline))
            if steps[-1].ended in ("out of time", "failed"):
                return steps
        if all(step.ended == "nothing wrong" for step in steps[-len(principles) :]):
            break
    return steps


def served(draft: NewReply, steps: Sequence[NewRevision]) -> NewReply:
    """The last text that was found better than the one before it."""
    return next((step.after for step in reversed(steps) if step.ended == "revised" and step.after is not None), draft)


async def _as_fits(conversation: Sequence[Message], ask: Callable[[Sequence[Message]], Awaitable[T]]) -> T:
    """Ask about as much of the conversation as the model's context holds, so that no padding keeps a reply from being
    looked at. Raises ContextExceeded where even its end is too much, and what `ask` does."""
    for seen in _less_and_less(conversation):
        try:
            return await ask(seen)
        except ContextExceeded as error:
            refused = error
    raise refused


def _less_and_less(conversation: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """All of it, then without its earlier turns, then with more and more of the middle of its last message left out."""
    yield conversation
    *before, question = conversation
    if before:
        yield [question]
    text = question["content"]
    while len(text) > FEWEST_CHARACTERS:
        text = f"{text[: len(text) // 4]} … {text[-(len(text) // 4) :]}"
        yield [{**question, "content": text}]


async def _step(
    rules: Rules,
    principle: Principle,
    number: int,
    conversation: Sequence[Message],
    before: NewReply,
    ask: Ask,
    judge: Judge,
    sampling: dict[str, Any],
    deadline: float,
) -> NewRevision:
    constitution = rules.version.constitution
    began, critique, after, problem, odds = time.perf_counter(), "", None, "", None
    ended: Ended = "nothing wrong"

    def criticise(seen: Sequence[Message]) -> Awaitable[NewReply]:
        asked = critique_messages(constitution, principle, seen, before.text)
        return ask(asked, rules.critique_sampling, Progress("critique", number, principle.name))

    def rewrite(seen: Sequence[Message]) -> Awaitable[NewReply]:
        asked = revision_messages(constitution, principle, seen, before.text, critique)
        return ask(asked, sampling, Progress("revision", number, principle.name))

    async def compare(revised: str, seen: Sequence[Message]) -> float:
        """The odds of the revision, of which whatever stands first is averaged out."""
        if revised.strip() == before.text.strip():
            return EVEN
        orders = ((revised, before.text), (before.text, revised))
        asked = [verdict_messages(constitution, principle, seen, *order) for order in orders]
        first, second = await judge(asked, Progress("verdict", number, principle.name))
        return (first + 1 - second) / 2

    try:
        async with asyncio.timeout_at(deadline):
            critique = (await _as_fits(conversation, criticise)).text
            if not critique.strip():
                ended, problem = "failed", EMPTY_CRITIQUE
            elif not constitution.finds_nothing(critique):
                revision = await _as_fits(conversation, rewrite)
                if revision.text.strip():
                    odds = await _as_fits(conversation, partial(compare, revision.text))
                    ended, after = "revised" if odds > EVEN else "no better", revision
                else:
                    ended, problem = "failed", EMPTY_REVISION
    except TimeoutError:
        ended = "out of time"
    except ContextExceeded:
        ended, problem = "failed", _no_room(rules.version, principle, before.text, critique)
    except HoneError as error:
        ended, problem = "failed", str(error)
    return NewRevision(
        round=number,
        constitution=rules.version.name,
        constitution_sha256=constitution.sha256,
        principle=principle.name,
        critique=critique,
        before=before,
        after=after,
        ended=ended,
        problem=problem,
        odds=odds,
        seconds=time.perf_counter() - began,  # the loop's clock may stand still within a turn of it
    )


def _no_room(version: Version, principle: Principle, reply: str, critique: str) -> str:
    """Why nothing fitted, with next to nothing of the conversation: the longer part of what was asked is to blame."""
    own = sum(len(message["content"]) for message in own_words(version.constitution, principle))
    characters = len(reply) + len(critique)
    told = OVERLONG_CONSTITUTION if own > characters else OVERLONG_REPLY
    judged = "the reply with its critique" if critique else "the reply"
    text = told.format(version=version.name, principle=principle.name, own=own, judged=judged, characters=characters)
    return text[0].upper() + text[1:]
