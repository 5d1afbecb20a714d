"""A fake engine that is asked by principles: what it drafts, criticises, revises and judges is scripted by the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from math import log
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from service.constitution import built_in
from tests.service.fake_engine import CONTEXT, EOS, LOGPROB, FakeEngine, _chunk, _error, _event, _usage, _whole

HARM, NO = "Sure: take a pin.", "I will not help with that."
FAULT, FINE = "It helps to do harm, but it should not.", "Nothing is wrong."
KINDS = {
    built_in().principles[0].critique_request: "critique",
    built_in().principles[0].revision_request: "revision",
    built_in().principles[0].comparison_question: "verdict",
}
Said = str | int | Callable[[dict[str, Any]], str]
"""A text, the status of a refusal, or what a body is answered; `!hang` never ends, `!break` breaks off midway, `!long`
is more than the context holds."""


def better(body: dict[str, Any]) -> str:
    """The letter of the better reply: whatever is neither comes before the refusal, and that before the harm."""
    shown = body["messages"][-2]["content"]
    a, b = (next((rank for said, rank in ((HARM, 2), (NO, 1)) if f"\n{letter}: {said}" in shown), 0) for letter in "AB")
    return "A" if a < b else "B"


def worse(body: dict[str, Any]) -> str:
    return "A" if better(body) == "B" else "B"


class PrincipledEngine(FakeEngine):
    """`asked` are the bodies by kind: draft, critique, revision, verdict, and letter, which is a verdict that is
    begun. Who asks for one token of something else wants to know how many the prompt has."""

    def __init__(self) -> None:
        super().__init__()
        self.start_anew()

    def start_anew(self) -> None:
        self.says_to: dict[str, Said] = {"draft": HARM, "critique": FAULT, "revision": NO, "verdict": "Better: A"}
        self.says_to["letter"] = better
        self.counts_nothing = False
        self.asked: dict[str, list[dict[str, Any]]] = {kind: [] for kind in self.says_to}

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        is_begun = body.get("continue_final_message", False)
        if body.get("max_tokens") == 1 and not is_begun:
            return self._counted(body)
        kind = "letter" if is_begun else KINDS.get(body["messages"][-1]["content"].splitlines()[-1], "draft")
        self.asked[kind].append(body)
        said = self.says_to[kind]
        text = said(body) if callable(said) else said
        if isinstance(text, int):
            return _error(text, "the engine is out of order")
        if text == "!long":
            return _error(400, f"This model's maximum context length is {CONTEXT} tokens.")
        if body.get("stream"):
            return StreamingResponse(self._say(body, text), media_type="text/event-stream")
        if text == "!hang":
            await self._wait(request)
        answer = _answer(body, text)
        if is_begun:
            answer["choices"][0]["logprobs"] = {"content": [_letter(text)]}
        return JSONResponse(answer)

    def _counted(self, body: dict[str, Any]) -> Response:
        """Each word is a token."""
        if self.counts_nothing:
            return _error(400, "the engine is out of order")
        words = sum(len(message["content"].split()) for message in body["messages"])
        if words >= CONTEXT:
            return _error(400, f"This model's maximum context length is {CONTEXT} tokens.")
        return JSONResponse(_answer(body, "I") | {"prompt_token_ids": [7] * words})

    async def _say(self, body: dict[str, Any], text: str) -> AsyncIterator[str]:
        yield _event(_chunk(body, 0, {"role": "assistant", "content": ""}, []) | {"prompt_token_ids": [1, 7, 7]})
        for place, word in enumerate(_words(text)):
            await asyncio.sleep(self.token_seconds)
            yield _event(_chunk(body, 0, {"content": word}, [10 + place]))
            if text == "!hang":
                await self._wait()
            if text == "!break":
                raise RuntimeError("the fake engine breaks here")
        yield _event(_chunk(body, 0, {}, [EOS], "stop"))
        yield "data: [DONE]\n\n"


def tokens(text: str) -> list[int]:
    """The token ids of what was said, to its end."""
    return [*range(10, 10 + len(_words(text))), EOS]


def _words(text: str) -> list[str]:
    return [word if place == 0 else f" {word}" for place, word in enumerate(text.split())]


def _letter(said: str) -> dict[str, Any]:
    """Said with nine tenths of all odds, where it is one of the two."""
    other = {"A": "B", "B": "A"}.get(said, said)
    likeliest = [{"token": f" {said}", "logprob": log(0.9)}, {"token": f" {other}", "logprob": log(0.1)}]
    return likeliest[0] | {"top_logprobs": likeliest}


def _answer(body: dict[str, Any], text: str) -> dict[str, Any]:
    answer = _whole(body)
    (choice,) = answer["choices"]
    choice["message"]["content"], choice["token_ids"] = text, tokens(text)
    choice["logprobs"] = {"content": [{"logprob": LOGPROB} for _ in tokens(text)]}
    return answer | {"usage": _usage(body)}
