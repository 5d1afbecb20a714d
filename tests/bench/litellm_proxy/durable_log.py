"""LiteLLM's log of requests, as durable as the service's store: a line of JSON, on the disk before the caller hears.

LiteLLM finds it by `callbacks: durable_log.log` in its configuration; it runs in LiteLLM's own environment.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

PATH = os.environ["DURABLE_LOG"]


class DurableLog(CustomLogger):  # type: ignore[misc]  # untyped where LiteLLM is not installed
    def __init__(self) -> None:
        super().__init__()
        self._file = os.open(PATH, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> Any:
        """LiteLLM calls it between the engine's answer and its own."""
        line = json.dumps({"messages": data["messages"], "response": response.model_dump()}, default=str)
        await asyncio.to_thread(self._write, line.encode() + b"\n")
        return response

    def _write(self, line: bytes) -> None:
        os.write(self._file, line)
        os.fsync(self._file)


log = DurableLog()
