"""One chat completion, from request to stored exchange: route, ask the engine, tee, store.

The exchange is stored in one short transaction after the last token and before the caller hears the end (`[DONE]`, or
the whole answer), so that feedback right after it always finds it. No transaction is open while tokens flow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any

import orjson
import structlog

from service.adapters.fingerprint import LocalModel
from service.adapters.rollout import Rollout
from service.auth import Caller
from service.chat.asking import Asking, ask_engine, text_alone
from service.chat.best_of import as_chunks, what_to_choose
from service.chat.by_principles import answer_by_principles
from service.chat.constitutional import Rules, Tell
from service.chat.judges import Judges
from service.chat.principles import Principles
from service.chat.progress import decided_chunk, outcome, progress_chunks, watch
from service.chat.recording import Recording
from service.chat.reply_stream import ReplyStream
from service.chat.request import ChatRequest
from service.chat.turn import Turn, conversation_of, stored_exchange
from service.engine import Engine
from service.errors import BadInput, HoneError, unexpected
from service.metrics import Metrics
from service.routing import route
from service.settings import ChatSettings
from service.store.identifiers import new_id
from service.store.prepared import Tx
from service.store.queries import conversations, exchanges, revisions
from service.transactions import Transactions

LAST_EVENT = b"data: [DONE]\n\n"
log = structlog.get_logger(__name__)


class Chat:
    def __init__(
        self,
        settings: ChatSettings,
        asking: Asking,
        rollout: Rollout,
        base: LocalModel,
        judges: Judges,
        principles: Principles,
        transactions: Transactions,
        metrics: Metrics,
    ) -> None:
        self._settings, self._asking, self._rollout, self._base = settings, asking, rollout, base
        self._judges, self._principles, self._transactions, self._metrics = judges, principles, transactions, metrics

    async def begin(self, request: ChatRequest, caller: Caller) -> Turn:
        """Raises BadInput, ModelNotFound, Conflict for somebody else's conversation, EngineUnavailable,
        ConstitutionUnusable."""
        for name, choices in (("n", request.n), ("best_of", request.best_of)):
            if (choices or 1) > self._settings.max_choices:
                raise BadInput(f"{name}: at most {self._settings.max_choices} choices.", param=name)
        conversation_id = conversation_of(request, caller.name)
        rules = await self._principles.wanted(request)
        base = await self._asking.base()  # first: before an engine serves nobody knows that the canary is loaded
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
            best_of=None if rules else await what_to_choose(request, self._settings, self._judges, chosen.adapter),
            rules=rules,
        )

    async def whole(self, turn: Turn) -> bytes:
        """The whole answer (JSON), stored."""
        with self._metrics.chats_under_way.track_inprogress():
            answer = await self._whole(turn)
        about = {"hone": outcome(turn.recording.revisions)} if turn.rules is not None else {}
        shown = orjson.dumps(turn.recording.take(answer) | about)
        await asyncio.shield(self._store(turn))
        return shown

    async def events(self, turn: Turn) -> AsyncGenerator[bytes, None]:
        """The answer as encoded events. What fails before the first is raised; afterwards it is the last event.

        Closing the generator early closes the engine's stream and stores what came until then as incomplete.
        """
        if turn.best_of is not None or turn.rules is not None:
            several = self._chosen_events(turn) if turn.rules is None else self._events_by_principles(turn, turn.rules)
            async with aclosing(several):
                async for event in several:
                    yield event
            return
        began, first = time.perf_counter(), True

        async def begin(engine: Engine) -> ReplyStream:
            return await ReplyStream.begun(await ask_engine(engine.chat_stream, turn.engine_body, turn.fills))

        def show(chunk: dict[str, Any]) -> bytes:
            return _event(turn.recording.take(chunk))

        try:
            with self._metrics.chats_under_way.track_inprogress():
                async with self._asking.answering(turn.route, turn.conversation_id, begin) as reply:
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
        """What the engine answers, without the samples that were not chosen, and as the constitution has it."""
        if turn.rules is not None:
            return await answer_by_principles(self._asking, turn, turn.rules)
        async with self._asking.answering(
            turn.route, turn.conversation_id, lambda engine: ask_engine(engine.chat, turn.engine_body, turn.fills)
        ) as answer:
            pass  # it is whole
        if turn.best_of is not None:
            turn.recording.tokens_left_out = await asyncio.to_thread(turn.best_of.choose, answer)
        return answer

    async def _chosen_events(self, turn: Turn) -> AsyncGenerator[bytes, None]:
        """The chosen reply as events, all at once: it is known only when every sample is whole, and stored first."""
        began = time.perf_counter()
        with self._metrics.chats_under_way.track_inprogress():
            answer = await self._whole(turn)
        shown = b"".join(_event(turn.recording.take(chunk)) for chunk in _chunks(turn, answer))
        ending = await asyncio.shield(self._ending(turn))
        self._metrics.first_token_seconds.observe(time.perf_counter() - began)
        yield shown
        yield ending

    async def _events_by_principles(self, turn: Turn, rules: Rules) -> AsyncGenerator[bytes, None]:
        """What goes on, at once, then the reply: only when all is done it is known which text that is.

        Those who didn't ask for it, and get it by policy, are not shown texts that are still to be criticised. Who
        was shown some, and leaves before it is decided, has read the draft: it is stored as incomplete.
        """
        began, is_first, answer = time.perf_counter(), True, dict[str, Any]()
        with_text, draft = bool(turn.request.asks_for_principles), text_alone(turn.route)

        async def work(tell: Tell) -> None:
            answer.update(await answer_by_principles(self._asking, turn, rules, tell, draft))

        try:
            with self._metrics.chats_under_way.track_inprogress():
                async with aclosing(watch(work)) as several:
                    async for pieces in several:
                        chunks = progress_chunks(turn.recording, pieces, with_text)
                        if chunks:
                            is_first = False
                            yield b"".join(map(_event, chunks))
        except Exception as error:
            if is_first:
                raise
            if with_text:
                turn.recording.take_undecided(draft)
            yield await self._breaking(turn, error)
            return
        except (asyncio.CancelledError, GeneratorExit):
            if with_text and not is_first:
                turn.recording.take_undecided(draft)
                await asyncio.shield(self._store_part(turn))
            raise
        decided = _event(decided_chunk(turn.recording))
        shown = b"".join(_event(turn.recording.take(chunk)) for chunk in _chunks(turn, answer))
        ending = await asyncio.shield(self._ending(turn))
        self._metrics.first_token_seconds.observe(time.perf_counter() - began)
        yield decided + shown
        yield ending

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
        is_revised = any(one.ended == "revised" for one in recording.revisions)  # sampled after another prompt
        if not is_revised and any(len(one.logprobs) != len(one.token_ids) for one in recording.replies.values()):
            log.warning("the engine's log-probabilities don't match its tokens", exchange=recording.exchange_id)
        await self._transactions.write_plain(_add, stored_exchange(turn), turn.route.is_remembered, recording.revisions)
        self._metrics.exchanges.labels(adapter, str(complete).lower()).inc()
        self._metrics.tokens.labels(adapter, "prompt").inc(len(recording.prompt_token_ids))
        generated = recording.completion_tokens + recording.tokens_left_out
        self._metrics.tokens.labels(adapter, "completion").inc(generated)
        if turn.best_of is not None:
            self._metrics.best_of.labels(adapter).inc()
        for one in recording.revisions:
            self._metrics.revisions.labels(adapter, one.ended).inc()


def _chunks(turn: Turn, answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A whole answer as the events that the request asks for."""
    options = turn.request.stream_options
    return as_chunks(answer, include_usage=options is not None and options.include_usage)


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _add(tx: Tx, exchange: exchanges.NewExchange, is_remembered: bool, made: Sequence[revisions.NewRevision]) -> None:
    if not is_remembered:
        conversations.remember_conversation(tx, exchange.conversation_id, exchange.caller, exchange.adapter)
    exchanges.add_exchange(tx, exchange)
    revisions.add_revisions(tx, exchange.id, made)
