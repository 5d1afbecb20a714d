"""A conversation as a chat page holds it: turns, the drafts of each reply, and what the person said about them.

Pure state, no HTTP and no Gradio. Whatever is said about a reply is keyed by that reply's exchange and index, never by
its position on the page. `Conversation.view()` is the JSON that the page's script draws.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from math import inf
from typing import Any

from ui.client import Delta


def _key() -> str:
    return uuid.uuid4().hex[:12]


@dataclass
class Reply:
    """One draft. `finish_reason` is None while it streams, `stopped` when the person stopped it."""

    index: int = 0
    key: str = field(default_factory=_key)  # stable from the first token on, for the page's script
    exchange_id: str | None = None
    adapter: str = ""
    text: str = ""
    finish_reason: str | None = None
    kept: bool = False  # the service holds the exchange, so feedback can refer to it
    given: dict[str, dict[str, Any]] = field(default_factory=dict)  # kind → the stored feedback about it

    @property
    def shown(self) -> str:
        """The reply as the conversation goes on with it: as the person corrected it, else as it came."""
        return str(self.given["correction"]["feedback"]["text"]) if "correction" in self.given else self.text

    def take(self, delta: Delta) -> None:
        self.exchange_id, self.adapter = delta.exchange_id, delta.adapter
        self.text += delta.text
        self.finish_reason = delta.finish_reason or self.finish_reason

    def about(self) -> dict[str, Any]:
        """The part of a feedback that names this reply."""
        return {"exchange_id": self.exchange_id, "index": self.index}

    def view(self) -> dict[str, Any]:
        given = {kind: stored["feedback"] for kind, stored in self.given.items()}
        return {
            "key": self.key,
            "adapter": self.adapter,
            "text": self.shown,
            "original": self.text,
            "finish": self.finish_reason,
            "kept": self.kept,
            "thumb": given["thumb"]["good"] if "thumb" in given else None,
            "score": given["score"]["score"] if "score" in given else None,
            "labels": list(given["label"]["labels"]) if "label" in given else [],
            "critique": given["critique"]["text"] if "critique" in given else None,
            "corrected": "correction" in given,
        }


@dataclass
class Turn:
    """A prompt and the drafts that answer it. The conversation goes on with `chosen`, None while the pick is open."""

    prompt: str
    key: str = field(default_factory=_key)
    replies: list[Reply] = field(default_factory=list)
    chosen: int | None = None
    compared: tuple[int, int] | None = None  # positions in `replies` of a and b: the two that can be compared
    comparison: dict[str, Any] | None = None  # the stored feedback
    side_by_side: bool = False
    error: str = ""

    @property
    def reply(self) -> Reply | None:
        return self.replies[self.chosen] if self.chosen is not None and self.chosen < len(self.replies) else None

    @property
    def open(self) -> bool:
        """Two drafts stand side by side and none is picked yet."""
        return self.side_by_side and self.chosen is None and not self.error

    def settle(self, verdict: str) -> None:
        """Go on with the draft that `verdict` names; a tie or "both bad" keeps the draft that came first."""
        if self.compared is not None:
            a, b = self.compared
            self.chosen = b if verdict == "b" else a

    def view(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "prompt": self.prompt,
            "replies": [reply.view() for reply in self.replies],
            "chosen": self.chosen,
            "compared": self.compared,
            "verdict": self.comparison["feedback"]["verdict"] if self.comparison else None,
            "side_by_side": self.side_by_side,
            "error": self.error,
        }


@dataclass
class Conversation:
    """`notice` is one plain sentence for the person; `serial` counts notices, so that the same one shows again.

    `tokens_per_character`: of what was asked last, 0 before anything was; `forgetting`: its beginning no longer fits
    into the model's context, and was left out.

    `version` counts views: events run side by side, and a view that was overtaken on its way is not to be drawn.
    """

    id: str | None = None
    turns: list[Turn] = field(default_factory=list)
    busy: bool = False
    notice: str = ""
    tone: str = "info"
    serial: int = 0
    version: int = 0
    stop: asyncio.Event | None = None  # set while a reply is drafted
    tokens_per_character: float = 0.0
    forgetting: bool = False

    def say(self, notice: str, tone: str = "info") -> None:
        self.notice, self.tone, self.serial = notice, tone, self.serial + 1

    def messages(self, before: Turn, room: float = inf) -> list[dict[str, str]]:
        """What the model is asked: every turn that was answered, and the prompt of `before`, the one to be answered.

        `room`: how many characters fit; of what is too much the oldest turns are left out.
        """
        messages = [{"role": "user", "content": before.prompt}]
        room -= len(before.prompt)
        for turn in reversed(self.turns[: self.turns.index(before)]):
            if turn.reply is None or not turn.reply.shown:
                continue
            room -= len(turn.prompt) + len(turn.reply.shown)
            if room < 0:
                break
            said = {"role": "user", "content": turn.prompt}, {"role": "assistant", "content": turn.reply.shown}
            messages = [*said, *messages]
        return messages

    def find_reply(self, key: str) -> Reply | None:
        return next((reply for turn in self.turns for reply in turn.replies if reply.key == key), None)

    def find_turn(self, key: str) -> Turn | None:
        return next((turn for turn in self.turns if turn.key == key), None)

    def forget(self, feedback_id: str) -> None:
        """That feedback was withdrawn elsewhere."""
        for turn in self.turns:
            if turn.comparison and turn.comparison["id"] == feedback_id:
                turn.comparison = None
            for reply in turn.replies:
                reply.given = {kind: stored for kind, stored in reply.given.items() if stored["id"] != feedback_id}

    def trail(self) -> str:
        """The exchanges that the conversation is made of: enough to draw it again (`ui.restoring`)."""
        replies = [turn.reply for turn in self.turns if turn.reply is not None and turn.reply.kept]
        return "/".join(f"{reply.exchange_id}.{reply.index}" for reply in replies)

    def view(self) -> dict[str, Any]:
        self.version += 1
        return {
            "version": self.version,
            "trail": self.trail(),
            "busy": self.busy,
            "turns": [turn.view() for turn in self.turns],
            "notice": {"text": self.notice, "tone": self.tone, "serial": self.serial},
        }
