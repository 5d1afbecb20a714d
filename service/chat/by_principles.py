"""A reply by principles, asked of the engine that serves its adapter: drafted, criticised, revised, and recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from service.chat.asking import Asking, engine_model
from service.chat.constitutional import Progress, Rules, Tell, revise, served
from service.chat.recording import RecordedReply, Recording
from service.chat.turn import Turn, reply_of
from service.constitution.odds import letter_log_probs, share_of_a, up_to_the_letter
from service.constitution.prompts import Message
from service.errors import EngineUnavailable
from service.side_by_side import side_by_side
from service.store.queries.exchanges import NewReply

NO_VERDICT = "The verdict on the revision is neither A nor B."


async def answer_by_principles(asking: Asking, turn: Turn, rules: Rules, tell: Tell | None = None) -> dict[str, Any]:
    """The whole answer, as an engine would give it, for `turn.recording` to take; how it came about is recorded there.

    `tell` hears what is being written. Raises what keeps an engine from drafting; what fails later, costs a revision.
    """
    began = asyncio.get_running_loop().time()
    written = 0  # tokens

    async def ask(messages: Sequence[Message], sampling: dict[str, Any], progress: Progress) -> NewReply:
        nonlocal written
        body = {"model": engine_model(turn.route, turn.base), "messages": messages, **sampling}
        is_bounded = progress.stage == "critique"
        reply = _reply(await text(body, progress, fills=turn.fills and not is_bounded, is_admitted=True))
        written += len(reply.token_ids)
        return replace(reply, logprobs=())  # it was sampled after another prompt than the person's

    async def judge(requests: Sequence[Sequence[Message]], progress: Progress) -> list[float]:
        _teller(tell, progress)
        return await side_by_side(odds(messages) for messages in requests)

    async def odds(messages: Sequence[Message]) -> float:
        begun = up_to_the_letter(rules.version.constitution, messages)
        body = {"model": engine_model(turn.route, turn.base), "messages": begun}
        found = letter_log_probs(await asking.next_tokens(turn.route, turn.conversation_id, body))
        if not found:
            raise EngineUnavailable(NO_VERDICT)
        return share_of_a(found)

    async def text(body: dict[str, Any], progress: Progress, **options: bool) -> Recording:
        return await asking.text(turn.route, turn.conversation_id, body, _teller(tell, progress), **options)

    body = {name: value for name, value in turn.engine_body.items() if name != "stream_options"}
    drafted = await text(body, Progress("draft"), fills=turn.fills)
    draft, recording = _reply(drafted), turn.recording
    recording.revisions = await revise(
        rules,
        turn.request.engine_messages,
        draft,
        ask,
        judge,
        turn.sampling,
        seed=recording.exchange_id,
        deadline=began + rules.settings.budget_seconds,
    )
    reply = served(draft, recording.revisions)
    tokens = len(draft.token_ids) + written
    recording.tokens_left_out = tokens - len(reply.token_ids)
    return _answer(reply, drafted.prompt_token_ids, tokens)


def _teller(tell: Tell | None, progress: Progress) -> Callable[[str], None] | None:
    """Tells that a text begins, now, and then what is written of it."""
    if tell is None:
        return None
    tell(progress)
    return lambda said: tell(replace(progress, text=said))


def _reply(recording: Recording) -> NewReply:
    return reply_of(recording.replies.get(0, RecordedReply()))


def _answer(reply: NewReply, prompt_token_ids: Sequence[int], tokens: int) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.text},
        "logprobs": {"content": [{"logprob": value} for value in reply.logprobs]},
        "finish_reason": reply.finish_reason,
        "token_ids": list(reply.token_ids),
    }
    prompt = len(prompt_token_ids)
    return {
        "object": "chat.completion",
        "created": int(time.time()),
        "choices": [choice],
        "usage": {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens},
        "prompt_token_ids": list(prompt_token_ids),
    }
