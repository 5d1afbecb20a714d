"""A reply by principles, asked of the engine that serves its adapter: drafted, criticised, revised, and recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from service.chat.asking import Asking
from service.chat.constitutional import Rules, Tell, revise, served
from service.chat.critic import Critic, said_first
from service.chat.recording import Recording
from service.chat.turn import Turn
from service.store.queries.exchanges import NewReply


async def answer_by_principles(
    asking: Asking, turn: Turn, rules: Rules, tell: Tell | None = None, drafted: Recording | None = None
) -> dict[str, Any]:
    """The whole answer, as an engine would give it, for `turn.recording` to take; how it came about is recorded there.

    `tell` hears what is being written; `drafted` has the draft as far as it came. Raises what keeps an engine from
    drafting; what fails later, costs a revision.
    """
    began = asyncio.get_running_loop().time()
    critic = Critic(asking, turn.route, turn.base, turn.conversation_id, rules.version.constitution, turn.fills, tell)
    body = {name: value for name, value in turn.engine_body.items() if name != "stream_options"}
    drafted = await critic.draft(body, drafted)
    draft, recording = said_first(drafted), turn.recording
    recording.revisions = await revise(
        rules,
        turn.request.engine_messages,
        draft,
        critic.ask,
        critic.judge,
        turn.sampling,
        seed=recording.exchange_id if turn.request.seed is None else str(turn.request.seed),
        deadline=began + rules.settings.budget_seconds,
    )
    reply = served(draft, recording.revisions)
    tokens = len(draft.token_ids) + critic.written
    recording.tokens_left_out = tokens - len(reply.token_ids)
    return _answer(reply, drafted.prompt_token_ids, tokens)


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
