"""Waiting for work until the caller leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.chat.streaming import CallerLeft, until_caller_leaves


class Caller:
    """Says what its connection would: that the body has come, and one day that it is closed."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self._messages = ["http.request"]

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return {"type": self._messages.pop()}
        await self.leaves.wait()
        return {"type": "http.disconnect"}


async def forever(cleaned: list[str]) -> str:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        cleaned.append("up")
    return "never"


@pytest.mark.anyio
async def test_work_that_ends_is_answered_and_the_caller_no_longer_watched() -> None:
    caller = Caller()
    assert await until_caller_leaves(caller.receive, asyncio.sleep(0.01, "done")) == "done"
    caller.leaves.set()
    await asyncio.sleep(0.01)  # whoever still watched would cancel this
    with pytest.raises(ZeroDivisionError):
        await until_caller_leaves(caller.receive, failing())


async def failing() -> None:
    raise ZeroDivisionError


@pytest.mark.anyio
async def test_work_is_cancelled_and_cleaned_up_when_the_caller_leaves() -> None:
    caller, cleaned = Caller(), list[str]()
    asyncio.get_running_loop().call_later(0.01, caller.leaves.set)
    with pytest.raises(CallerLeft):
        await until_caller_leaves(caller.receive, forever(cleaned))
    task = asyncio.current_task()
    assert cleaned == ["up"] and task is not None and not task.cancelling()
    await asyncio.sleep(0)


@pytest.mark.anyio
async def test_who_is_cancelled_from_outside_ends_as_cancelled() -> None:
    for leaves in (False, True):
        caller, cleaned = Caller(), list[str]()
        task = asyncio.create_task(until_caller_leaves(caller.receive, forever(cleaned)))
        await asyncio.sleep(0.01)
        if leaves:
            caller.leaves.set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cleaned == ["up"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
