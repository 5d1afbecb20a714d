"""The policy in training as a passing adapter of an engine: loaded, asked for replies over HTTP, and taken out again.

A passing name and path are never used twice, because vLLM's prefix cache knows an adapter by these. No such name can be
a version's (`v12`), and of nothing else the service routes to it or unloads it. A home's passing adapters are known by
their folder: what a killed training left goes when the next one begins.

An engine that is away, full or restarting is waited for (`learner.patience`), given the same adapter again, and asked
for the replies that are still missing.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.engine_client import EngineClient
from learner.patience import TELL_SECONDS, Patience
from learner.sampler import Tell
from service.errors import EngineAway, EngineRefused, EngineUnavailable, TrainingFailed
from service.settings import Settings

AT_ONCE = 8
"""Requests under way at the engine, each for all replies to one prompt; chats are served beside them."""
UNLOAD_SECONDS = 3.0
"""What taking an adapter out may take in the end; a training that is told to stop has not much more."""

log = logging.getLogger("hone.learner")


@dataclass(frozen=True)
class Engines:
    """Which engines sample, and on what terms; the settings of the same names say more."""

    urls: tuple[str, ...]
    folder: Path  # of passing adapters; the engines read it under the same path
    slots: int  # adapters that an engine may hold, with those that serve chats
    context: int | None = None  # tokens of prompt and reply that they take; None: as many as the model
    wait_seconds: float = 900.0
    tolerance: float = 0.2
    timeout_seconds: float = 120.0
    silence_seconds: float = 15.0

    @classmethod
    def of(cls, settings: Settings) -> Engines:
        engine, learner = settings.engine, settings.learner
        return cls(
            urls=learner.rollout_urls or engine.urls,
            folder=passing_folder(settings),
            slots=engine.max_loras,
            context=engine.max_model_len,
            wait_seconds=learner.rollout_wait_seconds,
            tolerance=learner.rollout_tolerance,
            timeout_seconds=engine.timeout_seconds,
            silence_seconds=engine.silence_seconds,
        )

    def clients(self) -> list[EngineClient]:
        return [EngineClient(url, self.timeout_seconds) for url in self.urls]


def passing_folder(settings: Settings) -> Path:
    """Beside the versions, whose folder every engine sees."""
    return settings.adapters_folder / "passing"


class Round:
    """One passing adapter, from its files to the replies; gone from the engines afterwards."""

    def __init__(self, engines: Engines, name: str, path: Path, max_length: int, tell: Tell) -> None:
        self._engines, self._name, self._path, self._tell = engines, name, path, tell
        self._max_length = max_length
        self._patience = Patience(engines.wait_seconds)
        self._had: dict[str, EngineClient] = {}  # engines that may hold it, by URL

    async def replies(self, asked: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
        """The choices for each request, in order."""
        answers: dict[int, list[dict[str, Any]]] = {}
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client) for client in self._engines.clients()]
            try:
                while missing := [index for index in range(len(asked)) if index not in answers]:
                    try:
                        await self._ask(await self._ready(clients), asked, missing, answers)
                    except EngineUnavailable as error:
                        if any(index in answers for index in missing):
                            self._patience.end()
                        await self._patience.wait(error, self._tell)
            finally:
                await self._remove()
        self._patience.end()
        return [answers[index] for index in range(len(asked))]

    async def _ready(self, clients: Sequence[EngineClient]) -> EngineClient:
        """The first engine that is well, with the adapter loaded."""
        problems = []
        for client in clients:
            try:
                await self._bring(client)
                return client
            except EngineUnavailable as error:
                problems.append(error)
        raise EngineUnavailable(" ".join(error.message for error in problems), problems[0].hint) from problems[0]

    async def _bring(self, client: EngineClient) -> None:
        models = await client.models()
        await _unload_passing(client, self._engines.folder, but=self._name)
        for model in models:
            if model.max_model_len is not None and model.max_model_len < self._max_length:
                raise TrainingFailed(
                    f"The engine at {client.url} takes {model.max_model_len} tokens of prompt and reply, the model "
                    f"{self._max_length}.",
                    f"Set engine.max_model_len = {model.max_model_len}, so that both are trained on what fits.",
                )
        held = {model.name: model for model in models if model.parent is not None}
        if self._name in held:
            return
        passing = sum(_is_passing(model.path, self._engines.folder) for model in held.values())
        if len(held) - passing >= self._engines.slots:
            raise self._full(client)
        self._had[client.url] = client
        try:
            await client.load(self._name, self._path)
        except EngineRefused as error:
            if error.status == 409:
                raise self._full(client) from error
            if any(model.name == self._name for model in await client.models()):
                return  # an answer was lost on its way
            raise TrainingFailed(
                f"The engine at {client.url} refused the policy's adapter: {error.message}",
                f"It needs {self._engines.folder} under the same path, LoRA on (vLLM: --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True), and a rank limit of at least learner.rank. Or set "
                'learner.rollouts = "trainer".',
            ) from error

    def _full(self, client: EngineClient) -> EngineUnavailable:
        return EngineUnavailable(
            f"The engine at {client.url} has no slot free for the policy in training.",
            "Raise engine.max_loras, or lower rollout.keep_loaded.",
        )

    async def _ask(
        self,
        client: EngineClient,
        asked: Sequence[Mapping[str, Any]],
        missing: Sequence[int],
        answers: dict[int, list[dict[str, Any]]],
    ) -> None:
        """Put the answers to the missing requests into `answers`, several at once."""
        to_come, tasks = iter(missing), dict[asyncio.Task[list[dict[str, Any]]], int]()
        heard = time.monotonic()
        try:
            while True:
                while len(tasks) < AT_ONCE and (index := next(to_come, None)) is not None:
                    tasks[asyncio.create_task(self._one(client, asked[index]))] = index
                if not tasks:
                    return
                done, _ = await asyncio.wait(tasks, timeout=TELL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                self._tell(False)
                for task in done:
                    answers[tasks.pop(task)] = task.result()
                if not done and time.monotonic() - heard > self._engines.silence_seconds:
                    if self._name not in {model.name for model in await client.models()}:
                        raise EngineAway(f"The engine at {client.url} fell silent, and is another one now.")
                    heard = time.monotonic()
                elif done:
                    heard = time.monotonic()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, client: EngineClient, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            choices = await client.complete(body)
        except EngineRefused as error:
            if error.status == 404:
                raise EngineAway(f"The engine at {client.url} has restarted.") from error
            raise TrainingFailed(f"The engine at {client.url} refused to sample: {error.message}") from error
        if len(choices) != body["n"]:
            raise EngineAway(f"The engine at {client.url} gave {len(choices)} replies instead of {body['n']}.")
        return choices

    async def _remove(self) -> None:
        """What can't be unloaded now is, when the next adapter comes."""
        for client in self._had.values():
            with suppress(EngineUnavailable, EngineRefused, TimeoutError):
                async with asyncio.timeout(UNLOAD_SECONDS):
                    await client.unload(self._name)


def clear_leftovers(engines: Engines) -> None:
    """Take out what killed trainings of this home left in the engines that answer, and the files. Nothing else may be
    sampling for this home."""
    if not engines.folder.exists():
        return

    async def unload() -> None:
        for client in engines.clients():
            async with client:
                with suppress(EngineUnavailable, EngineRefused):
                    await _unload_passing(client, engines.folder)

    asyncio.run(unload())
    for path in engines.folder.iterdir():
        log.info("Removed %s, which an earlier training left.", path)
        shutil.rmtree(path, ignore_errors=True)


async def _unload_passing(client: EngineClient, folder: Path, but: str = "") -> None:
    for model in await client.models():
        if model.parent is not None and model.name != but and _is_passing(model.path, folder):
            await client.unload(model.name)


def _is_passing(path: str, folder: Path) -> bool:
    return Path(path).parent == folder
