"""What a training asks of an engine (vLLM's HTTP API): load and unload an adapter, and complete prompts.

The service's own client of that API (`service.engine`) is the service's: it streams, routes and records. This one waits
for whole replies, however long they take; whoever uses it asks for the engine's health meanwhile. What the answers mean
both read in the same way (`service.adapters.engine_answers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx2

from service.adapters.engine import EngineBrokeOff, EngineFacts
from service.adapters.engine_answers import (
    Answer,
    EngineModel,
    is_aborted,
    is_going_away,
    read_facts,
    read_models,
    read_refusal,
)
from service.errors import EngineAway, EngineRefused

LOAD = "/v1/load_lora_adapter"
CONNECT_SECONDS = 5.0
NOBODY_THERE = 503
"""What a proxy answers for an engine that is away; it has not seen the request."""


class EngineClient:
    """One engine, by URL; an async context manager. All raise EngineAway when the engine is in doubt, which passes, and
    EngineRefused, with its status and words, when it won't. EngineAway is EngineBrokeOff where it had the request."""

    def __init__(self, url: str, timeout_seconds: float, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """`timeout_seconds`: for all but completions."""
        self.url = url
        self._http = httpx2.AsyncClient(
            base_url=url, transport=transport, timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            verify=url.startswith("https"), trust_env=False,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *ended: object) -> None:
        await self._http.aclose()

    async def is_healthy(self) -> bool:
        try:
            return (await self._http.get("/health", timeout=CONNECT_SECONDS)).status_code == 200
        except httpx2.HTTPError:
            return False

    async def models(self) -> tuple[EngineModel, ...]:
        """What it holds now, if it is well."""
        if not await self.is_healthy():
            raise EngineAway(f"The engine at {self.url} can't be reached, or isn't well.")
        listed = (await self._ask("GET", "/v1/models")).get("data")
        if not isinstance(listed, list):
            raise self._not_vllm()
        return read_models(listed)

    async def facts(self) -> EngineFacts:
        """What it tells of itself, if it is well."""
        base = next((model for model in await self.models() if model.parent is None), None)
        if base is None:
            raise self._not_vllm()
        version, metrics, loading = [await self._peek(path) for path in ("/version", "/metrics", LOAD)]
        return read_facts(base.name, base.path, base.max_model_len, version, metrics, loading)

    async def load(self, name: str, path: Path) -> None:
        """vLLM answers 500 to most of what it won't load: from an engine that stays well that is a refusal."""
        try:
            await self._ask("POST", LOAD, {"lora_name": name, "lora_path": str(path)})
        except EngineRefused as error:
            if error.status >= 500 and (error.status == NOBODY_THERE or is_going_away(error.message)):
                raise EngineAway(f"The engine at {self.url} is going away. {error}") from error
            if error.status >= 500 and not await self.is_healthy():
                raise EngineBrokeOff(f"The engine at {self.url} isn't well any more. {error}") from error
            raise

    async def unload(self, name: str) -> None:
        """What isn't there any more is as good as unloaded."""
        try:
            await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        except EngineRefused as error:
            if error.status != 404:
                raise

    async def complete(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The choices of a text completion, in their order."""
        try:
            answer = await self._ask("POST", "/v1/completions", body, httpx2.Timeout(None, connect=CONNECT_SECONDS))
        except EngineRefused as error:
            if error.status >= 500:
                kind = EngineAway if error.status == NOBODY_THERE else EngineBrokeOff
                raise kind(f"The engine at {self.url} failed: {error}") from error
            raise
        choices = answer.get("choices")
        if not isinstance(choices, list):
            raise self._not_vllm()
        if any(map(is_aborted, choices)):
            raise EngineAway(f"The engine at {self.url} gave up its replies, as one does that is being stopped.")
        return sorted(choices, key=lambda choice: int(choice["index"]))

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, within: httpx2.Timeout | None = None
    ) -> dict[str, Any]:
        response = await self._send(method, path, body, within)
        if response.status_code != 200:
            raise EngineRefused(read_refusal(response.content)[0], response.status_code)
        try:
            answer = response.json()
        except ValueError:  # adapters are loaded with plain words
            return {}
        return answer if isinstance(answer, dict) else {}

    async def _peek(self, path: str) -> Answer:
        response = await self._send("GET", path)
        return Answer(response.status_code, response.content)

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, within: httpx2.Timeout | None = None
    ) -> httpx2.Response:
        try:
            return await self._http.request(method, path, json=body, timeout=within or httpx2.USE_CLIENT_DEFAULT)
        except httpx2.HTTPError as error:
            was_there = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            kind = EngineBrokeOff if was_there else EngineAway
            raise kind(f"The engine at {self.url} went away ({error or type(error).__name__}).") from error

    def _not_vllm(self) -> EngineAway:
        return EngineAway(f"What answers at {self.url} doesn't speak vLLM's API.", "Check learner.rollout_urls.")
