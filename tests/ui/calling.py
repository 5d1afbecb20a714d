"""Calls of the pages' client, one after the other, as anna or as somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ui.client import Credentials, ServiceClient

T = TypeVar("T")
ANNA = Credentials(cookie="anna")


def using(api_url: str, act: Callable[[ServiceClient], Awaitable[T]]) -> T:
    """What `act` returns, given a client that is closed afterwards."""

    async def run() -> T:
        client = ServiceClient(api_url)
        try:
            return await act(client)
        finally:
            await client.close()

    return asyncio.run(run())
