"""One chat completion, from request to stored exchange: route, ask the engine, tee, store.

The exchange is stored in one short transaction after the last token and before the caller hears the end (`[DONE]`, or
the whole answer), so that feedback right after it always finds it. No transaction is open while tokens flow.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
import structlog

from service.adapters.fingerprint import LocalModel
from service.adapters.rollout import Rollout
from service.auth import Caller
from service.chat.best_of import BestOf, as_chunks, what_to_choose
from service.chat.judges import Judges
from service.chat.recording import RecordedReply, Recording
from service.chat.reply_stream import ReplyStream
from service.chat.request import ChatRequest
from service.engine import Engine
from service.errors import AdapterBroken, BadInput, ContextExceeded, EngineUnavailable, HoneError, unexpected
from service.metrics import Metrics
from service.replicas import Replicas
from service.routing import ALIAS, BASE, Route, route
from service.settings import ChatSettings
from service.store.identifiers import new_id
from service.store.prepared import Tx
from service.store.queries import conversations, exchanges
from service.transactions import Transactions

LAST_EVENT = b"data: [DONE]\n\n"
TAKEN_OVER = "The version that was to answer can't be served any more. Another takes over now; try again in a moment."
T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Turn:
    """A request that has been routed and is ready for the engine."""

    request: ChatRequest
    caller: str
    conversation_id: str
    route: Route
    base: str
    base_sha256: str | None
    sampling: dict[str, Any]
    recording: Recording
    best_of: BestOf | None = None

    @property
    def engine_body(self) -> dict[str, Any]:
        name = self.base if self.route.adapter == BASE else self.route.adapter
        body = self.request.engine_body(name, self.sampling)
        if self.best_of is not None:
            body.pop("stream_options", None)  # all samples come whole
            body["n"] = self.best_of.samples
        return body


class Chat:
    def __init__(
        self,
        settings: ChatSettings,
        replicas: Replicas,
        rollout: Rollout,
        base: LocalModel,
        judges: Judges,
        transactions: Transactions,
        metrics: Metrics,
    ) -> None:
        self._settings, self._replicas, self._rollout, self._base = settings, replicas, rollout, base
        self._judges, self._transactions, self._metrics = judges, transactions, metrics

    async def begin(self, request: ChatRequest, caller: Caller) -> Turn:
        """Raises BadInput, ModelNotFound, Conflict for somebody else's conversation, EngineUnavailable."""
        for name, choices in (("n", request.n), ("best_of", request.best_of)):
            if (choices or 1) > self._settings.max_choices:
                raise BadInput(f"{name}: at most {self._settings.max_choices} choices.", param=name)
        conversation_id = conversation_of(request, caller.name)
        base = await self._replicas.base()  # first: before an engine serves nobody knows that the canary is loaded
        chosen = await self._transactions.glance(
            route, request.model, conversation_id, caller.name, self._rollout.loaded
        )
        return Turn(
            request=request,
            caller=caller.name,
            conversation_id=conversation_id,
            route=chosen,
            base=base,
            base_sha256=self._base.known_sha256,
            sampling=request.sampling(self._settings),
            recording=Recording(
                new_id("chatcmpl"), chosen.model, chosen.adapter, bool(request.logprobs), bool(request.return_token_ids)
            ),
            best_of=await what_to_choose(request, self._settings, self._judges, chosen.adapter),
        )

    async def whole(self, turn: Turn) -> bytes:
        """The whole answer (JSON), stored."""
        with self._metrics.chats_under_way.track_inprogress():
            answer = await self._whole(turn)
        shown = orjson.dumps(turn.recording.take(answer))
        await asyncio.shield(self._store(turn))
        return shown

    async def events(self, turn: Turn) -> AsyncGenerator[bytes, None]:
        """The answer as encoded events. What fails before the first is raised; afterwards it is the last event.

        Closing the generator early closes the engine's stream and stores what came until then as incomplete.
        """
        if turn.best_of is not None:
            async for event in self._chosen_events(turn):
                yield event
            return
        began, first = time.perf_counter(), True

        def show(chunk: dict[str, Any]) -> bytes:
            return _event(turn.recording.take(chunk))

        try:
            with self._metrics.chats_under_way.track_inprogress():
                async with self._answering(turn, lambda engine: self._begin_stream(turn, engine)) as reply:
                    with closing(reply):
                        while piece := await reply.piece(show):
                            if first:
                                self._metrics.first_token_seconds.observe(time.perf_counter() - began)
                                first = False
                            yield piece
        except Exception as error:
            if first:
                raise
            yield await self._breaking(turn, error)
            return
        except (asyncio.CancelledError, GeneratorExit):
            await asyncio.shield(self._store_part(turn))
            raise
        # A caller who has read the last token may leave before the end is sent: the exchange is stored all the same.
        yield await asyncio.shield(self._ending(turn))

    async def _whole(self, turn: Turn) -> dict[str, Any]:
        """What the engine answers, without the samples that were not chosen."""
        async with self._answering(turn, lambda engine: self._ask(turn, engine.chat)) as answer:
            pass  # it is whole
        if turn.best_of is not None:
            turn.recording.tokens_left_out = await asyncio.to_thread(turn.best_of.choose, answer)
        return answer

    async def _chosen_events(self, turn: Turn) -> AsyncGenerator[bytes, None]:
        """The chosen reply as events, all at once: it is known only when every sample is whole, and stored first."""
        began, options = time.perf_counter(), turn.request.stream_options
        with self._metrics.chats_under_way.track_inprogress():
            answer = await self._whole(turn)
        chunks = as_chunks(answer, include_usage=options is not None and options.include_usage)
        shown = b"".join(_event(turn.recording.take(chunk)) for chunk in chunks)
        ending = await asyncio.shield(self._ending(turn))
        self._metrics.first_token_seconds.observe(time.perf_counter() - began)
        yield shown
        yield ending

    async def _begin_stream(self, turn: Turn, engine: Engine) -> ReplyStream:
        return await ReplyStream.begun(await self._ask(turn, engine.chat_stream))

    @asynccontextmanager
    async def _answering(self, turn: Turn, begin: Callable[[Engine], Awaitable[T]]) -> AsyncIterator[T]:
        """What `begin` brings. If what is live, or the canary, turns out to be broken, the rollout sees to another."""
        try:
            async with self._replicas.answering(turn.route.adapter, turn.conversation_id, begin) as begun:
                yield begun
        except AdapterBroken as error:
            if turn.route.alias != ALIAS:
                raise
            self._rollout.wake()
            raise EngineUnavailable(TAKEN_OVER, retry_after=1) from error

    async def _ask(self, turn: Turn, ask: Callable[[dict[str, Any]], Awaitable[T]]) -> T:
        """Ask an engine; once more where its refusal can be helped."""
        try:
            return await ask(turn.engine_body)
        except ContextExceeded:
            if turn.request.names_a_length:
                raise
        # A default must not make a request fail: where only ours asks for too much, the engine fills what is left.
        body = turn.engine_body
        del body["max_tokens"]
        return await ask(body)

    async def _ending(self, turn: Turn) -> bytes:
        try:
            await self._store(turn)
        except HoneError as error:
            log.error("exchange not stored", exchange=turn.recording.exchange_id, error=str(error))
            return _event(error.body())
        return LAST_EVENT

    async def _breaking(self, turn: Turn, error: Exception) -> bytes:
        """The last event of a stream that fails in the middle: it says why. What came until then is stored."""
        exchange = turn.recording.exchange_id
        if isinstance(error, HoneError):
            log.warning("stream failed", exchange=exchange, error=str(error))
        else:
            log.error("bug", exchange=exchange, exc_info=error)
            error = unexpected(error)
        await self._store_part(turn)
        return _event(error.body())

    async def _store_part(self, turn: Turn) -> None:
        """Store what an interrupted reply came to, if anything; nobody is left to hear of a failure."""
        if not turn.recording.completion_tokens:
            return
        try:
            await self._store(turn)
        except HoneError as error:
            log.error("exchange not stored", exchange=turn.recording.exchange_id, error=str(error))

    async def _store(self, turn: Turn) -> None:
        recording = turn.recording
        adapter, complete = turn.route.adapter, recording.complete
        if any(len(reply.logprobs) != len(reply.token_ids) for reply in recording.replies.values()):
            log.warning("the engine's log-probabilities don't match its tokens", exchange=recording.exchange_id)
        await self._transactions.write_plain(_add, _exchange(turn), turn.route.is_remembered)
        self._metrics.exchanges.labels(adapter, str(complete).lower()).inc()
        self._metrics.tokens.labels(adapter, "prompt").inc(len(recording.prompt_token_ids))
        generated = recording.completion_tokens + recording.tokens_left_out
        self._metrics.tokens.labels(adapter, "completion").inc(generated)
        if turn.best_of is not None:
            self._metrics.best_of.labels(adapter).inc()


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def conversation_of(request: ChatRequest, caller: str) -> str:
    """The conversation that the caller names; else one made from how it begins.

    Plain OpenAI clients send the whole history every time and no id: its opening is the same in every turn.
    """
    if request.hone is not None and request.hone.conversation_id is not None:
        return request.hone.conversation_id
    length = next((number for number, message in enumerate(request.messages, 1) if message.role == "user"), None)
    opening = orjson.dumps([caller, request.engine_messages[:length]])
    return "conv-" + hashlib.sha256(opening).hexdigest()[:32]


def _exchange(turn: Turn) -> exchanges.NewExchange:
    recording = turn.recording
    choices = range(turn.sampling["n"])
    return exchanges.NewExchange(
        id=recording.exchange_id,
        caller=turn.caller,
        conversation_id=turn.conversation_id,
        model=turn.route.alias,
        adapter=turn.route.adapter,
        base=turn.base,
        base_sha256=turn.base_sha256,
        messages=turn.request.engine_messages,
        sampling=turn.sampling,
        prompt_token_ids=recording.prompt_token_ids,
        replies=[_reply(recording.replies.get(index, RecordedReply())) for index in choices],
        complete=recording.complete,
        best_of=turn.best_of.samples if turn.best_of is not None else None,
    )


def _reply(reply: RecordedReply) -> exchanges.NewReply:
    return exchanges.NewReply(reply.text, reply.finish_reason, reply.token_ids, reply.logprobs)


def _add(tx: Tx, exchange: exchanges.NewExchange, is_remembered: bool) -> None:
    if not is_remembered:
        conversations.remember_conversation(tx, exchange.conversation_id, exchange.caller, exchange.adapter)
    exchanges.add_exchange(tx, exchange)
