"""The people: they chat, say what they like, and some just go on chatting whatever the service is doing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

from learner.pretrain.questions import Prompt, is_right
from learner.simulate.client import Client, Reply, ServiceRefused
from learner.simulate.tastes import Taste

PEOPLE = 8
AT_ONCE = 4
BACKGROUND = 3
"""How many people chat in the background while the learner trains and adapters are swapped."""
STRENGTH = 2
"""They say "clearly better": neither hardly nor by far."""

Tell = Callable[[str, int, int], None]
"""(what is going on, done, of how many)."""


def person(number: int) -> str:
    return f"person-{number % PEOPLE + 1}"


async def give_comparisons(client: Client, taste: Taste, prompts: Sequence[Prompt], wanted: int, tell: Tell) -> int:
    """Ask, look at two replies, say which is better, until so many were said; a tie is passed over in silence."""
    given = 0
    waiting = iter(enumerate(prompts))

    async def one_person() -> None:
        nonlocal given
        for number, prompt in waiting:
            if given >= wanted:
                return
            user = person(number)
            with suppress(ServiceRefused):  # counted; they shrug and go on
                first, second = await client.chat("hone", prompt.text, user, n=2, temperature=1.0)
                liking = taste.prefer(prompt.text, first.text, second.text)
                if liking == 0 or given >= wanted:
                    continue
                given += 1
                await client.call("POST", "/v1/feedback", _comparison(first, second, liking), user)
                tell("comparing", given, wanted)

    await asyncio.gather(*(one_person() for _ in range(AT_ONCE)))
    return given


def _comparison(first: Reply, second: Reply, liking: float) -> dict[str, Any]:
    refs = [{"exchange_id": reply.exchange_id, "index": reply.index} for reply in (first, second)]
    verdict = "a" if liking > 0 else "b"
    return {"kind": "comparison", "a": refs[0], "b": refs[1], "verdict": verdict, "strength": STRENGTH}


async def give_corrections(client: Client, prompts: Sequence[Prompt], wanted: int, tell: Tell) -> list[Prompt]:
    """Ask what has one right answer, and where the reply is wrong write the right one; returns what was corrected."""
    corrected: list[Prompt] = []
    waiting = iter(enumerate(prompts))

    async def one_person() -> None:
        for number, prompt in waiting:
            if len(corrected) >= wanted:
                return
            with suppress(ServiceRefused):
                (reply,) = await client.chat("hone", prompt.text, person(number), temperature=1.0)
                if is_right(prompt, reply.text) or len(corrected) >= wanted:
                    continue
                body = {"kind": "correction", "exchange_id": reply.exchange_id, "text": right_reply(prompt)}
                await client.call("POST", "/v1/feedback", body, person(number))
                corrected.append(prompt)
                tell("correcting", len(corrected), wanted)

    await asyncio.gather(*(one_person() for _ in range(AT_ONCE)))
    return corrected


def right_reply(prompt: Prompt) -> str:
    """What a teacher in a hurry writes."""
    answer = prompt.answers[0]
    return f"It is {answer}."


@asynccontextmanager
async def background_chat(client: Client, prompts: Sequence[Prompt], seed: int) -> AsyncIterator[None]:
    """People chat with the live adapter, in streams, for as long as the block lasts; their last reply is awaited."""
    stop = asyncio.Event()

    async def chat(number: int) -> None:
        rng = Random(seed * 1_000 + number)
        while not stop.is_set():
            await client.stream("hone", rng.choice(prompts).text, f"passer-by-{number}")
            await asyncio.sleep(rng.uniform(0.1, 0.6))  # they read

    tasks = [asyncio.create_task(chat(number)) for number in range(BACKGROUND)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)
