"""A conversation about one prompt, and what the page would have drawn of its drafts."""

from __future__ import annotations

from tests.ui.calling import ANNA, using
from ui.client import ServiceClient
from ui.conversation import Conversation, Turn
from ui.drafting import draft


def talk_about(prompt: str, pair: bool = False) -> tuple[Conversation, Turn]:
    turn = Turn(prompt, chosen=None if pair else 0, compared=(0, 1) if pair else None, side_by_side=pair)
    return Conversation(turns=[turn]), turn


def drafted(api_url: str, talk: Conversation, turn: Turn, count: int = 1, stop_after: int | None = None) -> list[str]:
    """What the page would have drawn of the first draft, step by step."""

    async def run(client: ServiceClient) -> list[str]:
        seen: list[str] = []
        async for _ in draft(client, ANNA, talk, turn, count):
            seen.append(turn.replies[0].text if turn.replies else "")
            if stop_after is not None and len(seen[-1]) >= stop_after and talk.stop is not None:
                talk.stop.set()
        return seen

    return using(api_url, run)
