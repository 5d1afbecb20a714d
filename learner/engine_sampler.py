"""Replies of the policy sampled by the engine that serves chats, over HTTP.

For each round the policy is written as an adapter where the engine can read it, loaded under a passing name, asked for
replies by token ids, and taken out again with its files. A passing name and path are never used twice, because vLLM's
prefix cache knows an adapter by these. No such name can be a version's (`v12`), and of nothing else the service routes
to it or unloads it. A home's passing adapters are known by their folder: what a killed training left goes when the
next one begins.

An engine that is away, full or restarting is waited for (`learner.patience`), given the same adapter again, and asked
for the replies that are still missing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from learner.backbone import Backbone
from learner.batch import TokenIds, collate
from learner.engine_client import EngineClient
from learner.patience import TELL_SECONDS, Patience
from learner.sampler import Tell
from learner.sampling import Reply, longest_prompt
from service.errors import EngineAway, EngineRefused, EngineUnavailable, TrainingFailed
from service.settings import Settings
from service.store.queries.adapters import number_of

AT_ONCE = 8
"""Requests under way at the engine, each for all replies to one prompt; chats are served beside them."""
CHECKED = 16
"""Replies of a round, the shortest, that the trainer scores, too, to see that the policy is what answered."""
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


class EngineSampler:
    """A `learner.sampler.Sampler`; one for each attempt at a run."""

    def __init__(self, backbone: Backbone, engines: Engines, run_id: str) -> None:
        self._backbone, self._engines = backbone, engines
        self._prefix = f"passing-{run_id or 'run'}-{secrets.token_hex(4)}"  # the same run may be tried again
        self._rounds = 0

    @property
    def max_length(self) -> int:
        return min(self._backbone.max_length, self._engines.context or self._backbone.max_length)

    def sample(
        self, prompts: Sequence[TokenIds], *, per_prompt: int, max_new_tokens: int, seed: int, tell: Tell
    ) -> list[list[Reply]]:
        """As the protocol says; the same seed gives the same replies where the engine's do.

        Raises EngineUnavailable when no engine has answered for `wait_seconds`, and TrainingFailed when the engine
        refuses the adapter or answers with something else than the policy.
        """
        self._rounds += 1
        name = f"{self._prefix}-{self._rounds}"
        assert number_of(name) is None
        asked = self._requests(name, prompts, per_prompt, max_new_tokens, seed)
        path = self._write(name)
        try:
            rows = asyncio.run(_Round(self._engines, name, path, self.max_length, tell).replies(asked))
        finally:
            shutil.rmtree(path, ignore_errors=True)
        replies = [[self._reply(row, choice) for choice in choices] for row, choices in enumerate(rows)]
        self._check(prompts, [reply for row in replies for reply in row])
        return replies

    def _requests(
        self, name: str, prompts: Sequence[TokenIds], per_prompt: int, max_new_tokens: int, seed: int
    ) -> list[dict[str, Any]]:
        """One for each prompt. What models and engines have defaults for is said, so that these don't apply."""
        room, rng = longest_prompt(self, max_new_tokens), Random(seed)
        same = {
            "model": name,
            "n": per_prompt,
            "max_tokens": self.max_length - room,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(self._backbone.eos_ids),
            "logprobs": 0,
            "return_token_ids": True,
        }
        return [{**same, "prompt": list(prompt[-room:]), "seed": rng.getrandbits(31)} for prompt in prompts]

    def _write(self, name: str) -> Path:
        """The policy as it is, whole or not at all."""
        unfinished, path = self._engines.folder / f"{name}.partial", self._engines.folder / name
        self._backbone.save_adapter(unfinished)
        return unfinished.rename(path)

    def _reply(self, row: int, choice: Mapping[str, Any]) -> Reply:
        """Raises TrainingFailed for one without token ids, or without the log-probability of each."""
        token_ids = tuple(choice.get("token_ids") or ())
        log_probs = tuple((choice.get("logprobs") or {}).get("token_logprobs") or ())
        if not token_ids or len(token_ids) != len(log_probs) or None in log_probs:
            raise TrainingFailed(
                "The engine gives no token ids with log-probabilities, which learning from its replies needs.",
                'Use a newer vLLM (it has to know `return_token_ids`), or set learner.rollouts = "trainer".',
            )
        return Reply(row, token_ids, sum(log_probs), token_ids[-1] in self._backbone.eos_ids, log_probs)

    @torch.no_grad()
    def _check(self, prompts: Sequence[TokenIds], replies: Sequence[Reply]) -> None:
        """An adapter can load without an error and change nothing, or be answered by another's weights."""
        some = sorted(replies, key=lambda reply: len(reply.token_ids) + len(prompts[reply.prompt]))[:CHECKED]
        batch = collate([(prompts[reply.prompt], reply.token_ids) for reply in some], self._backbone.pad_id)
        trainer = self._backbone.log_probs(batch).cpu()[batch.reply_mask]
        engine = torch.tensor([value for reply in some for value in reply.log_probs or ()])
        gap = float((trainer - engine).abs().mean())
        if not gap <= self._engines.tolerance:
            raise TrainingFailed(
                "The engine answers with something else than the policy: its log-probabilities differ from the "
                f"trainer's by {gap:.3f} nats per token, above learner.rollout_tolerance "
                f"({self._engines.tolerance:g}).",
                "Check that it serves the same base model, in a precision near the trainer's.",
            )


class _Round:
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
                    if not await client.is_healthy():
                        raise EngineAway(f"The engine at {client.url} fell silent.")
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
