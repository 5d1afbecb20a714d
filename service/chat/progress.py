"""What is told of a reply by principles while it is made, as chunks that any OpenAI client takes: an empty `delta`, and
a `hone` object beside it that says what goes on.

    {"stage": "critique", "round": 1, "principle": "no-harm", "text": "It helps"}    pieces, for those who asked for it
    {"stage": "decided", "constitution": "c0", "revised": true, "ended": "revised"}  then the reply itself follows
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from service.chat.constitutional import Progress, Tell
from service.chat.recording import Recording
from service.store.queries.revisions import NewRevision

SIGN_SECONDS = 0.25
"""Without a token for so long, the caller gets a first sign all the same. What fails before is an error with its
status."""


async def watch(work: Callable[[Tell], Awaitable[None]]) -> AsyncGenerator[list[Progress], None]:
    """What `work` tells of, several pieces at once where they came together; ends when it is done.

    Raises what it raises. Closing the generator cancels it.
    """
    told: asyncio.Queue[Progress | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(told.put_nowait))
    task.add_done_callback(lambda _: told.put_nowait(None))
    try:
        pieces = await _first(told)
        while None not in pieces:
            yield [piece for piece in pieces if piece is not None]
            pieces = [await told.get(), *_rest(told)]
        await task
        if said := [piece for piece in pieces if piece is not None]:
            yield said
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _first(told: asyncio.Queue[Progress | None]) -> list[Progress | None]:
    """Until some text or the end has come, but no longer than a person should wait for a sign."""
    pieces: list[Progress | None] = []
    try:
        async with asyncio.timeout(SIGN_SECONDS):
            while not pieces or (pieces[-1] is not None and not pieces[-1].text):
                pieces.append(await told.get())
    except TimeoutError:
        pass
    return pieces + _rest(told)


def _rest(told: asyncio.Queue[Progress | None]) -> list[Progress | None]:
    return [told.get_nowait() for _ in range(told.qsize())]


def progress_chunks(recording: Recording, pieces: Sequence[Progress], with_text: bool) -> list[dict[str, Any]]:
    """Pieces as chunks: those of one stage together, and of texts, without `with_text`, only that they begin."""
    chunks = []
    for (stage, number, principle), some in groupby(pieces, lambda piece: (piece.stage, piece.round, piece.principle)):
        several = list(some)
        text = "".join(piece.text for piece in several) if with_text else ""
        if text or not several[0].text:
            chunks.append(_chunk(recording, asdict(Progress(stage, number, principle, text))))
    return chunks


def decided_chunk(recording: Recording) -> dict[str, Any]:
    """Says how the reply came about; the reply follows."""
    return _chunk(recording, {"stage": "decided", **outcome(recording.revisions)})


def outcome(revisions: Sequence[NewRevision]) -> dict[str, Any]:
    """How a reply by principles came about, for its caller: by which constitution, whether it was revised, and how the
    last step ended."""
    return {
        "constitution": revisions[-1].constitution,
        "revised": any(one.ended == "revised" for one in revisions),
        "ended": revisions[-1].ended,
    }


def _chunk(recording: Recording, hone: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": recording.exchange_id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": recording.model,
        "system_fingerprint": recording.adapter,
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}],
        "hone": hone,
    }
