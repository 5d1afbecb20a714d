"""The service over HTTP, as anybody uses it; every request is counted, and so is every one that went wrong."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx2

from service.errors import HoneError

ALWAYS_REVISED = (
    "This service answers every chat by its constitution, so its replies are not its adapters' own and nothing can be "
    'measured. Start it with constitution.serve = "asked" for as long as you simulate.'
)
MOST_AT_ONCE = 16
SECONDS = 120.0
"""Longest silence of the service before a request counts as failed."""


@dataclass
class Counts:
    """`failed`: answered with an error or not at all. `interrupted`: a stream that broke off before its end."""

    requests: int = 0
    failed: int = 0
    interrupted: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        self.problems = [*self.problems, problem][-5:]


class ServiceRefused(HoneError):
    """An answer of the service that a simulation can't go on without."""

    code, exit_code = "service_refused", 8


@dataclass(frozen=True)
class Reply:
    """One choice of an exchange. `logprobs`: natural, of each token, as sampled."""

    exchange_id: str
    index: int
    text: str
    logprobs: tuple[float, ...]
    adapter: str


class Client:
    """Use as an async context manager. `key`: an operator's, for "learn now".

    People go by `user` on loopback, unless `check` finds that this service lets nobody in without a key.
    """

    def __init__(self, url: str, key: str | None, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.counts = Counts()
        self._operator = {"authorization": f"Bearer {key}"} if key else {}
        is_local = httpx2.URL(url).host in ("127.0.0.1", "localhost", "::1")
        self._by_name = is_local
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        limits = httpx2.Limits(max_connections=64)
        self._http = httpx2.AsyncClient(
            base_url=url, timeout=SECONDS, limits=limits, trust_env=not is_local, transport=transport
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def check(self) -> None:
        """Learn whether people may go by name here, and make sure of the operator's key and that replies are the
        adapters' own. Raises ServiceRefused."""
        # A service that listens beyond this machine wants a key on loopback, too, and so does one behind a proxy.
        nameless = await self._send("GET", "/v1/whoami", None, {})
        self._by_name = nameless.status_code == 200
        await self.call("GET", "/v1/serving")
        models = (await self.call("GET", "/v1/models"))["data"]
        if any(one.get("constitutional") == "always" for one in models):
            raise ServiceRefused(ALWAYS_REVISED)

    async def chat(self, model: str, prompt: str, user: str, **sampling: Any) -> list[Reply]:
        """One exchange in a conversation of its own. Raises ServiceRefused."""
        body = {"logprobs": True, **self._chat_body(model, prompt, user), **sampling}
        answer = await self.call("POST", "/v1/chat/completions", body, user)
        return [
            Reply(
                answer["id"],
                choice["index"],
                choice["message"]["content"] or "",
                tuple(token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or ()),
                answer["system_fingerprint"],
            )
            for choice in answer["choices"]
        ]

    async def stream(self, model: str, prompt: str, user: str) -> bool:
        """One streamed reply, read to its end; whether it came whole. Never raises: trouble is counted."""
        body = {"stream": True, **self._chat_body(model, prompt, user)}
        self.counts.requests += 1
        began = finished = broken = False
        try:
            async with self._http.stream(
                "POST", "/v1/chat/completions", json=body, headers=self._headers(user)
            ) as answer:
                if answer.status_code != 200:
                    self.counts.note(f"{answer.status_code} {(await answer.aread())[:200]!r}")
                    self.counts.failed += 1
                    return False
                async for line in answer.aiter_lines():
                    began = began or line.startswith("data: ")
                    finished = finished or line == "data: [DONE]"
                    if line.startswith('data: {"error"'):
                        broken = True
                        self.counts.note(line[:200])
        except httpx2.HTTPError as error:
            self.counts.note(f"{type(error).__name__}: {error}")
        whole = finished and not broken
        if not whole:
            self.counts.interrupted += began
            self.counts.failed += not began
        return whole

    async def call(self, method: str, path: str, body: Any = None, user: str | None = None) -> Any:
        """One JSON request, as `user` or else as the operator. Raises ServiceRefused with the service's own words."""
        answer = await self._send(method, path, body, self._headers(user) if user else self._operator)
        if answer.status_code >= 400:
            self.counts.failed += 1
            self.counts.note(f"{answer.status_code} {answer.text[:200]}")
            raise ServiceRefused(f"{method} {path} was answered {answer.status_code}: {_message(answer)}")
        return answer.json()

    async def _send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx2.Response:
        """Raises ServiceRefused where nothing is answered."""
        self.counts.requests += 1
        try:
            async with self._room:
                return await self._http.request(method, path, json=body, headers=headers)
        except httpx2.HTTPError as error:
            self.counts.failed += 1
            self.counts.note(f"{type(error).__name__}: {error}")
            hint = f"Is a service running at {self._http.base_url}?" if isinstance(error, httpx2.ConnectError) else ""
            said = str(error).rstrip(".") or type(error).__name__
            raise ServiceRefused(f"{method} {path} failed: {said}.", hint) from error

    def _headers(self, user: str) -> dict[str, str]:
        return {"x-hone-user": user} if self._by_name else self._operator

    def _chat_body(self, model: str, prompt: str, user: str) -> dict[str, Any]:
        conversation = {"conversation_id": f"sim-{uuid.uuid4().hex}"}
        messages = [{"role": "user", "content": prompt}]
        return {"model": model, "messages": messages, "user": user, "hone": conversation}


def _message(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return answer.text[:200]
