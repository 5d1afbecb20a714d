"""What counts as lost, as silence and as told when an engine is killed; the kill itself is the benchmark's."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import httpx2
import orjson
import pytest

from tests.bench.replica_kill import LOST, SILENT, UNPROVOKED, Heard, Stretch, ask, compare
from tests.fixtures.serving import serve

ERROR = {"error": {"message": "The model went away.", "type": "server_error", "code": "engine_unavailable"}}


def token(text: str = "word", finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


def heard(*events: dict[str, Any] | str) -> Heard:
    found = Heard()
    for event in events:
        found.take(event)
    return found


WHOLE = heard(token(""), token(), token("", "stop"), {"choices": [], "usage": {}}, "[DONE]")
TOLD = heard(token(""), token(), ERROR)
BROKEN_OFF = heard(token(""), token())
NOT_BEGUN = heard(token(""), ERROR)
REFUSED = Heard(end="error")


def test_a_reply_ends_whole_with_an_error_or_in_silence() -> None:
    assert (WHOLE.began, WHOLE.end) == (True, "whole")
    assert (TOLD.began, TOLD.end) == (True, "error")
    assert (BROKEN_OFF.began, BROKEN_OFF.end) == (True, "silence")
    assert (NOT_BEGUN.began, NOT_BEGUN.end) == (False, "error")


def test_what_had_not_begun_is_lost_whatever_it_was_told() -> None:
    stretch = Stretch([WHOLE, TOLD, BROKEN_OFF, NOT_BEGUN, REFUSED, Heard()], seconds=2.0)
    assert (stretch.lost, stretch.silent, len(stretch.told), stretch.rate) == (3, 1, 1, 0.5)


def test_a_kill_that_loses_nothing_is_compared_with_the_load_alone() -> None:
    late = Heard(began=True, end="error", ended_at=10.25)
    found = compare([Stretch([WHOLE, WHOLE, late], 1.0, killed_at=10.0)], [Stretch([WHOLE] * 4, 1.0)])
    assert (found.ours, found.peer, found.figures) == ([2.0], [4.0], {LOST: 0.0, SILENT: 0.0, UNPROVOKED: 0.0})
    assert "of 3 requests" in found.note and "1 streams that had begun ended with an error" in found.note
    assert "0.25 s after a kill" in found.note


@pytest.mark.parametrize(("one", "what"), [(REFUSED, LOST), (BROKEN_OFF, SILENT)])
def test_what_is_lost_or_ends_in_silence_is_counted(one: Heard, what: str) -> None:
    found = compare([Stretch([WHOLE, one], 1.0, killed_at=0.0)], [Stretch([WHOLE], 1.0)])
    assert found.figures == {LOST: 0.0, SILENT: 0.0, UNPROVOKED: 0.0} | {what: 1.0}


def test_an_error_without_a_kill_is_counted_too() -> None:
    found = compare([Stretch([WHOLE], 1.0, killed_at=0.0)], [Stretch([WHOLE, TOLD], 1.0)])
    assert found.figures is not None and found.figures[UNPROVOKED] == 1


Kind = Literal["whole", "told", "broken off", "refused", "hung up"]


def answering(kind: Kind) -> Any:
    """A service that answers so, whatever is asked."""
    pieces: dict[Kind, list[dict[str, Any] | str]] = {
        "whole": [token(), "[DONE]"],
        "told": [token(), ERROR],
        "broken off": [token()],
        "hung up": [token()],
        "refused": [ERROR],
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        status = 503 if kind == "refused" else 200
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces[kind]:
            content = piece.encode() if isinstance(piece, str) else orjson.dumps(piece)
            body = b"data: " + content + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        if kind == "hung up":
            raise ConnectionError("and the end of the answer never comes")
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize(
    ("kind", "began", "end"),
    [
        ("whole", True, "whole"),
        ("told", True, "error"),
        ("broken off", True, "silence"),
        ("hung up", True, "silence"),
        ("refused", False, "error"),
    ],
)
def test_a_caller_follows_a_reply_to_its_end_whatever_that_is(kind: Kind, began: bool, end: str) -> None:
    async def follow(url: str) -> Heard:
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as http:
            return await ask(http, is_streamed=True)

    with serve(answering(kind)) as url:
        found = asyncio.run(follow(url))
    assert (found.began, found.end) == (began, end) and found.ended_at > 0
