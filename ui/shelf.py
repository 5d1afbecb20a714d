"""The shelf: one person's own feedback, newest first, what became of each, and a way to take it back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from ui.client import Credentials, ServiceClient, ServiceError

EXCERPT = 240  # characters of a reply that are shown
NEVER_LEARNED = ("label",)  # kinds that no adapter is said to have learned: at most they name prompts to ask again


@dataclass
class Shelf:
    items: list[dict[str, Any]] = field(default_factory=list)
    next: str | None = None
    shown: bool = False
    error: str = ""

    def start(self) -> None:
        self.items, self.next, self.shown, self.error = [], None, True, ""

    async def load(self, service: ServiceClient, who: Credentials) -> None:
        """Append the next page, each feedback with an excerpt of the replies it is about.

        Where another press brought that page meanwhile, or the shelf was opened anew, this one is too late.
        """
        items = self.items
        page = await service.my_feedback(who, self.next)
        more = await asyncio.gather(*(_item(service, who, stored) for stored in page["data"]))
        if self.items is items:
            self.items, self.next, self.error = [*items, *more], page.get("next"), ""

    async def withdraw(self, service: ServiceClient, who: Credentials, feedback_id: str) -> None:
        await service.withdraw_feedback(who, feedback_id)
        self.error = ""
        for item in self.items:
            if item["id"] == feedback_id:
                item["withdrawn"] = True

    def view(self) -> dict[str, Any]:
        return {"items": self.items, "more": self.next is not None, "shown": self.shown, "error": self.error}


async def _item(service: ServiceClient, who: Credentials, stored: dict[str, Any]) -> dict[str, Any]:
    feedback = stored["feedback"]
    about = [feedback["a"], feedback["b"]] if feedback["kind"] == "comparison" else [feedback]
    excerpts = []
    for ref in about:
        if "exchange_id" in ref:  # a ranking, given by another client, names its replies in groups
            excerpts.append(await _excerpt(service, who, ref["exchange_id"], ref.get("index", 0)))
    return {
        "id": stored["id"],
        "at": stored["created_at"],
        "withdrawn": stored["withdrawn"],
        "learned_in": list(stored["learned_in"]),
        "considered": bool(stored.get("considered")),
        "teaches": feedback["kind"] not in NEVER_LEARNED,
        "feedback": feedback,
        "prompt": next((excerpt["prompt"] for excerpt in excerpts if excerpt), ""),
        "replies": [excerpt["reply"] for excerpt in excerpts if excerpt],
        "adapter": next((excerpt["adapter"] for excerpt in excerpts if excerpt), ""),
    }


async def _excerpt(service: ServiceClient, who: Credentials, exchange_id: str, index: int) -> dict[str, str] | None:
    """None where the exchange was deleted meanwhile: the feedback is shown without it."""
    try:
        exchange = await service.exchange(who, exchange_id)
    except ServiceError as error:
        if error.status == 404:
            return None
        raise
    reply = next((choice["text"] for choice in exchange["replies"] if choice["index"] == index), "")
    prompt = next((m["content"] for m in reversed(exchange["messages"]) if m.get("role") == "user"), "")
    return {"reply": _shorten(reply), "prompt": _shorten(prompt), "adapter": exchange["adapter"]}


def _shorten(text: Any) -> str:
    """Messages of other clients may be lists of parts; only text is shown."""
    plain = text if isinstance(text, str) else " ".join(str(part.get("text", "")) for part in text or ())
    return plain if len(plain) <= EXCERPT else plain[: EXCERPT - 1].rstrip() + "…"
