"""A judge behind an OpenAI-compatible endpoint: verdicts from its log-probabilities, or else as it writes them.

Several questions are under way at once. One that times out, breaks off, meets a busy server or gets nonsense for an
answer is asked again, after as long as the server says if it says so, and given up after so many times. A server that
answered before and can't be reached is waited for. One that refuses us as such ends it at once, since it would refuse
every other question, too, and so does one that has given no verdict on so many questions in a row.

A question ends with how to answer it. A model that practised verdicts on the question alone, as the built-in one, makes
nothing of that, so a question whose answer makes no sense is asked again in the other manner; the one that brings the
first verdict is the first one from then on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from learner.batch import unheard
from learner.constitution.asking import Request
from learner.constitution.judging import HeardOdds
from learner.constitution.named_judge import told
from learner.constitution.waiting import SayWhy, Waiting
from service.constitution import Constitution
from service.constitution.odds import letter, letter_log_probs, share_of_a
from service.constitution.prompts import OPTIONS, read_verdict
from service.errors import TrainingFailed
from service.side_by_side import side_by_side

log = logging.getLogger("hone.learner")

UNDER_WAY = 8
CONNECT_SECONDS = 5.0
VERDICT_TOKENS, THOUGHT_TOKENS = 16, 512
TOP_LOG_PROBS = 10
REFUSALS = {
    401: "It wants a key, or another one: set the environment variable that constitution.judge_key_variable names.",
    403: "Its key may not ask this model: see constitution.judge_model and constitution.judge_key_variable.",
    404: "Check constitution.judge (with /v1, if that is where its API begins) and constitution.judge_model.",
}
LONGEST_PAUSE = 30.0
"""Seconds between two attempts at a question, at most, unless the server asks for more; the first is a fraction of
one."""
FIRST_PAUSE = 0.25
LONGEST_ASKED_FOR = 300.0
"""Seconds that are waited where the server asks for it (Retry-After), at most."""
MOST_IN_VAIN = 24
"""Questions in a row that came to nothing, each with all its attempts."""
AT_FIRST = 8
"""The same of a judge that has never given a verdict."""


class EndpointJudge:
    """See the module's docstring. `url`: up to where `/chat/completions` follows; `say`: hears what it is waited for;
    `transport`: for tests."""

    def __init__(
        self,
        url: str,
        model: str,
        constitution: Constitution,
        *,
        key: str = "",
        timeout_seconds: float = 60.0,
        retries: int = 2,
        say: SayWhy = unheard,
        transport: httpx2.AsyncBaseTransport | None = None,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self._url, self._model, self._constitution = url.rstrip("/"), model, constitution
        self._told = told(self._url)
        self._key = key
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._seconds = timeout_seconds
        self._timeout = httpx2.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds))
        self._retries, self._transport, self._first_pause = retries, transport, first_pause
        self._tells_odds = True
        self._refused: TrainingFailed | None = None
        self._warned = set[str]()
        self._last_trouble = ""
        self._in_vain = 0  # questions since the last that was answered
        self._waiting = Waiting(self._told, say)
        self._is_understood, self._says_how = False, True  # whether a question first ends with how to answer it

    def odds(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds = unheard) -> list[float | None]:
        """As `learner.constitution.judging.Judge` says."""
        return asyncio.run(self._all(requests, reasoned, heard))

    async def _all(self, requests: Sequence[Request], reasoned: bool, heard: HeardOdds) -> list[float | None]:
        places = asyncio.Semaphore(UNDER_WAY)
        async with httpx2.AsyncClient(
            headers=self._headers, timeout=self._timeout, transport=self._transport, trust_env=False
        ) as http:

            async def one(place: int, request: Request) -> float | None:
                async with places:
                    if self._refused:
                        raise self._refused
                    found = await self._verdict(http, request, reasoned)
                if found is None:
                    return None
                odds, thoughts = found
                heard(place, odds, thoughts if reasoned else "")
                return odds

            return await side_by_side(one(place, request) for place, request in enumerate(requests))

    async def _verdict(self, http: httpx2.AsyncClient, request: Request, reasoned: bool) -> tuple[float, str] | None:
        """The odds of A, and what it wrote before the verdict; None when it was asked once and `retries` times more in
        vain."""
        pause, says_how = self._first_pause, self._says_how
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(pause)
                pause = min(4 * pause, LONGEST_PAUSE)
            choice = await self._answer(http, request, reasoned, says_how)
            found = self._read(choice)
            if found is not None:
                if not self._is_understood:
                    self._is_understood, self._says_how = True, says_how
                self._in_vain = 0
                return found
            if choice:
                says_how = not says_how
        self._in_vain += 1
        most = MOST_IN_VAIN if self._is_understood else AT_FIRST
        if self._in_vain >= most:
            self._refused = TrainingFailed(
                f"The judge at {self._told} gave no verdict on {most} questions in a row: {self._last_trouble}.",
                "Check constitution.judge and constitution.judge_model, or give it more time "
                "(constitution.judge_timeout_seconds) or attempts (constitution.judge_retries).",
            )
            raise self._refused
        return None

    async def _answer(
        self, http: httpx2.AsyncClient, request: Request, reasoned: bool, says_how: bool
    ) -> dict[str, Any]:
        """The first choice of its answer; empty where there was none to read. Raises TrainingFailed when refused."""
        for tells_odds in (True, False) if self._tells_odds else (False,):
            try:
                response = await self._post(http, self._body(request, reasoned, says_how, tells_odds))
            except TimeoutError:
                return self._nothing(f"it took more than {self._seconds:g} s")
            except httpx2.InvalidURL as error:
                self._refused = TrainingFailed(f"constitution.judge is no address: {error}.")
                raise self._refused from error
            except httpx2.HTTPError as error:
                return self._nothing(f"{type(error).__name__} {error}".strip())
            if response.status_code in (400, 422) and tells_odds:  # it may know no log-probabilities
                continue
            if response.status_code in REFUSALS:
                self._refused = TrainingFailed(
                    f"The judge at {self._told} refuses (HTTP {response.status_code}): {self._words(response)}.",
                    REFUSALS[response.status_code],
                )
                raise self._refused
            if response.status_code != 200:
                self._waiting.is_asked_for(min(_asked_for(response), LONGEST_ASKED_FOR))
                return self._nothing(f"HTTP {response.status_code}: {self._words(response)}")
            self._tells_odds = tells_odds
            return self._choice(response)
        return {}

    async def _post(self, http: httpx2.AsyncClient, body: dict[str, Any]) -> httpx2.Response:
        """Its answer, whenever it may be asked. Raises TimeoutError, and what httpx2 does."""
        while True:
            await self._waiting.over()
            try:
                async with asyncio.timeout(self._seconds):  # httpx's own is for each piece of an answer
                    response = await http.post(f"{self._url}/chat/completions", json=body)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if not self._waiting.is_gone():
                    raise
            else:
                self._waiting.is_answered()
                return response

    def _body(self, request: Request, reasoned: bool, says_how: bool, tells_odds: bool) -> dict[str, Any]:
        prefix = self._constitution.verdict_prefix
        either = f"“{prefix}{OPTIONS[0]}” or “{prefix}{OPTIONS[1]}”"
        wanted = f"End with {either}." if reasoned else f"Answer {either}, and nothing else."
        *before, last = request
        messages = [*before, {**last, "content": f"{last['content']}\n{wanted}" if says_how else last["content"]}]
        body: dict[str, Any] = {
            "messages": messages,
            "temperature": 0,
            "max_tokens": THOUGHT_TOKENS if reasoned else VERDICT_TOKENS,
        }
        if self._model:
            body["model"] = self._model
        return body | ({"logprobs": True, "top_logprobs": TOP_LOG_PROBS} if tells_odds else {})

    def _choice(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            choice = response.json()["choices"][0]
        except (ValueError, KeyError, IndexError, TypeError):
            return self._nothing("it answers with something else than a chat completion")
        return choice if isinstance(choice, dict) else {}

    def _read(self, choice: dict[str, Any]) -> tuple[float, str] | None:
        """The odds of A, by the log-probabilities of the verdict's letter, or 1 or 0 as it is written; and what it
        wrote before that."""
        message = choice.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str):
            if choice:
                self._nothing("it answers without a text")
            return None
        said = read_verdict(self._constitution, content)
        if said is None:
            self._nothing(f"it answers {content[:80]!r}")
            return None
        prefix = self._constitution.verdict_prefix
        by_letter = _letter_log_probs(choice.get("logprobs"), prefix, said)
        return share_of_a(by_letter) if by_letter else float(said == "A"), content.rpartition(prefix)[0].strip()

    def _words(self, response: httpx2.Response) -> str:
        """What it says itself, in short; some repeat the key or the address that they were shown."""
        try:
            error = response.json()["error"]
            words = error["message"] if isinstance(error, dict) else error
        except (ValueError, KeyError, TypeError):
            words = response.text
        said = " ".join(str(words).split()).replace(self._key or "\0", "…").replace(self._url, self._told)
        return said[:200].rstrip(".") or "it says nothing"

    def _nothing(self, why: str) -> dict[str, Any]:
        """Say so once for each kind of trouble."""
        self._last_trouble = why
        if why not in self._warned and len(self._warned) < 20:
            self._warned.add(why)
            log.warning("The judge at %s gave no verdict: %s", self._told, why)
        return {}


def _asked_for(response: httpx2.Response) -> float:
    """Seconds that a busy server asks to be left alone for (RFC 9110, 10.2.3); 0: it says nothing that can be read."""
    said = response.headers.get("retry-after", "")
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return 0.0


def _letter_log_probs(told: Any, prefix: str, said: str) -> dict[str, float]:
    """Log-probabilities of the letters where `said`, the verdict's, stands: the first one behind the last `prefix`, or
    else the last one. Empty where that isn't told."""
    content = told.get("content") if isinstance(told, dict) else None
    tokens = [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []
    text, behind, before = "", 0, list[int]()  # characters
    for one in tokens:
        before.append(len(text))
        text += str(one.get("token", ""))
    if prefix in text:
        behind = text.rindex(prefix) + len(prefix)
    places = [place for place, one in enumerate(tokens) if letter(one) == said and before[place] >= behind]
    if not places:
        return {}
    return letter_log_probs(tokens[places[0 if behind else -1]])
