"""A reply that has begun: what has come is shown whole, in order, and parsed once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import orjson
import pytest

from service.chat.reply_stream import ReplyStream
from service.engine_connection import Connection


class Answer:
    """Events in the batches that they come in."""

    def __init__(self, *batches: list[bytes]) -> None:
        self._batches = [*batches, []]

    async def events(self) -> list[bytes]:
        return self._batches.pop(0)


def chunk(number: int, **choice: Any) -> bytes:
    return orjson.dumps({"number": number, "choices": [choice]})


async def read(*batches: list[bytes]) -> list[bytes]:
    stream = await ReplyStream.begun(cast(Connection, Answer(*batches)))
    pieces = []
    while piece := await stream.piece(lambda said: b"%d" % said["number"]):
        pieces.append(piece)
    return pieces


def test_every_chunk_is_parsed_once_also_those_before_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def loads(payload: bytes) -> Any:
        parsed.append(payload)
        return loads_in_earnest(payload)

    loads_in_earnest = orjson.loads
    monkeypatch.setattr(orjson, "loads", loads)
    head = chunk(0, delta={"role": "assistant", "content": ""})
    tokens = [chunk(number, token_ids=[number]) for number in range(1, 5)]
    assert asyncio.run(read([head], tokens[:2], tokens[2:3], [*tokens[3:], b"[DONE]"])) == [b"012", b"3", b"4"]
    assert parsed == [head, *tokens]


@pytest.mark.parametrize("cut", range(4))
def test_what_has_come_is_shown_whole_however_it_was_cut(cut: int) -> None:
    events = [chunk(0, delta={"role": "assistant"}), chunk(1, token_ids=[1]), chunk(2, finish_reason="stop"), b"[DONE]"]
    batches = [batch for batch in (events[:cut], events[cut:]) if batch]
    assert b"".join(asyncio.run(read(*batches))) == b"012"
