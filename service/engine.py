"""The engine client: the one place of the service that speaks to an engine (vLLM, or the embedded one).

It always asks for token ids and log-probabilities, because every exchange is kept with both; who may see them is
decided further out (`service.chat.recording`). A stream comes as the payloads of its events, untouched: whoever needs
them parsed parses them once. Closing a stream closes its connection, which is how an engine learns that its work is no
longer wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

import httpx2
import orjson

from service.adapters.engine import EngineBrokeOff, EngineFacts
from service.adapters.engine_answers import (
    Answer,
    EngineModel,
    is_aborted,
    is_going_away,
    read_facts,
    read_hones_health,
    read_models,
    read_refusal,
)
from service.engine_connection import KEEPALIVE_SECONDS, Connection, Connections
from service.errors import BadInput, ContextExceeded, EngineAway, EngineRefused, EngineUnavailable

T = TypeVar("T")
CONNECT_SECONDS = 5.0
DONE = b"[DONE]"
NAME_AN_ENGINE = "Name the address of an engine: where vLLM answers, or the embedded one."


class EngineFailed(EngineUnavailable):
    """The engine answered with an error that is its own: `answered` is the status, `words` are what it said."""

    def __init__(self, answered: int, words: str) -> None:
        super().__init__(f"The engine answered {answered}: {words}", retry_after=1)
        self.answered, self.words = answered, words


class NoEngine(EngineUnavailable):
    """A Hone service answers there, as where somebody names Hone's own address."""

    def __init__(self, url: str) -> None:
        super().__init__(f"What answers at {url} is a Hone service and no engine.", NAME_AN_ENGINE)


class EngineGaveUp(EngineAway):
    """The engine ended the reply before its end: it is being stopped. That says nothing about what was asked."""


