"""The engines that requests go to: which one, what is done when it fails, and what is told of each.

A conversation goes back to where it was, whose prefix cache knows it, unless that engine is clearly busier than
another; a new one goes where the least is under way. A request that fails before anything of its reply has come is
asked of another engine; one that has begun fails for good. One that an engine went away over may be why it did: it is
asked of one more at most. An engine that can't be reached, breaks off or no longer
knows what it held is ejected, and the rollout puts it right before it gets requests again.

One engine is the case of one: nothing here asks how many there are.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

import structlog

from service.adapters.engine import EngineBrokeOff
from service.adapters.refusals import EngineNotSetUp, ProofFailed, RefusedByEngine
from service.adapters.replica import Replica
from service.adapters.rollout import Rollout
from service.adapters.slots import SlotsInUse
from service.engine import Engine, EngineFailed, EngineGaveUp
from service.errors import (
    AdapterBroken,
    AdapterUnreachable,
    EngineAway,
    EngineRefused,
    EnginesBusy,
    EngineUnavailable,
    HoneError,
)

MOST_TRIES = 3
"""Of one request."""
CLEARLY_BUSIER = 8
"""Requests more than the least busy engine has; less than that, what the prefix cache saves is worth more."""
REMEMBERED = 100_000
"""Conversations whose engine is remembered; an older one goes by the hash of its id, which mostly says the same."""

AWAY = "The model is starting or away; try again in a moment."
WENT_OVER_IT = "Two engines went away over this request, which may be the reason: it is not tried again."
BROKE_OFF = "The model went away in the middle of the reply; try again in a moment."
UNREADABLE = "This version can't be read now; try again in a moment."
NOT_SET_UP = "This version can't be served as the engines are set up now; ask for another."
"""What a caller is told. Where engines and files are, and what is wrong, operators find in the log and in /health.

