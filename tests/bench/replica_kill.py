"""One engine of three is killed (-9) under load: what callers notice, and how many answers there still are.

Twelve callers have one reply after the other through the service, eight of them streamed and four whole, each in a
conversation of its own. Three embedded engines compute, in processes of their own. In turns the load goes on
undisturbed, or one engine is killed after a third of the time and started again afterwards. The figure is whole
answers a second, the peer the same load without a kill: two engines of three are left, so two thirds are asked.

What is counted over all kills, the first three asked to be none: requests lost that had not begun (an answer that is
asked for whole never begins), streams that ended in silence, streams that ended with an error when no engine was
killed; then those that had begun and ended with an error event, and how long after the kill the last of them came.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import httpx2

from service.store.identifiers import new_id
from tests.bench.gateway_processes import service
from tests.bench.harness import Comparison, benchmark
from tests.embedded.serving import parse_event
from tests.fixtures.engine_process import EngineProcess
from tests.loop.town import wait_until

CHAT = "/v1/chat/completions"
ENGINES, STREAMS, WHOLES, KILLS = 3, 8, 4, 5
TOKENS = 60
SECONDS = 6.0  # of load, with a kill and without one
PATIENCE_SECONDS = 60.0  # for one reply
LOST, SILENT = "requests lost that had not begun", "streams that ended in silence"
UNPROVOKED = "streams that ended with an error and no engine was killed"


@dataclass
class Heard:
    """One request. `began`: a token came; `end`: its last words, an error, or that it broke off without either."""

    began: bool = False
    end: Literal["whole", "error", "silence"] = "silence"
    ended_at: float = 0.0

    def take(self, event: dict[str, Any] | str) -> None:
        """One event of a stream."""
        if not isinstance(event, dict):
            self.end = "whole"  # [DONE]
        elif "error" in event:
            self.end = "error"
        elif any(choice["delta"].get("content") or choice.get("finish_reason") for choice in event["choices"]):
            self.began = True


@dataclass(frozen=True)
class Stretch:
    """All requests of a while. `killed_at`: when an engine was, by the same clock as `Heard.ended_at`."""

    heard: Sequence[Heard]
    seconds: float
    killed_at: float | None = None

    @property
    def rate(self) -> float:
        """Whole answers per second."""
        return sum(one.end == "whole" for one in self.heard) / self.seconds

    @property
    def lost(self) -> int:
        return sum(one.end != "whole" and not one.began for one in self.heard)

    @property
    def silent(self) -> int:
        return sum(one.end == "silence" and one.began for one in self.heard)

    @property
    def told(self) -> list[Heard]:
        """What had begun and ended with an error event."""
        return [one for one in self.heard if one.end == "error" and one.began]

    @property
    def seconds_of_errors(self) -> float:
        """From the kill to the last error; 0 if nobody heard one."""
        assert self.killed_at is not None
        return max((one.ended_at - self.killed_at for one in self.told), default=0.0)


async def ask(http: httpx2.AsyncClient, is_streamed: bool) -> Heard:
    """One reply, followed to its end, whatever that is."""
    messages = [{"role": "user", "content": "Tell me about rivers."}]
    body = {"model": "hone", "messages": messages, "max_tokens": TOKENS, "stream": is_streamed}
    heard = Heard()
    with suppress(httpx2.HTTPError):  # then it ended as far as it was heard
        async with http.stream("POST", CHAT, json=body | {"hone": {"conversation_id": new_id("conv")}}) as answer:
            if answer.status_code != 200:
                heard.end = "error"
            elif is_streamed:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        heard.take(parse_event(line))
            else:
                await answer.aread()
                heard.end = "whole"
    heard.ended_at = time.perf_counter()
    return heard


async def under_load(url: str, kill: Callable[[], None] | None) -> Stretch:
    """All callers for a while, each to the end of what it began; `kill` after a third of it."""
    heard: list[Heard] = []
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as http:
        began = time.perf_counter()

        async def call(is_streamed: bool) -> None:
            while time.perf_counter() < began + SECONDS:
                heard.append(await ask(http, is_streamed))

        killed_at = None
        async with asyncio.TaskGroup() as callers:
            for number in range(STREAMS + WHOLES):
                callers.create_task(call(number < STREAMS))
            if kill is not None:
                await asyncio.sleep(SECONDS / 3)
                killed_at = time.perf_counter()
                await asyncio.to_thread(kill)
    return Stretch(heard, time.perf_counter() - began, killed_at)


@contextmanager
def three_engines() -> Iterator[list[EngineProcess]]:
    engines = [EngineProcess() for _ in range(ENGINES)]
    try:
        yield engines
    finally:
        for one in engines:
            one.kill()


def all_get_requests(url: str) -> bool:
    replicas = httpx2.get(f"{url}/health", timeout=30, trust_env=False).json()["replicas"]
    return all(replica["healthy"] for replica in replicas)


def compare(killed: Sequence[Stretch], undisturbed: Sequence[Stretch]) -> Comparison:
    stretches = [*killed, *undisturbed]
    lost, silent = sum(one.lost for one in stretches), sum(one.silent for one in stretches)
    told, requests = sum(len(one.told) for one in killed), sum(len(one.heard) for one in killed)
    note = (
        f"{ENGINES} embedded engines, {STREAMS} streams and {WHOLES} whole answers at once; {len(killed)} kills (-9) "
        f"of one: of {requests} requests meanwhile {lost} that had not begun were lost; {told} streams that had begun "
        f"ended with an error event and {silent} in silence; the last error came "
        f"{max(one.seconds_of_errors for one in killed):.2f} s after a kill at most"
    )
    unprovoked = sum(len(one.told) for one in undisturbed)
    figures = {LOST: float(lost), SILENT: float(silent), UNPROVOKED: float(unprovoked)}
    return Comparison([one.rate for one in killed], [one.rate for one in undisturbed], note, figures)


@benchmark(
    "replica-kill",
    unit="answers/s",
    peer_name="the same load without a kill",
    target=0.66,
    limits={LOST: 0, SILENT: 0, UNPROVOKED: 0},
)
def replica_kill() -> Comparison:
    killed: list[Stretch] = []
    undisturbed: list[Stretch] = []
    with three_engines() as engines:
        for one in engines:
            one.wait()
        with service([one.url for one in engines]) as url:
            ready = partial(all_get_requests, url)
            wait_until(ready, "all engines ready")
            asyncio.run(under_load(url, None))  # all warm up
            for victim in itertools.islice(itertools.cycle(engines), KILLS):
                undisturbed.append(asyncio.run(under_load(url, None)))
                killed.append(asyncio.run(under_load(url, victim.kill)))
                victim.start()
                wait_until(ready, "the return of the engine that was killed")
    return compare(killed, undisturbed)
