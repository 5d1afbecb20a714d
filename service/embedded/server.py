"""The HTTP side: vLLM's routes over an `EngineLink`."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.embedded import metrics
from service.embedded.arguments import EngineArguments
from service.embedded.disconnect import ClientGone, EventStream, answer_nobody, unless_gone
from service.embedded.errors import AdapterRefused
from service.embedded.link import EngineLink, Mailbox
from service.embedded.messages import Ready
from service.embedded.protocol import ChatRequest, CompletionRequest, Job, Limits, chat_job, completion_job
from service.embedded.replies import Choice, Kind, Piece, ReplyWriter
from service.embedded.text import Vocabulary
from service.embedded.tokenizer import Tokenizer
from service.errors import BadInput, Conflict, HoneError, ModelNotFound, NotFound, TooLarge

LARGEST_BODY = 16 * 2**20  # bytes
LONG_BODY = 16 * 2**10  # bytes; a longer one may take long enough to tokenise that streams would falter
M = TypeVar("M", bound=BaseModel)


class LoadRequest(BaseModel):
    lora_name: str
    lora_path: str


class UnloadRequest(BaseModel):
    lora_name: str


class EngineServer:
    """The routes, and what they know: the model's limits, and which adapters may be named."""

    def __init__(self, arguments: EngineArguments, link: EngineLink, ready: Ready, tokenizer: Tokenizer) -> None:
        self._arguments = arguments
        self._link = link
        self._ready = ready
        self._tokenizer = tokenizer
        self._vocabulary = Vocabulary(tokenizer)
        self._limits = Limits(ready.max_model_len, ready.vocab_size, ready.eos_token_ids, ready.sampling_defaults)
        self._adapters: dict[str, tuple[str, int]] = {}  # name → path and time of loading
        self._loading: set[str] = set()
        self._started = int(time.time())

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/metrics", self.metrics),
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/load_lora_adapter", self.load_adapter, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self.unload_adapter, methods=["POST"]),
            ],
            exception_handlers={
                HoneError: _hone_error,
                HTTPException: _http_error,
                ClientGone: answer_nobody,
                ClientDisconnect: answer_nobody,
                Exception: _bug,
            },
        )

    async def health(self, request: Request) -> Response:
        return Response(status_code=200 if self._link.failure is None else 503)

    async def metrics(self, request: Request) -> Response:
        ready, link, limits = self._ready, self._link, (self._arguments.max_loras, self._arguments.max_lora_rank)
        text = metrics.render(
            self._arguments.name, link.load, link.totals, ready.kv_tokens, ready.kv_bytes, list(self._adapters), limits
        )
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        base = self._arguments.name
        cards = [self._card(base, self._ready.model_path, None, self._started)]
        cards += [self._card(name, path, base, loaded) for name, (path, loaded) in self._adapters.items()]
        return _json({"object": "list", "data": cards})

    async def chat(self, request: Request) -> Response:
        body = await _read(request, ChatRequest)
        adapter = self._adapter_named(body.model)
        job = await self._prepare(request, chat_job, body)
        return await self._reply("chat", request, body.model, adapter, job)

    async def completions(self, request: Request) -> Response:
        body = await _read(request, CompletionRequest)
        adapter = self._adapter_named(body.model)
        job = await self._prepare(request, completion_job, body)
        return await self._reply("text", request, body.model, adapter, job)

    async def load_adapter(self, request: Request) -> Response:
        body = await _read(request, LoadRequest)
        name, path = body.lora_name, _folder(body.lora_path)
        if not name or name == self._arguments.name:
            raise BadInput(f"An adapter cannot be named {name!r}.", param="lora_name")
        if name in self._adapters or name in self._loading:
            raise BadInput(
                f"An adapter {name} is already loaded; give every version a name of its own.", param="lora_name"
            )
        if len(self._adapters) + len(self._loading) >= self._arguments.max_loras:
            raise Conflict(f"{self._arguments.max_loras} adapters are loaded (--max-loras); unload one first.")
        if path is None:
            raise NotFound(f"There is no adapter folder {body.lora_path}.", param="lora_path")
        self._loading.add(name)
        try:
            error = await self._link.load_adapter(name, str(path))
        finally:
            self._loading.discard(name)
        if error is not None:
            raise BadInput(error, param="lora_path")
        self._adapters[name] = (str(path), int(time.time()))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, request: Request) -> Response:
        name = (await _read(request, UnloadRequest)).lora_name
        if name in self._loading:
            raise Conflict(f"The adapter {name} is still being loaded.")
        if self._adapters.pop(name, None) is None:
            raise NotFound(f"No adapter {name} is loaded.", param="lora_name")
        await self._link.unload_adapter(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    def _card(self, name: str, root: str, parent: str | None, created: int) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "hone",
            "root": root,
            "parent": parent,
            "max_model_len": self._ready.max_model_len,
        }

    def _adapter_named(self, model: str | None) -> str | None:
        """The adapter that a request's `model` means; None is the base."""
        if model is None or model == self._arguments.name:
            return None
        if model not in self._adapters:
            raise ModelNotFound(f"The model {model} is not loaded here; GET /v1/models lists what is.", param="model")
        return model

    async def _prepare(self, request: Request, prepare: Callable[[M, Tokenizer, Limits], Job], body: M) -> Job:
        """Tokenise; beside the event loop, which everybody's streams go through, when that may take long."""
        if int(request.headers.get("content-length", LONG_BODY)) < LONG_BODY:
            return prepare(body, self._tokenizer, self._limits)
        return await asyncio.to_thread(prepare, body, self._tokenizer, self._limits)

    async def _reply(self, kind: Kind, request: Request, model: str | None, adapter: str | None, job: Job) -> Response:
        writer = ReplyWriter(kind, model or self._arguments.name, job, self._vocabulary)
        if not job.stream:
            return _json(await unless_gone(request.receive, self._whole(writer, adapter, job)))
        return EventStream(self._events(writer, adapter, job))

    async def _whole(self, writer: ReplyWriter, adapter: str | None, job: Job) -> dict[str, Any]:
        choices: list[Choice] = []
        pieces: dict[int, Piece] = {}
        async with aclosing(self._run(adapter, job, choices)) as pieces_as_they_come:
            async for choice, piece in pieces_as_they_come:
                whole = pieces.setdefault(choice.index, Piece())
                whole.text += piece.text
                whole.updates += piece.updates
                whole.offsets += piece.offsets
                whole.finish = piece.finish
        return writer.whole(choices, [pieces[choice.index] for choice in choices])

    async def _events(self, writer: ReplyWriter, adapter: str | None, job: Job) -> AsyncGenerator[bytes, None]:
        """The stream's events; an error becomes an event, since the status line is out already."""
        choices: list[Choice] = []
        try:
            async with aclosing(self._run(adapter, job, choices)) as pieces:
                opened = False
                async for choice, piece in pieces:
                    if not opened:
                        opened = True
                        for chunk in writer.opening_chunks(choices):
                            yield _event(chunk)
                    content = writer.chunk(choice, piece)
                    if content is not None:
                        yield _event(content)
            if job.include_usage:
                yield _event(writer.usage_chunk(choices))
        except HoneError as error:
            yield _event(error.body())
        yield b"data: [DONE]\n\n"

    async def _run(
        self, adapter: str | None, job: Job, choices: list[Choice]
    ) -> AsyncGenerator[tuple[Choice, Piece], None]:
        """Start every sequence of the job, put its choices into `choices`, and yield what each wakeup brings."""
        self._adapter_named(adapter)  # again: it may have been unloaded since, and the worker takes our word for it
        box, at_once = Mailbox(), bool(job.stops)  # what goes on past a stop is in vain
        running: dict[int, Choice] = {}
        try:
            for prompt in job.prompts:
                for number in range(job.n):
                    choice = Choice(len(choices), prompt, job, self._vocabulary)
                    choices.append(choice)
                    params = job.params_of(number, prompt, self._limits)
                    running[self._link.start(prompt, params, adapter, box, at_once)] = choice
            while running:
                updates = await box.collect()
                for sequence in dict.fromkeys(update.sequence for update in updates):
                    if sequence not in running:
                        continue  # what was under way when a stop string ended it
                    choice = running[sequence]
                    own = [update for update in updates if update.sequence == sequence]
                    if own[-1].finish == "error":
                        raise AdapterRefused(f"{adapter or 'The model'} computes numbers that are not finite.")
                    piece = choice.take(own)
                    if piece.finish is not None:
                        del running[sequence]
                        self._link.abort(sequence)
                    yield choice, piece
        finally:
            for sequence in running:
                self._link.abort(sequence)


async def _read(request: Request, shape: type[M]) -> M:
    """The request's body as `shape`; raises BadInput saying which field is wrong."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise TooLarge(f"The request is larger than {LARGEST_BODY} bytes.")
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{field + ': ' if field else ''}{first['msg']}", param=field or None) from error


def _folder(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() else None
    except (RuntimeError, OSError):  # the home of somebody who isn't there; longer than any path is
        return None


def _event(content: Any) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


async def _hone_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HoneError)
    return _json(error.body(), error.status)


async def _bug(request: Request, error: Exception) -> Response:
    return _json(HoneError(f"Something went wrong inside the engine ({type(error).__name__}).").body(), 500)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"message": str(error.detail), "type": "invalid_request_error", "param": None, "code": "http_error"}
    return _json({"error": body}, error.status_code)