Whom a retry can't help gets no Retry-After: over WENT_OVER_IT it might take two more engines down.
"""

EngineReplica = Replica[Engine]
T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ReplicaState:
    """One engine, for people and for Prometheus."""

    url: str
    healthy: bool
    under_way: int
    adapters: tuple[str, ...]
    problem: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Replicas:
    def __init__(
        self,
        rollout: Rollout,
        max_requests: int,
        when_retried: Callable[[], None] = lambda: None,
    ) -> None:
        """`rollout`: of replicas over `Engine`; `max_requests`: most requests under way at one engine."""
        self._rollout = rollout
        self._max_requests, self._when_retried = max_requests, when_retried
        self._went_to: OrderedDict[str, EngineReplica] = OrderedDict()

    @property
    def _replicas(self) -> tuple[EngineReplica, ...]:
        return cast(tuple[EngineReplica, ...], self._rollout.replicas)

    @property
    def _leaving(self) -> tuple[EngineReplica, ...]:
        return cast(tuple[EngineReplica, ...], self._rollout.leaving)

    async def close(self) -> None:
        for replica in (*self._replicas, *self._leaving):
            await replica.engine.close()

    async def base(self) -> str:
        """The base model's name, as the engines know it. Raises EngineUnavailable."""
        return (await self._serving())[0].base

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its reply that every engine takes; None before one has said it."""
        return min((one.context for one in self._replicas if one.context is not None), default=None)

    async def is_ready(self) -> bool:
        """Whether some engine gets requests and says that it is well; the rollout looks at who says otherwise."""
        serving = [replica for replica in self._replicas if replica.serves]
        well = await asyncio.gather(*(replica.engine.is_healthy() for replica in serving))
        for replica, is_well in zip(serving, well, strict=True):
            if not is_well:
                self._rollout.doubt(replica)
        return any(well)

    def states(self) -> list[ReplicaState]:
        return [
            ReplicaState(one.url, one.serves, one.under_way, tuple(sorted(one.loaded)), one.problem)
            for one in (*self._replicas, *self._leaving)
        ]

    @asynccontextmanager
    async def answering(
        self, adapter: str, conversation: str, begin: Callable[[Engine], Awaitable[T]], is_admitted: bool = False
    ) -> AsyncIterator[T]:
        """What `begin` brings from an engine that serves `adapter`; it keeps doing so for as long as the block takes.

        When `begin` fails through the engine's fault, another one is asked; what fails in the block is the caller's
        to tell. `is_admitted`: it goes on with what had room before, so it is not turned away for want of it. One that
        two engines went away over ends with an error that invites nobody to repeat it. Raises
        EnginesBusy, EngineUnavailable, AdapterBroken, AdapterUnreachable, NotFound, and what `begin` raises.
        """
        tried: dict[EngineReplica, HoneError] = {}
        is_suspect = False  # an engine went away over it
        for number in range(1, MOST_TRIES + 1):
            replica = await self._choose(adapter, conversation, tried, is_admitted=is_admitted or number > 1)
            if number > 1:
                self._when_retried()
            ejections = replica.ejections
            async with AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(replica.using(adapter))
                    begun = await begin(replica.engine)
                except (EngineUnavailable, EngineRefused, ProofFailed, RefusedByEngine) as error:
                    seen = await _seen_through(error, replica)
                    failure = self._judge(replica, ejections, adapter, seen)
                    log.warning("a request failed at an engine", engine=replica.url, error=str(seen))
                    # Else it was put right since; which one that is being stopped only seems to be.
                    if replica.ejections == ejections or isinstance(seen, (EngineBrokeOff, EngineGaveUp)):
                        tried[replica] = failure
                    if is_suspect and isinstance(seen, EngineBrokeOff):
                        raise EngineUnavailable(WENT_OVER_IT) from error
                    if number == MOST_TRIES:
                        raise _told(failure, AWAY) from error
                    is_suspect = is_suspect or isinstance(seen, EngineBrokeOff)
                    continue
                except (AdapterBroken, AdapterUnreachable) as error:
                    log.warning("an adapter can't be served", adapter=adapter, error=str(error))
                    raise _told(error, AWAY) from error
                try:
                    yield begun
                except EngineUnavailable as error:
                    self._judge(replica, ejections, adapter, error)
                    log.warning("a reply broke off", engine=replica.url, error=str(error))
                    raise _told(error, BROKE_OFF) from error
                return

    async def _choose(
        self, adapter: str, conversation: str, tried: dict[EngineReplica, HoneError], is_admitted: bool
    ) -> EngineReplica:
        """Whom to ask next. Those that failed are left out, but for one that was put right since.

        `is_admitted`: an engine had room for the request once. It is not turned away because that one has gone.
        """
        candidates = [replica for replica in await self._serving() if replica not in tried]
        if not candidates:
            raise _told(next(iter(tried.values())), AWAY)
        if not is_admitted:
            candidates = [replica for replica in candidates if replica.under_way < self._max_requests]
        if not candidates:
            raise EnginesBusy(
                f"Every engine has {self._max_requests} requests under way.",
                "Try again in a moment; add an engine, or raise engine.max_requests.",
                retry_after=1,
            )
        chosen = self._preferred(adapter, conversation, candidates)
        self._remember(conversation, chosen)
        return chosen

    async def _serving(self) -> list[EngineReplica]:
        serving = [replica for replica in self._replicas if replica.serves]
        if not serving:
            await self._rollout.join()
            serving = [replica for replica in self._replicas if replica.serves]
        if not serving:
            log.warning("no engine is ready", why=self._rollout.absences)
            raise EngineUnavailable(AWAY, retry_after=1)
        return serving

    def _preferred(self, adapter: str, conversation: str, candidates: Sequence[EngineReplica]) -> EngineReplica:
        least = min(replica.under_way for replica in candidates)
        idle = [replica for replica in candidates if replica.under_way <= least + CLEARLY_BUSIER]
        before = self._went_to.get(conversation)
        if before in idle:
            return before
        # Versions that are neither live nor canary are loaded where somebody asks for them: once is enough.
        pool = [replica for replica in idle if adapter in replica.loaded] or idle
        return min(pool, key=lambda replica: (replica.under_way, _draw(conversation, replica.url)))

    def _remember(self, conversation: str, replica: EngineReplica) -> None:
        self._went_to[conversation] = replica
        self._went_to.move_to_end(conversation)
        if len(self._went_to) > REMEMBERED:
            self._went_to.popitem(last=False)

    def _judge(self, replica: EngineReplica, ejections: int, adapter: str, error: HoneError) -> HoneError:
        """What a failure says about the engine, and what the caller is told if it was the last. Raises a refusal.

        `ejections`: how many there were when the request began. What it met before the last was put right since.
        """
        problem = str(error) if isinstance(error, EngineAway) else None
        if isinstance(error, EngineRefused):
            if error.status != 404:
                raise error
            problem = f"it knows {adapter} no more: it has restarted"
            error = EngineUnavailable(f"The engine does not hold {adapter}: {error.message}", retry_after=1)
        if problem is None:
            self._rollout.doubt(replica)
        elif replica.ejections == ejections:
            self._rollout.eject(replica, problem)
        return error


async def _seen_through(error: HoneError, replica: EngineReplica) -> HoneError:
    """What a failure is: an engine that answers with one of its own, and isn't well any more, went away over it."""
    if isinstance(error, EngineFailed) and not await replica.engine.is_healthy():
        return EngineBrokeOff(f"It isn't well any more. {error.message}", retry_after=1)
    return error


def _told(failure: HoneError, plainly: str) -> HoneError:
    """What the caller hears of it: what an engine says of its own faults, where engines and files are, and how they are
    mended, is for operators."""
    if isinstance(failure, EngineNotSetUp):
        return EngineUnavailable(NOT_SET_UP)
    if isinstance(failure, EngineUnavailable) and not isinstance(failure, SlotsInUse):
        return EngineUnavailable(plainly, retry_after=1)
    if isinstance(failure, AdapterUnreachable):
        return AdapterUnreachable(UNREADABLE, retry_after=1)
    if isinstance(failure, AdapterBroken):
        return AdapterBroken(NOT_SET_UP if isinstance(failure, RefusedByEngine) else failure.message)
    return failure


def _draw(conversation: str, url: str) -> bytes:
    """An order of the engines that is always the same for one conversation, in every process."""
    return hashlib.sha256(f"{url}\0{conversation}".encode()).digest()
