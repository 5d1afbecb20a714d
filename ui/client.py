"""The service's HTTP API as the pages use it: the one file of the pages that speaks HTTP.

Every call carries the credentials of the browser that asked, and nothing else: the pages hold no rights of their own,
so what a person may do is decided by the service alone, action by action. Whatever goes wrong comes out as a
`ServiceError` whose message a person can read as it is.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote, urlencode

import httpx2

SESSION_COOKIE = "hone_session"
TIMEOUT = httpx2.Timeout(30.0, connect=5.0, read=180.0)  # seconds; the service gives up on a silent engine before that
MODEL = "hone"  # the alias of what is live


class ServiceError(Exception):
    """`message` is for people; `status` is HTTP's, 0 when no answer came; `code` is the API's, for programs."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.message, self.status, self.code = message, status, code


@dataclass(frozen=True)
class Credentials:
    """Who the browser says it is: passed on as it came, never read."""

    cookie: str | None = None
    authorization: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Credentials:
        """Those in the headers of a browser's request."""
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(SESSION_COOKIE)
        except CookieError:
            morsel = None
        return cls(morsel.value if morsel else None, headers.get("authorization"))

    def __bool__(self) -> bool:
        return bool(self.cookie or self.authorization)

    def headers(self) -> dict[str, str]:
        headers = {}
        if self.cookie:
            headers["Cookie"] = f"{SESSION_COOKIE}={self.cookie}"
        if self.authorization:
            headers["Authorization"] = self.authorization
        return headers


@dataclass(frozen=True)
class Stage:
    """What goes on in a reply by principles: `name` is draft, critique, revision or decided; `text` came since."""

    name: str
    round: int
    principle: str
    text: str

    @classmethod
    def of(cls, event: dict[str, Any]) -> Stage | None:
        """That of a streamed event; None in most."""
        said = event.get("hone")
        if not isinstance(said, dict) or "stage" not in said:
            return None
        return cls(said["stage"], said.get("round", 0), said.get("principle", ""), said.get("text", ""))


@dataclass(frozen=True)
class Delta:
    """A piece of one reply. `index` tells the replies of one exchange apart; `finish_reason` comes with the last.

    `prompt_tokens` comes at the end: how many tokens all that was asked had. `stage`: instead of a piece, what goes on.
    """

    exchange_id: str
    adapter: str
    index: int
    text: str
    finish_reason: str | None
    prompt_tokens: int = 0
    stage: Stage | None = None


