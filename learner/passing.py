"""The policy in training as a passing adapter of an engine: loaded, asked for replies over HTTP, and taken out again.

A passing name and path are never used twice, because vLLM's prefix cache knows an adapter by these. No such name can be
a version's (`v12`), and of nothing else the service routes to it or unloads it. A home's passing adapters are known by
their folder: what a killed training left goes when the next one begins.

An engine that is away, full or restarting is waited for (`learner.patience`), given the same adapter again, and asked
for the replies that are still missing, but for prompts that engines go away over (`learner.suspects`). An adapter that
engines go away over while they load it is not tried on and on: they serve chats, too.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from learner.counted import counted
from learner.engine_client import EngineClient
from learner.patience import TELL_SECONDS, Patience
from learner.rollout_engines import Engines
from learner.sampler import Tell
from learner.suspects import MOST_DEATHS, Suspects
from service.adapters.engine import EngineBrokeOff, EngineFacts
from service.errors import EngineAway, EngineRefused, EngineUnavailable, TrainingFailed

AT_ONCE = 8
"""Requests under way at the engine, each for all replies to one prompt; chats are served beside them."""
UNLOAD_SECONDS = 3.0
"""What taking an adapter out may take in the end; a training that is told to stop has not much more."""

log = logging.getLogger("hone.learner")


class Round:
    """One passing adapter, from its files to the replies; gone from the engines afterwards."""

    def __init__(
        self,
        engines: Engines,
        name: str,
        path: Path,
        require: Callable[[str, EngineFacts], None],
        asked: Sequence[Mapping[str, Any]],
        suspects: Suspects,
        tell: Tell,
    ) -> None:
        """`require`: raises TrainingFailed for an engine, by URL, that can't take this adapter; `asked`: requests."""
        self._engines, self._name, self._path, self._require, self._tell = engines, name, path, require, tell
        self._asked, self._suspects = asked, suspects
        self._prompts = [tuple[int, ...](body["prompt"]) for body in asked]
        self._answers: dict[int, list[dict[str, Any]]] = {}  # by the request's place
        self._patience = Patience(engines.wait_seconds)
        self._had: dict[str, EngineClient] = {}  # engines that may hold it, by URL
        self._deaths_loading: list[str] = []  # engines, by URL, that went away over it since one last held it

    async def replies(self) -> list[list[dict[str, Any]]]:
        """The choices for each request, in order; none for a prompt that engines went away over.

        Raises EngineUnavailable after `wait_seconds` without an engine, and TrainingFailed.
        """
        self._suspects.ask(self._prompts)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client) for client in self._engines.clients()]
            try:
                while missing := self._missing:
                    try:
                        await self._ask(await self._ready(clients), missing)
                    except EngineUnavailable as error:
                        if self._missing != missing:
                            self._patience.end()
                        await self._patience.wait(error, self._tell)
            finally:
                await self._remove()
        self._patience.end()
        return [self._answers.get(index, []) for index in range(len(self._asked))]

    @property
    def _missing(self) -> list[int]:
        """Places of the requests that are still to be answered."""
        every = enumerate(self._prompts)
        return [at for at, prompt in every if at not in self._answers and prompt not in self._suspects.left_out]

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
        facts = await client.facts()
        self._require(client.url, facts)
        models = await client.models()
        await _unload_passing(client, self._engines.folder, but=self._name)
        held = {model.name: model for model in models if model.parent is not None}
        if self._name in held:
            self._deaths_loading.clear()  # it was only the answer that was lost
            return
        passing = sum(_is_passing(model.path, self._engines.folder) for model in held.values())
        if len(held) - passing >= self._engines.slots_of(facts):
            raise self._full(client)
        self._had[client.url] = client
        try:
            await client.load(self._name, self._path)
        except EngineBrokeOff as error:
            self._went_away_loading(client, error)
            raise
        except EngineRefused as error:
            if error.status == 409:
                raise self._full(client) from error
            if not any(model.name == self._name for model in await client.models()):
                raise TrainingFailed(
                    f"The engine at {client.url} refused the policy's adapter: {error.message}",
                    f"It needs {self._engines.folder} under the same path, LoRA on (vLLM: --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True), and a rank limit of at least learner.rank. Or set "
                    'learner.rollouts = "trainer".',
                ) from error  # else an answer was lost on its way
        self._deaths_loading.clear()

    def _went_away_loading(self, client: EngineClient, error: EngineBrokeOff) -> None:
        """Raises TrainingFailed where that happened MOST_DEATHS times, to engines or to one."""
        self._deaths_loading.append(client.url)
        log.warning("The engine at %s went away while it loaded the policy's adapter. %s", client.url, error)
        if len(self._deaths_loading) >= MOST_DEATHS:
            where = " and ".join(dict.fromkeys(self._deaths_loading))
            raise TrainingFailed(
                f"Engines went away {MOST_DEATHS} times while they loaded the policy's adapter (at {where}), so no "
                f"other one is given it. {error.message}",
                "See the engine's log: it may want memory for another adapter. With learner.rollouts = "
                '"trainer" the trainer samples itself.',
            ) from error

    def _full(self, client: EngineClient) -> EngineUnavailable:
        return EngineUnavailable(
            f"The engine at {client.url} has no slot free for the policy in training.",
            "Raise engine.max_loras, or lower rollout.keep_loaded.",
        )

    async def _ask(self, client: EngineClient, missing: Sequence[int]) -> None:
        """Answer the missing requests: of suspects one by one, then of others several at once."""
        is_suspect = {index: self._prompts[index] in self._suspects for index in missing}
        for of_suspects, at_once in ((True, 1), (False, AT_ONCE)):
            to_come = (index for index in missing if is_suspect[index] == of_suspects)
            under_way = dict[asyncio.Task[list[dict[str, Any]]], int]()
            try:
                await self._answer(client, to_come, at_once, under_way)
            except EngineBrokeOff:
                self._suspects.went_away_over(self._prompts[index] for index in under_way.values())
                raise
            finally:
                for task in under_way:
                    task.cancel()
                await asyncio.gather(*under_way, return_exceptions=True)

    async def _answer(
        self,
        client: EngineClient,
        to_come: Iterator[int],
        at_once: int,
        under_way: dict[asyncio.Task[list[dict[str, Any]]], int],
    ) -> None:
        """Raises EngineBrokeOff when the engine went away over what is then `under_way`, by its place."""
        heard = time.monotonic()
        while True:
            while len(under_way) < at_once and (index := next(to_come, None)) is not None:
                under_way[asyncio.create_task(self._one(client, self._asked[index]))] = index
            if not under_way:
                return
            done, _ = await asyncio.wait(under_way, timeout=TELL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            self._tell(False)
            failures = [error for task in done if (error := task.exception()) is not None]
            for task in done:
                if task.exception() is None:
                    self._answers[index := under_way.pop(task)] = task.result()
                    self._suspects.clear(self._prompts[index])
            if failures:
                raise min(failures, key=_meaning)
            if done:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._engines.silence_seconds:
                await self._is_still_there(client)
                heard = time.monotonic()

    async def _is_still_there(self, client: EngineClient) -> None:
        try:
            held = {model.name for model in await client.models()}
        except EngineAway as error:
            raise EngineBrokeOff(f"The engine at {client.url} fell silent. {error}") from error
        if self._name not in held:
            raise EngineBrokeOff(f"The engine at {client.url} fell silent, and is another one now.")

    async def _one(self, client: EngineClient, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            choices = await client.complete(body)
        except EngineRefused as error:
            if error.status == 404:
                raise EngineAway(f"The engine at {client.url} has restarted.") from error
            raise TrainingFailed(f"The engine at {client.url} refused to sample: {error.message}") from error
        if len(choices) != body["n"]:
            given = counted(len(choices), "reply", "replies")
            raise EngineBrokeOff(f"The engine at {client.url} gave {given} instead of {body['n']}.")
        return choices

    async def _remove(self) -> None:
        """What can't be unloaded now is, when the next adapter comes."""
        for client in self._had.values():
            with suppress(EngineUnavailable, EngineRefused, TimeoutError):
                async with asyncio.timeout(UNLOAD_SECONDS):
                    await client.unload(self._name)


def _meaning(error: BaseException) -> int:
    """Which of several failures says most: what is no engine's going away, then that it went over what was asked."""
    return 0 if not isinstance(error, EngineUnavailable) else 1 if isinstance(error, EngineBrokeOff) else 2


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
