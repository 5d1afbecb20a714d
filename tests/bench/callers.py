"""Callers of a chat API, in a process of their own, so lean that what they measure is the server and not themselves.

`load` runs them and brings what they saw. Each caller has one connection that it keeps,
sends a request, waits for the whole answer, pauses, and so on. Pauses are drawn (exponential), so that requests meet by
chance, as those of people do. One process asks all targets in turns, a stretch each: what the machine does meanwhile
hits all of them alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import uvloop

TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')


@dataclass
class Stretch:
    """What all callers saw of one address. Times in seconds; `gaps` are between two pieces of one stream."""

    latencies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    failures: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds


@dataclass(frozen=True)
class Target:
    """Where and what is asked. `headers` beside the usual ones; every address gets what its server needs."""

    url: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def request(self) -> bytes:
        content = json.dumps(self.body).encode()
        named = {
            "host": urlsplit(self.url).netloc,
            "content-type": "application/json",
            "content-length": str(len(content)),
            **self.headers,
        }
        lines = [f"POST {urlsplit(self.url).path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


class Connection(asyncio.Protocol):
    """One caller's."""

    def __init__(self, stretch: Stretch) -> None:
        self._stretch = stretch
        self._answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    async def ask(self, request: bytes) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._answered = asyncio.get_running_loop().create_future()
        self._last, self._body = 0.0, bytearray()
        began = time.perf_counter()
        self._transport.write(request)
        await self._answered
        self._stretch.latencies.append(time.perf_counter() - began)
        counts = TOKENS.findall(self._body)
        is_whole = b"data: [DONE]" in self._body or not self._body.startswith(b"data:")
        if self._parser.get_status_code() != 200 or not counts or not is_whole:
            self._stretch.failures += 1
        else:
            self._stretch.tokens += int(counts[-1])

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        now = time.perf_counter()
        if self._last:
            self._stretch.gaps.append(now - self._last)
        self._last = now
        self._body += body

    def on_message_complete(self) -> None:
        assert self._answered is not None
        if not self._answered.done():
            self._answered.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError("the server closed the connection before it had answered"))


async def stretch(target: Target, callers: int, seconds: float, pause: float, seed: int, spread: float) -> Stretch:
    """All callers at one address for a while; each comes to the end of what it began."""
    seen, request = Stretch(), target.request
    address = urlsplit(target.url)
    end = time.perf_counter() + seconds

    async def call(draws: random.Random) -> None:
        await asyncio.sleep(draws.uniform(0.0, spread))
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(seen), address.hostname or "", address.port or 80
        )
        try:
            while True:
                if pause:
                    await asyncio.sleep(draws.expovariate(1 / pause))
                if time.perf_counter() >= end:
                    return
                await connection.ask(request)
        finally:
            connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(call(random.Random(f"{seed} {number}")) for number in range(callers)))
    seen.seconds = time.perf_counter() - began
    return seen


def load(
    targets: Sequence[Target],
    callers: int,
    seconds: float,
    pause: float = 0.0,
    rounds: int = 1,
    spread: float = 0.0,
) -> list[list[Stretch]]:
    """Runs the callers; for each of the targets, what was seen of it in each round.

    `pause`: mean seconds between an answer and the caller's next request. `spread`: seconds within which the callers
    begin, each at a moment of its own; long replies that begin together also end together, all at once in line for the
    next. Raises RuntimeError if a request failed.
    """
    plan = [asdict(target) for target in targets]
    numbers = {"callers": callers, "seconds": seconds, "pause": pause, "rounds": rounds, "spread": spread}
    flags = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "tests.bench.callers", "--targets", json.dumps(plan), *flags]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found = [[Stretch(**one) for one in rounds_of_one] for rounds_of_one in json.loads(ended.stdout)]
    for target, seen in zip(targets, found, strict=True):
        if failures := sum(one.failures for one in seen):
            raise RuntimeError(f"{failures} requests to {target.url} failed")
    return found


async def _main(
    targets: Sequence[Target], callers: int, seconds: float, pause: float, rounds: int, spread: float
) -> None:
    found: list[list[Stretch]] = [[] for _ in targets]
    for number in range(rounds):
        for target, seen in zip(targets, found, strict=True):
            seen.append(await stretch(target, callers, seconds, pause, number, spread))
    print(json.dumps([[asdict(one) for one in seen] for seen in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=json.loads, required=True)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--pause", type=float, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--spread", type=float, required=True)
    given = parser.parse_args()
    targets = [Target(**target) for target in given.targets]
    uvloop.run(_main(targets, given.callers, given.seconds, given.pause, given.rounds, given.spread))


if __name__ == "__main__":
    main()
