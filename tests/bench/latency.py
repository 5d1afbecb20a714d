"""First token of a chat while the learner trains, beside the same on an idle service.

`hone up` runs as people run it; a chat every quarter of a second or so is answered first idle, then during a training,
in turns. The figure is the 95th percentile of each stretch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import quantiles

import httpx2

from learner.pretrain.questions import Prompt, draw_prompts
from learner.simulate.client import Client
from learner.simulate.house import own_house
from learner.simulate.people import give_comparisons
from learner.simulate.tastes import load_taste
from tests.bench.harness import Comparison, benchmark

REPEATS = 3
CHATS = 60
COMPARISONS = 60
PAUSE_SECONDS = 0.25
OVER = ("succeeded", "rejected", "nothing_to_learn", "failed", "cancelled")


@benchmark(
    "first-token-while-learning",
    unit="seconds to the first token, p95",
    peer_name="the same service, idle",
    higher_is_better=False,
    target=0.5,
)
def first_token_while_learning() -> Comparison:
    with own_house({"HONE_SERVER__PAGES": "false"}) as house:
        return asyncio.run(_measure(house.url, house.operator_key))


async def _measure(url: str, key: str) -> Comparison:
    prompts = draw_prompts(400, seed=1)
    idle: list[float] = []
    busy: list[float] = []
    async with Client(url, key) as client, httpx2.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as http:
        await give_comparisons(client, load_taste("short"), prompts, COMPARISONS, lambda *_: None)
        for repeat in range(REPEATS):
            idle.append(_p95([await _first_token(http, prompt) for prompt in prompts[:CHATS]]))
            run = await client.call("POST", "/v1/runs", {"method": "dpo", "promote": False})
            busy.append(_p95(await _while_training(client, http, run["id"], prompts[CHATS * (repeat + 1) :])))
    return Comparison(
        ours=busy, peer=idle, note=f"{REPEATS} trainings on {COMPARISONS} comparisons, {CHATS} chats each"
    )


async def _while_training(
    client: Client, http: httpx2.AsyncClient, run_id: str, prompts: Sequence[Prompt]
) -> list[float]:
    """Chats that began after the training had begun and before it was over."""
    found: list[float] = []
    for place in range(100_000):
        run = await client.call("GET", f"/v1/runs/{run_id}")
        if run["state"] in OVER or (len(found) >= CHATS and run["phase"] == "evaluate"):
            break
        if run["phase"] in ("train", "evaluate"):
            found.append(await _first_token(http, prompts[place % len(prompts)]))
        else:
            await asyncio.sleep(PAUSE_SECONDS)
    while run["state"] not in OVER:
        await asyncio.sleep(PAUSE_SECONDS)
        run = await client.call("GET", f"/v1/runs/{run_id}")
    if len(found) < 20:
        raise RuntimeError(f"the training was over after {len(found)} chats: {run['state']}, {run['message']}")
    return found


async def _first_token(http: httpx2.AsyncClient, prompt: Prompt) -> float:
    """Seconds from sending a chat to the first piece of its text."""
    await asyncio.sleep(PAUSE_SECONDS)
    body = {"model": "hone", "messages": [{"role": "user", "content": prompt.text}], "stream": True}
    began = time.perf_counter()
    seconds = None
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if seconds is None and line.startswith("data: ") and '"content":"' in line and '"content":""' not in line:
                seconds = time.perf_counter() - began
    return seconds if seconds is not None else time.perf_counter() - began


def _p95(seconds: Sequence[float]) -> float:
    return quantiles(seconds, n=20)[-1]
