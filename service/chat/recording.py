"""The tee of a reply: keeps tokens and log-probabilities for the store, and shows the caller what was asked for.

The engine is always asked for token ids and log-probabilities. A `Recording` takes each answer, or each event of a
streamed one, keeps what an exchange is made of, and rewrites it in place into what the caller sees: our exchange's id,
the model that really answered, the adapter as `system_fingerprint`, and nothing that was not asked for.

No event goes through as the bytes of the engine: each is parsed for what is kept, has our model and adapter, and shows
nearly every caller less than it holds. To write the parsed one anew is little of what a token costs the service.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from service.store.queries.revisions import NewRevision

_INTERNAL = (
    "prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params", "ec_transfer_params", "metrics",
    "service_tier",
)  # fmt: skip
_INTERNAL_OF_CHOICE = ("stop_reason", "token_ids", "prompt_token_ids", "prompt_logprobs", "routed_experts")


@dataclass(slots=True)
class RecordedReply:
    """One choice so far. `token_ids` and `logprobs` (nats, raw, of the sampled token) run side by side."""

    parts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)


class Recording:
    """What one exchange will be stored as."""

    def __init__(self, exchange_id: str, model: str, adapter: str, show_logprobs: bool, show_token_ids: bool) -> None:
        self.exchange_id, self.model, self.adapter = exchange_id, model, adapter
        self._show_logprobs, self._show_token_ids = show_logprobs, show_token_ids
        self.prompt_token_ids: list[int] = []
        self.replies: dict[int, RecordedReply] = {}
        self.revisions: list[NewRevision] = []  # what the constitution made of it
        self.tokens_left_out = 0  # of samples that were not chosen, of critiques, and of what was revised

    @property
    def complete(self) -> bool:
        """Every choice that began came to its end."""
        return bool(self.replies) and all(reply.finish_reason is not None for reply in self.replies.values())

    @property
    def completion_tokens(self) -> int:
        return sum(len(reply.token_ids) for reply in self.replies.values())

    def take(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Keep what `answer` (a whole answer or one event of a stream) holds; return it as the caller may see it."""
        if (prompt_token_ids := answer.get("prompt_token_ids")) is not None:
            self.prompt_token_ids = prompt_token_ids
        for choice in answer["choices"]:
            self._keep(choice)
            self._hide_in(choice)
        answer["id"], answer["model"], answer["system_fingerprint"] = self.exchange_id, self.model, self.adapter
        shown_prompt = answer.get("prompt_token_ids") if self._show_token_ids else None
        for name in _INTERNAL:
            answer.pop(name, None)
        if shown_prompt is not None:
            answer["prompt_token_ids"] = shown_prompt
        return answer

    def take_undecided(self, draft: Recording) -> None:
        """Keep a draft, as far as it came, of which nobody decided whether it is the reply: as one without an end."""
        self.prompt_token_ids, self.revisions = draft.prompt_token_ids, []
        self.replies = {index: replace(one, finish_reason=None) for index, one in draft.replies.items()}

    def _keep(self, choice: dict[str, Any]) -> None:
        reply = self.replies.get(choice["index"])
        if reply is None:
            reply = self.replies[choice["index"]] = RecordedReply()
        text = (choice.get("delta") or choice.get("message") or {}).get("content")
        if text:
            reply.parts.append(text)
        if token_ids := choice.get("token_ids"):
            reply.token_ids += token_ids
        if logprobs := choice.get("logprobs"):
            reply.logprobs += [entry["logprob"] for entry in logprobs.get("content") or ()]
        if finish_reason := choice.get("finish_reason"):
            reply.finish_reason = finish_reason

    def _hide_in(self, choice: dict[str, Any]) -> None:
        token_ids = choice.get("token_ids") if self._show_token_ids else None
        for name in _INTERNAL_OF_CHOICE:
            choice.pop(name, None)
        if token_ids is not None:
            choice["token_ids"] = token_ids
        if not self._show_logprobs:
            choice["logprobs"] = None
