"""A conversation as a chat page holds it: turns, the drafts of each reply, and what the person said about them.

Pure state, no HTTP and no Gradio. Whatever is said about a reply is keyed by that reply's exchange and index, never by
its position on the page. `Conversation.view()` is the JSON that the page's script draws.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any

from ui.client import Delta, Stage


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
    stages: list[Stage] = field(default_factory=list)  # what went on so far, where it is made by principles
    revisions: list[dict[str, Any]] = field(default_factory=list)  # how it was made, as the service keeps it

    @property
    def shown(self) -> str:
        """The reply as the conversation goes on with it: as the person corrected it, else as it came."""
        return str(self.given["correction"]["feedback"]["text"]) if "correction" in self.given else self.text

    def take(self, delta: Delta) -> None:
        self.exchange_id, self.adapter = delta.exchange_id, delta.adapter
        self.text += delta.text
        self.finish_reason = delta.finish_reason or self.finish_reason
        if delta.stage is not None:
            self._go_on(delta.stage)

    def _go_on(self, stage: Stage) -> None:
        """One entry a stage, which its text grows in."""
        last = self.stages[-1] if self.stages else None
        if last is not None and replace(last, text="") == replace(stage, text=""):
            self.stages[-1] = replace(last, text=last.text + stage.text)
        else:
            self.stages.append(stage)

    @property
    def written(self) -> tuple[int, int, int]:
        """How far it is: grows with everything that there is to draw."""
        return len(self.text), len(self.stages), len(self.stages[-1].text) if self.stages else 0

    def about(self) -> dict[str, Any]:
        """The part of a feedback that names this reply."""
        return {"exchange_id": self.exchange_id, "index": self.index}

    @property
    def name(self) -> str | None:
        """Names the same draft after a reload too; None until the service holds it."""
        return f"{self.exchange_id}.{self.index}" if self.kept else None

    def view(self) -> dict[str, Any]:
        given = {kind: stored["feedback"] for kind, stored in self.given.items()}
        return {
            "key": self.key,
            "name": self.name,
            "adapter": self.adapter,
            "text": self.shown,
            "finish": self.finish_reason,
            "kept": self.kept,
            "stage": asdict(self.stages[-1]) if self.stages and self.finish_reason is None else None,
            "revisions": self.revisions,
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
    asked: list[dict[str, str]] = field(default_factory=list)  # the messages that the drafts answer

    @property
    def reply(self) -> Reply | None:
        return self.replies[self.chosen] if self.chosen is not None and self.chosen < len(self.replies) else None

    @property
    def open(self) -> bool:
        """Two drafts stand side by side and none is picked yet."""
        return self.side_by_side and self.chosen is None and not self.error

    def trail(self) -> str:
        """`exchange~exchange.position`: whose drafts these are, and which of them the conversation goes on with.

        The position counts the drafts that the service holds, in the order of the page; where it doesn't hold the one
        that goes on, the last that it holds does. It is left out while the pick is open, and the whole is empty where
        there is nothing that could be drawn again.
        """
        kept = [reply for reply in self.replies if reply.kept]
        exchanges = "~".join(dict.fromkeys(str(reply.exchange_id) for reply in kept))
        if not kept or self.open:
            return exchanges
        return f"{exchanges}.{kept.index(self.reply if self.reply in kept else kept[-1])}"

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


def messages(before: list[Turn], prompt: str) -> list[dict[str, str]]:
    """What the model is asked: the answered turns `before`, and the prompt to be answered."""
    said = [{"role": "user", "content": prompt}]
    for turn in reversed(before):
        answer = turn.reply.shown if turn.reply else ""
        said[:0] = {"role": "user", "content": turn.prompt}, {"role": "assistant", "content": answer}
    return said


@dataclass
class Conversation:
    """`id` names it to the service: random, made with its first message, kept by all that follow and after a reload.

    `notice` is one plain sentence for the person; `serial` counts notices, so that the same one shows again.
    `unsent`: the message that it says was not taken, which goes back to where it was written; else empty.

    `tokens_per_character`: of what was asked last, 0 before anything was; `seen_from`: the key of the oldest turn that
    the model was told when it was asked last, empty as long as all of them fit into its context.

    `by_principles`: its replies are criticised and revised under the constitution before they are answered; `policy`:
    whether that is so for no conversation here (never), for those that ask (asked), or for all (always).

    `version` counts views: events run side by side, and a view that was overtaken on its way is not to be drawn.

    `judging` is held while something is said about a reply, so that of two presses the second changes what the first
    one gave; and while a conversation is drawn again, so that what is sent meanwhile is sent in it.
    """

    id: str | None = None
    turns: list[Turn] = field(default_factory=list)
    busy: bool = False
    notice: str = ""
    tone: str = "info"
    unsent: str = ""
    serial: int = 0
    version: int = 0
    stop: asyncio.Event | None = None  # set while a reply is drafted
    judging: asyncio.Lock = field(default_factory=asyncio.Lock)
    tokens_per_character: float = 0.0
    seen_from: str = ""
    by_principles: bool = False
    policy: str = "asked"

    def identify(self) -> str:
        """The id, a new one for a new conversation.

        Without one the service would know it by how it begins: who always begins with "Hi" would be in one for ever.
        It is no default of the field, because every browser gets a copy of the state that the page began with.
        """
        self.id = self.id or f"conv-{uuid.uuid4().hex}"
        return self.id

    def say(self, notice: str, tone: str = "info", unsent: str = "") -> None:
        self.notice, self.tone, self.unsent, self.serial = notice, tone, unsent, self.serial + 1

    def take_back(self, turn: Turn, why: str) -> None:
        """The turn was never answered, and can't be as it is: its message is the person's to change."""
        self.turns.remove(turn)
        self.say(why, "error", unsent=turn.prompt)

    def turns_before(self, turn: Turn, room: float = inf) -> list[Turn]:
        """The answered turns that the model is to see when it is asked `turn`, oldest first.

        `room`: how many characters fit, the prompt's included; of what is too much the oldest turns are left out.
        """
        seen: list[Turn] = []
        room -= len(turn.prompt)
        for before in reversed(self.turns[: self.turns.index(turn)]):
            if before.reply is None or not before.reply.shown:
                continue
            room -= len(before.prompt) + len(before.reply.shown)
            if room < 0:
                break
            seen.insert(0, before)
        return seen

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
        return "/".join(filter(None, (turn.trail() for turn in self.turns)))

    def view(self) -> dict[str, Any]:
        self.version += 1
        return {
            "version": self.version,
            "trail": self.trail(),
            "busy": self.busy,
            "turns": [turn.view() for turn in self.turns],
            "seen_from": self.seen_from,
            "by_principles": self.by_principles,
            "policy": self.policy,
            "notice": {"text": self.notice, "tone": self.tone, "unsent": self.unsent, "serial": self.serial},
        }

    def lost(self) -> dict[str, Any]:
        """For a page that shows a conversation which this is not: nothing was done, and it is to load itself anew."""
        return {**self.view(), "lost": True}
