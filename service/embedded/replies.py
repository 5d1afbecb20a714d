"""Replies in OpenAI's form: each sequence's updates become text and log-probabilities, whole or as stream chunks."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from service.embedded.messages import TokenLogprob, Update
from service.embedded.protocol import Job
from service.embedded.text import StopStrings, Vocabulary

Kind = Literal["chat", "text"]


@dataclass
class Piece:
    """What one or more updates added to a choice."""

    text: str = ""
    updates: list[Update] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # where each token's text begins
    finish: str | None = None


class Choice:
    """One sequence's reply as it grows."""

    def __init__(self, index: int, prompt: list[int], job: Job, vocabulary: Vocabulary) -> None:
        self.index = index
        self.prompt = prompt
        self._decoder = vocabulary.decoder()
        self._stops = StopStrings(job.stops)
        self._decoded = 0  # characters decoded so far, stop strings or not
        self.finish: str | None = None
        self.tokens = 0
        self.prompt_logprobs: list[list[TokenLogprob] | None] | None = None

    def take(self, updates: list[Update]) -> Piece:
        """Add tokens; nothing is taken any more once the reply has ended."""
        piece = Piece()
        for update in updates:
            if self.finish is not None:
                break
            self._take_one(update, piece)
        piece.finish = self.finish
        return piece

    def _take_one(self, update: Update, piece: Piece) -> None:
        self.tokens += 1
        piece.updates.append(update)
        piece.offsets.append(self._decoded)
        if update.prompt_logprobs is not None:
            self.prompt_logprobs = update.prompt_logprobs
        text = "" if update.finish == "stop" else self._decoder.push(update.token)
        if update.finish is not None:
            text += self._decoder.flush()
        self._decoded += len(text)
        piece.text += self._stops.push(text)
        if self._stops.stopped:
            self.finish = "stop"
        elif update.finish is not None:
            piece.text += self._stops.flush()
            self.finish = update.finish