class Engine:
    """One engine, by URL. After `silence_seconds` without a word in a request it is asked whether it is well.

    While it is, a reply may take as long as it takes; loading and scoring have `timeout_seconds`.
    """

    def __init__(
        self,
        url: str,
        timeout_seconds: float = 120.0,
        silence_seconds: float = 15.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self._timeout, self._silence = timeout_seconds, silence_seconds
        self._base: EngineModel | None = None
        self._salts: dict[str, str] = {}
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            transport=transport,
            timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(keepalive_expiry=KEEPALIVE_SECONDS),
            verify=self.url.startswith("https"),  # loading certificates takes its time
            trust_env=False,
        )
        self._replies = Connections(self.url, silence_seconds, CONNECT_SECONDS, self.is_healthy)

    async def close(self) -> None:
        self._replies.close()
        await self._http.aclose()

    async def is_healthy(self) -> bool:
        try:
            return (await self._http.get("/health", timeout=CONNECT_SECONDS)).status_code == 200
        except httpx2.HTTPError:
            return False

    async def models(self) -> tuple[EngineModel, ...]:
        """What the engine holds now, base and adapters."""
        models = read_models(self._list_in(await self._request("GET", "/v1/models"), "data")["data"])
        self._base = next((model for model in models if model.parent is None), None)
        return models

    async def base(self) -> EngineModel:
        """The base model, as last seen: it does not change while an engine runs."""
        if self._base is None:
            await self.models()
        if self._base is None:
            raise EngineUnavailable(f"The engine at {self.url} lists no base model.")
        return self._base

    async def facts(self) -> EngineFacts:
        """What it tells of itself; asks for nothing that would change it. Raises NoEngine."""
        base = await self.base()
        paths = ("/health", "/version", "/metrics", "/v1/load_lora_adapter")
        health, version, metrics, loading = await asyncio.gather(*map(self._peek, paths))
        if read_hones_health(health.content) is not None:
            raise NoEngine(self.url)
        return read_facts(base.name, base.path, base.max_model_len, version, metrics, loading)

    async def load_adapter(self, name: str, path: str) -> None:
        """Raises EngineRefused when the engine finds the folder missing or broken, the name taken, the rank too large.

        vLLM answers 500 to most of that: an engine that is well afterwards has refused, unless it is being stopped.
        """
        try:
            work = self._request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
            await self._while_healthy(work)
        except EngineFailed as error:
            if error.answered != 500:
                raise
            if is_going_away(error.words):
                raise EngineGaveUp(str(error), retry_after=1) from error
            raise EngineRefused(error.words, 500) from error

    async def unload_adapter(self, name: str) -> None:
        await self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def salt_cache(self, name: str, salt: str) -> None:
        """Send `salt` with every request to an adapter.

        vLLM's prefix cache knows an adapter by name and path alone. When both come back with other weights, as after a
        home was wiped or a database restored, it would answer from what it computed under those before.
        """
        self._salts[name] = salt

    async def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A whole chat completion, with token ids and log-probabilities; it may take long while the engine is well."""
        with closing(await self._chat({**body, "return_token_ids": True})) as answer:
            return unless_aborted(self._list_in(await answer.content(), "choices"))

    async def chat_stream(self, body: Mapping[str, Any]) -> Connection:
        """The same, event by event; close it. Errors that come before the first token are raised here."""
        return await self._chat({**body, "stream": True, "return_token_ids": True})

    async def _chat(self, body: Mapping[str, Any]) -> Connection:
        try:
            answer = await self._replies.post("/v1/chat/completions", orjson.dumps(self._salted(body)))
        except (OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        if answer.status != 200:
            with closing(answer):
                raise _refusal(answer.status, await answer.content())
        return answer

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A text completion: `prompt` may be text or token ids."""
        work = self._request("POST", "/v1/completions", self._salted(body))
        return unless_aborted(self._list_in(await self._while_healthy(work), "choices"))

    async def score(self, model: str, prompt: Sequence[int], reply: Sequence[int]) -> tuple[float, ...]:
        """Natural log-probability under `model` of each token of `reply`, given `prompt` and the tokens before it.

        Raises BadInput without a prompt: then nothing stands before the first token.
        """
        if not reply:
            return ()
        if not prompt:
            raise BadInput("The token ids of this prompt were not kept, so its replies can't be scored.")
        tokens = [*prompt, *reply]
        answer = await self.complete(
            {"model": model, "prompt": tokens, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        )
        scored = answer["choices"][0].get("prompt_logprobs") or []
        if len(scored) != len(tokens):
            raise EngineUnavailable(f"The engine at {self.url} scored {len(scored)} tokens of {len(tokens)}.")
        return tuple(float(scored[at][str(tokens[at])]["logprob"]) for at in range(len(prompt), len(tokens)))

    async def next_token(self, model: str, tokens: Sequence[int]) -> tuple[int, float]:
        """The likeliest token after `tokens` under `model`, and its natural log-probability.

        An ordinary request, which the engine may answer with the help of its prefix cache.
        """
        answer = await self.complete(
            {
                "model": model, "prompt": list(tokens), "max_tokens": 1, "temperature": 0.0, "logprobs": 0,
                "return_token_ids": True,
            }
        )  # fmt: skip
        choice = answer["choices"][0]
        said, found = (choice.get("logprobs") or {}).get("token_logprobs") or [], choice.get("token_ids") or []
        if len(said) != 1 or len(found) != 1:
            raise EngineUnavailable(f"The engine at {self.url} does not say what it goes on with, or how likely it is.")
        return int(found[0]), float(said[0])

    def _salted(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        salt = self._salts.get(body.get("model", ""))
        return body if salt is None else {**body, "cache_salt": salt}

    async def _peek(self, path: str) -> Answer:
        request = self._http.build_request("GET", path, timeout=CONNECT_SECONDS)
        response = await self._send(request)
        return Answer(response.status_code, response.content)

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        content = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"content-type": "application/json"}
        request = self._http.build_request(method, path, content=content, headers=headers)
        response = await self._send(request)
        if response.status_code != 200:
            raise _refusal(response.status_code, response.content)
        return response.content

    async def _while_healthy(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` brings. Nothing comes until all is there, so whether the engine is at it says its health.

        Raises EngineBrokeOff when it isn't well meanwhile, or after it has failed at it.
        """
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait((task,), timeout=self._silence))[0]:
                if not await self.is_healthy():
                    raise EngineBrokeOff(f"The engine at {self.url} fell silent.", retry_after=1)
            return task.result()
        except EngineFailed as error:
            if await self.is_healthy():
                raise
            raise EngineBrokeOff(f"The engine at {self.url} isn't well any more. {error}", retry_after=1) from error
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await self._send_again_if_cut_off(request)
        except httpx2.TimeoutException as error:
            kind = EngineAway if isinstance(error, httpx2.ConnectTimeout) else EngineBrokeOff
            raise kind(f"The engine at {self.url} did not answer in time.", retry_after=1) from error
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error

    async def _send_again_if_cut_off(self, request: httpx2.Request) -> httpx2.Response:
        """An idle connection may be closed by the engine just as we use it: then nothing has happened yet."""
        try:
            return await self._http.send(request)
        except httpx2.RemoteProtocolError as error:
            try:
                return await self._http.send(request)
            except httpx2.ConnectError:
                raise error from None  # it has gone with the request

    def _list_in(self, content: bytes, field: str) -> dict[str, Any]:
        """The answer, in which `field` must hold a list."""
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get(field), list):
            raise EngineUnavailable(f"What answers at {self.url} doesn't speak vLLM's API.", "Check engine.urls.")
        return answer

    def _unreachable(self, error: Exception) -> EngineAway:
        is_mid_request = isinstance(error, httpx2.HTTPError) and not isinstance(error, httpx2.ConnectError)
        kind = EngineBrokeOff if is_mid_request else EngineAway
        return kind(
            f"The engine at {self.url} can't be reached ({error or type(error).__name__}).",
            "It may still be starting.",
            retry_after=1,
        )


def unless_aborted(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer, or a chunk of one. vLLM ends what it aborts as if it were whole. Raises EngineGaveUp for that."""
    if any(map(is_aborted, answer["choices"])):
        raise EngineGaveUp("The engine gave the reply up, as one does that is being stopped.", retry_after=1)
    return answer


def _refusal(status: int, content: bytes) -> EngineRefused | EngineUnavailable:
    """What the engine said, as our error: 4xx is the request's fault and keeps its status, else it is the engine's."""
    message, param = read_refusal(content)
    if status == 400 and "context" in message.lower():
        return ContextExceeded(message, status, param=param)
    if status in (400, 404, 409, 413, 422):
        return EngineRefused(message, status, param=param)
    return EngineFailed(status, message)
