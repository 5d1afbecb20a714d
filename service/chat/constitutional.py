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
from typing import Any, Literal

from service.chat.fitting import SHORTEST, as_fits, less_and_less, no_room, no_room_for_answer
from service.constitution.principles import Constitution, Principle, draw_for_rounds
from service.constitution.prompts import Message, critique_messages, revision_messages, verdict_messages
from service.constitution.versions import Version
from service.errors import BadInput, ContextExceeded, HoneError
from service.settings import ConstitutionSettings
from service.store.queries.exchanges import NewReply
from service.store.queries.revisions import Ended, NewRevision

EVEN = 0.5
"""Odds above which a verdict prefers the revision."""
EMPTY_CRITIQUE, EMPTY_REVISION = "The critique is empty.", "The revision is empty."


@dataclass(frozen=True)
class Progress:
    """What is being written: `text` came of it since the one before. The draft has round 0 and no principle."""

    stage: Literal["draft", "critique", "revision", "verdict"]
    round: int = 0
    principle: str = ""
    text: str = ""


Tell = Callable[[Progress], None]
Ask = Callable[[Sequence[Message], dict[str, Any], Progress | None], Awaitable[NewReply]]
"""Asks the model: messages, sampling settings, and what to tell of while it writes; None: nothing. Raises HoneError."""

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
            look = Look(rules, principle, number, conversation, text, ask, judge, sampling)
            steps.append(await look.taken(deadline))
            if steps[-1].ended in ("out of time", "failed"):
                return steps
        if all(step.ended == "nothing wrong" for step in steps[-len(principles) :]):
            break
    return steps


def served(draft: NewReply, steps: Sequence[NewRevision]) -> NewReply:
    """The last text that was found better than the one before it."""
    return next((step.after for step in reversed(steps) if step.ended == "revised" and step.after is not None), draft)


@dataclass(frozen=True)
class Look:
    """One look at a reply under one principle, in round `number`. `sampling` is the reply's own, for a revision."""

    rules: Rules
    principle: Principle
    number: int
    conversation: Sequence[Message]
    before: NewReply
    ask: Ask
    judge: Judge
    sampling: dict[str, Any]

    async def taken(self, deadline: float | None) -> NewRevision:
        """The critique, what came of it, and how it ended: it raises nothing. `deadline` by the loop's clock, in
        seconds; None: it takes as long as it takes."""
        began, found = time.perf_counter(), _Found()
        try:
            async with asyncio.timeout_at(deadline):
                await self._take(found)
        except TimeoutError:
            found.ended = "out of time"
        except ContextExceeded:
            found.ended = "failed"
            found.problem = no_room(self.rules.version, self.principle, self.before.text, found.critique)
        except HoneError as error:
            found.ended, found.problem = "failed", str(error)
        return NewRevision(
            round=self.number,
            constitution=self.rules.version.name,
            constitution_sha256=self._constitution.sha256,
            principle=self.principle.name,
            critique=found.critique,
            before=self.before,
            after=found.after,
            ended=found.ended,
            problem=found.problem,
            odds=found.odds,
            seconds=time.perf_counter() - began,  # the loop's clock may stand still within a turn of it
        )

    @property
    def _constitution(self) -> Constitution:
        return self.rules.version.constitution

    async def _take(self, found: _Found) -> None:
        """Raises HoneError, with as much found as came before."""

        def criticising(seen: Sequence[Message]) -> list[Message]:
            return critique_messages(self._constitution, self.principle, seen, self.before.text)

        def rewriting(seen: Sequence[Message]) -> list[Message]:
            return revision_messages(self._constitution, self.principle, seen, self.before.text, found.critique)

        found.critique = (await self._said("critique", criticising, self.rules.critique_sampling, "")).text
        if not found.critique.strip():
            found.ended, found.problem = "failed", EMPTY_CRITIQUE
        elif not self._constitution.finds_nothing(found.critique):
            revision = await self._said("revision", rewriting, self.sampling, found.critique)
            if revision.text.strip():
                found.odds = await as_fits(self.conversation, partial(self._compared, revision.text))
                found.ended, found.after = "revised" if found.odds > EVEN else "no better", revision
            else:
                found.ended, found.problem = "failed", EMPTY_REVISION

    async def _said(
        self,
        stage: Literal["critique", "revision"],
        asking: Callable[[Sequence[Message]], list[Message]],
        sampling: dict[str, Any],
        critique: str,
    ) -> NewReply:
        """What the model says. Where only a shorter answer has room, BadInput says so; raises what `ask` does."""
        told, most = Progress(stage, self.number, self.principle.name), sampling["max_tokens"]
        try:
            return await as_fits(self.conversation, lambda seen: self.ask(asking(seen), sampling, told))
        except ContextExceeded:
            if most <= SHORTEST:
                raise
            *_, least = less_and_less(self.conversation)
            await self.ask(asking(least), {**sampling, "max_tokens": SHORTEST}, None)  # else the same is raised again
            why = no_room_for_answer(self.rules.version, self.principle, stage, most, critique)
            raise BadInput(why) from None

    async def _compared(self, revised: str, seen: Sequence[Message]) -> float:
        """The odds of the revision, of which whatever stands first is averaged out."""
        if revised.strip() == self.before.text.strip():
            return EVEN
        orders = ((revised, self.before.text), (self.before.text, revised))
        asked = [verdict_messages(self._constitution, self.principle, seen, *order) for order in orders]
        first, second = await self.judge(asked, Progress("verdict", self.number, self.principle.name))
        return EVEN + (first - second) / 2  # exactly even where order alone decides


@dataclass
class _Found:
    """As far as a look has come."""

    critique: str = ""
    after: NewReply | None = None
    ended: Ended = "nothing wrong"
    problem: str = ""
    odds: float | None = None