class ReplyWriter:
    """Writes one request's replies: its id, model name, and the shape of chat or of plain completions."""

    def __init__(self, kind: Kind, model: str, job: Job, vocabulary: Vocabulary) -> None:
        self._kind = kind
        self._job = job
        self._vocabulary = vocabulary
        self._head = {
            "id": f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if kind == "chat" else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._stream_head = self._head | ({"object": "chat.completion.chunk"} if kind == "chat" else {})

    def opening_chunks(self, choices: list[Choice]) -> Iterator[dict[str, Any]]:
        """What a stream begins with: the role in a chat, the prompt where it is to be echoed."""
        for choice in choices:
            if self._kind == "chat":
                entry = self._chunk_choice(choice.index, {"role": "assistant", "content": ""})
                ids = {"prompt_token_ids": choice.prompt} if self._job.return_token_ids else {}
                yield {**self._stream_head, "choices": [entry], **ids}
            elif self._job.echo:
                entry = {"index": choice.index, "text": self._echo(choice), "logprobs": None, "finish_reason": None}
                yield {**self._stream_head, "choices": [entry]}

    def chunk(self, choice: Choice, piece: Piece) -> dict[str, Any] | None:
        """A stream chunk for `piece`; None when it holds nothing that was asked for."""
        silent = not self._job.return_token_ids and self._job.params.logprobs is None
        if not piece.text and piece.finish is None and silent:
            return None
        if self._kind == "chat":
            entry = self._chunk_choice(choice.index, {"content": piece.text} if piece.text else {})
        else:
            entry = {"index": choice.index, "text": piece.text}
        entry["logprobs"] = self._logprobs(piece)
        entry["finish_reason"] = piece.finish
        if self._job.return_token_ids:
            entry["token_ids"] = [update.token for update in piece.updates]
            if self._kind == "text":
                is_first = choice.tokens == len(piece.updates)
                entry["prompt_token_ids"] = choice.prompt if is_first else None
        return {**self._stream_head, "choices": [entry]}

    def usage_chunk(self, choices: list[Choice]) -> dict[str, Any]:
        return {**self._stream_head, "choices": [], "usage": self._usage(choices)}

    def whole(self, choices: list[Choice], pieces: list[Piece]) -> dict[str, Any]:
        """The complete answer to a request that does not stream."""
        entries = [self._whole_choice(choice, piece) for choice, piece in zip(choices, pieces, strict=True)]
        body: dict[str, Any] = {**self._head, "choices": entries, "usage": self._usage(choices)}
        if self._kind == "chat" and self._job.return_token_ids:
            body["prompt_token_ids"] = choices[0].prompt
        if self._kind == "chat" and self._job.params.prompt_logprobs is not None:
            body["prompt_logprobs"] = self._prompt_logprobs(choices[0])
        return body

    def _whole_choice(self, choice: Choice, piece: Piece) -> dict[str, Any]:
        entry: dict[str, Any] = {"index": choice.index}
        if self._kind == "chat":
            entry["message"] = {"role": "assistant", "content": piece.text}
        else:
            entry["text"] = self._echo(choice) + piece.text
        entry |= {"logprobs": self._logprobs(piece, choice), "finish_reason": piece.finish}
        if self._job.return_token_ids:
            entry["token_ids"] = [update.token for update in piece.updates]
        if self._kind == "text" and self._job.return_token_ids:
            entry["prompt_token_ids"] = choice.prompt
        if self._kind == "text" and self._job.params.prompt_logprobs is not None and not self._job.echo:
            entry["prompt_logprobs"] = self._prompt_logprobs(choice)
        return entry

    def _chunk_choice(self, index: int, delta: dict[str, str]) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _echo(self, choice: Choice) -> str:
        return self._vocabulary.tokenizer.decode(choice.prompt) if self._job.echo else ""

    def _usage(self, choices: list[Choice]) -> dict[str, int]:
        prompt = sum(len(ids) for ids in self._job.prompts)
        completion = sum(choice.tokens for choice in choices)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _logprobs(self, piece: Piece, choice: Choice | None = None) -> dict[str, Any] | None:
        if self._job.params.logprobs is None:
            return None
        if self._kind == "chat":
            return {"content": [self._chat_logprob(update) for update in piece.updates]}
        return self._completion_logprobs(piece, choice)

    def _chat_logprob(self, update: Update) -> dict[str, Any]:
        named = self._named(update.token, update.logprob or 0.0)
        named["top_logprobs"] = [self._named(entry.token, entry.logprob) for entry in update.top or ()]
        return named

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self._vocabulary.token_name(token)
        return {"token": text, "logprob": logprob, "bytes": raw}

    def _completion_logprobs(self, piece: Piece, choice: Choice | None) -> dict[str, Any]:
        text = self._vocabulary.token_text
        tokens = [text(update.token) for update in piece.updates]
        values: list[float | None] = [update.logprob for update in piece.updates]
        tops: list[dict[str, float] | None] = []
        for update in piece.updates:
            own = [TokenLogprob(update.token, update.logprob or 0.0)]
            tops.append({text(entry.token): entry.logprob for entry in own + (update.top or [])})
        offsets = list(piece.offsets)
        if self._job.echo and choice is not None and choice.prompt_logprobs is not None:
            prompt_texts = [text(token) for token in choice.prompt]
            starts = [0, *accumulate(map(len, prompt_texts[:-1]))]
            shift = len(self._echo(choice))
            tokens = prompt_texts + tokens
            values = [entry[0].logprob if entry else None for entry in choice.prompt_logprobs] + values
            named = [{text(e.token): e.logprob for e in entry} if entry else None for entry in choice.prompt_logprobs]
            tops = named + tops
            offsets = starts + [offset + shift for offset in offsets]
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}

    def _prompt_logprobs(self, choice: Choice) -> list[dict[str, Any] | None]:
        def named(entry: TokenLogprob) -> dict[str, Any]:
            decoded = self._vocabulary.token_text(entry.token)
            return {"logprob": entry.logprob, "rank": entry.rank, "decoded_token": decoded}

        return [
            None if entries is None else {str(entry.token): named(entry) for entry in entries}
            for entries in choice.prompt_logprobs or []
        ]