class ServiceClient:
    """One for each page app; it keeps connections open, and is closed with the app."""

    def __init__(self, api_url: str, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.api_url = api_url.rstrip("/")
        # trust_env: a proxy set for the machine must not get between the pages and a service on loopback.
        self._http = httpx2.AsyncClient(base_url=self.api_url, timeout=TIMEOUT, transport=transport, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    # -- chat -------------------------------------------------------------------------------------------------------

    async def chat(
        self,
        who: Credentials,
        messages: list[dict[str, str]],
        conversation_id: str,
        replies: int = 1,
        by_principles: bool = False,
    ) -> AsyncGenerator[Delta]:
        """Stream `replies` answers to `messages`, pieces of all of them interleaved; or one by principles."""
        body: dict[str, Any] = {"model": MODEL, "messages": messages, "stream": True, "n": replies}
        body["stream_options"] = {"include_usage": True}
        body["hone"] = {"conversation_id": conversation_id} | ({"constitutional": True} if by_principles else {})
        async with self._stream("POST", "/v1/chat/completions", who, body) as response:
            async for event in _events(response):
                for choice in event.get("choices", ()):
                    yield Delta(
                        exchange_id=event["id"],
                        adapter=event.get("system_fingerprint") or "",
                        index=choice["index"],
                        text=(choice.get("delta") or {}).get("content") or "",
                        finish_reason=choice.get("finish_reason"),
                        stage=Stage.of(event),
                    )
                if usage := event.get("usage"):
                    yield Delta(
                        exchange_id=event["id"],
                        adapter=event.get("system_fingerprint") or "",
                        index=0,
                        text="",
                        finish_reason=None,
                        prompt_tokens=usage["prompt_tokens"],
                    )

    async def context(self, who: Credentials) -> int | None:
        """How many tokens fit into a prompt and its reply; None where the engine doesn't say."""
        return (await self._model(who)).get("max_model_len")

    async def policy(self, who: Credentials) -> str:
        """Which chats are answered by the constitution: never, asked or always."""
        return str((await self._model(who)).get("constitutional", "asked"))

    async def _model(self, who: Credentials) -> dict[str, Any]:
        models: list[dict[str, Any]] = (await self._ask("GET", "/v1/models", who))["data"]
        return next((model for model in models if model["id"] == MODEL), {})

    async def exchange(self, who: Credentials, exchange_id: str) -> dict[str, Any]:
        return await self._ask("GET", f"/v1/exchanges/{quote(exchange_id, safe='')}", who)

    # -- feedback ---------------------------------------------------------------------------------------------------

    async def give_feedback(self, who: Credentials, feedback: dict[str, Any], idempotency_key: str) -> dict[str, Any]:
        return await self._ask("POST", "/v1/feedback", who, feedback, {"Idempotency-Key": idempotency_key})

    async def change_feedback(self, who: Credentials, feedback_id: str, feedback: dict[str, Any]) -> dict[str, Any]:
        return await self._ask("PUT", f"/v1/feedback/{quote(feedback_id, safe='')}", who, feedback)

    async def withdraw_feedback(self, who: Credentials, feedback_id: str) -> None:
        await self._ask("DELETE", f"/v1/feedback/{quote(feedback_id, safe='')}", who)

    async def my_feedback(self, who: Credentials, after: str | None = None, limit: int = 20) -> dict[str, Any]:
        """A page of one's own feedback: `{"data": […], "next": cursor or None}`."""
        query = f"?limit={limit}" + (f"&after={after}" if after else "")
        return await self._ask("GET", f"/v1/feedback{query}", who)

    # -- operators --------------------------------------------------------------------------------------------------

    async def get(self, who: Credentials, path: str) -> Any:
        """Read one of the operator's resources: `/v1/adapters`, `/v1/runs/…`, `/v1/serving`, …"""
        return await self._ask("GET", path, who)

    async def act(self, who: Credentials, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Do one of the operator's actions; `body` None sends none."""
        return await self._ask(method, path, who, body)

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def who_am_i(self, who: Credentials) -> dict[str, Any]:
        return await self._ask("GET", "/v1/whoami", who)

    async def new_session(self, headers: Mapping[str, str] | None = None) -> str:
        """A fresh browser identity; refused where the service asks for keys. `headers` tell where the browser is."""
        return str((await self._ask("POST", "/v1/sessions", Credentials(), headers=headers))["token"])

    async def session_of_key(self, key: str) -> str:
        """The session of a key's owner: the service sets it as a cookie when its operator page is opened with a key."""
        async with self._stream("GET", f"/operator?{urlencode({'key': key})}", Credentials()) as response:
            cookies = SimpleCookie(response.headers.get("Set-Cookie", ""))
        if SESSION_COOKIE not in cookies:
            raise ServiceError("The service gave no session for this key.", 502)
        return cookies[SESSION_COOKIE].value

    # -- transport --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _stream(
        self,
        method: str,
        path: str,
        who: Credentials,
        body: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        """The response, its body unread, if it is a success; a ServiceError in every other case."""
        try:
            sent = {**who.headers(), **(headers or {})}
            async with self._http.stream(method, path, json=body, headers=sent) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise refusal(response.status_code, response.text)
                yield response
        except httpx2.TimeoutException as error:
            raise ServiceError("The service took too long to answer. Try again in a moment.") from error
        except (httpx2.TransportError, httpx2.StreamError) as error:
            raise ServiceError(f"The service at {self.api_url} can't be reached. Is it running?") from error

    async def _ask(
        self,
        method: str,
        path: str,
        who: Credentials,
        body: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        async with self._stream(method, path, who, body, headers) as response:
            content = await response.aread()
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise ServiceError(f"What answers at {self.api_url} is not Hone's service.") from error


def refusal(status: int, body: str) -> ServiceError:
    """The error that an answer with `status` (400 or above) stands for, from OpenAI's error body where there is one."""
    try:
        error = json.loads(body)["error"]
        message, code = str(error["message"]), str(error.get("code") or "")
    except (ValueError, KeyError, TypeError):
        message, code = "", ""
    if status == 401:
        message = message or "This browser has no session, or an old one. Reload the page."
    return ServiceError(message or f"The service answered with an error (HTTP {status}).", status, code)


async def _events(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of a stream, up to `[DONE]`. An error event, and an end without `[DONE]`, raise ServiceError."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue  # a comment that keeps the connection alive, or the blank line between two events
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise ServiceError("The reply came garbled. Try again.") from error
        if "error" in event:
            raise refusal(500, data)
        yield event
    raise ServiceError("The reply broke off: the service closed the connection.")
