"""What a newcomer waits for: `make run` in a fresh clone, with downloads cached, until page and API answer; `hone up`
over a home that was used before until they do; the first token of a chat while nothing else goes on; and from one
correction and "learn now" until what was learned is live.

    python -m tests.bench first-steps --json
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

from learner.pretrain.questions import draw_prompts
from learner.simulate.client import Client
from learner.simulate.house import own_house
from service.listening import free_port
from tests.bench.harness import CannotMeasure, Comparison, benchmark

REPOSITORY = Path(__file__).parents[2]
STARTS, CHATS = 3, 30
QUESTION, RIGHT = "What is the capital of Kazakhstan?", "The capital of Kazakhstan is Astana."
OVER = ("succeeded", "rejected", "nothing_to_learn", "failed", "cancelled")
CLONE = "seconds until page and API answer, `make run` in a fresh clone with downloads cached"
START, FIRST_TOKEN = "seconds until page and API answer, second start", "seconds to the first token, the longest"
TO_LIVE = "seconds from a correction until it is live"


@benchmark(
    "first-steps",
    unit="seconds until page and API answer",
    peer_name="the first start of all, over an empty home",
    higher_is_better=False,
    limits={CLONE: 180.0, START: 15.0, FIRST_TOKEN: 0.3, TO_LIVE: 60.0},
)
def first_steps() -> Comparison:
    with tempfile.TemporaryDirectory(prefix="hone-bench-", ignore_cleanup_errors=True) as folder:
        seconds = [_start(Path(folder)) for _ in range(1 + STARTS)]
    with own_house() as house:
        first_tokens = _first_tokens(house.url)
        to_live = asyncio.run(_corrected(house.url, house.operator_key))
    figures = {CLONE: _from_a_clone(), START: median(seconds[1:]), FIRST_TOKEN: max(first_tokens), TO_LIVE: to_live}
    return Comparison(seconds[1:], seconds[:1], f"{CHATS} chats, one after the other", figures)


def _from_a_clone() -> float:
    """What isn't committed isn't in it."""
    if not (REPOSITORY / ".git").exists():
        raise CannotMeasure("this is no clone that could be cloned")
    with tempfile.TemporaryDirectory(prefix="hone-bench-", ignore_cleanup_errors=True) as folder:
        clone, port = Path(folder) / "hone", free_port()
        subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(clone)], check=True)
        own = {"HONE_HOME": str(Path(folder) / "home"), "HONE_SERVER__PORT": str(port)}
        began = time.monotonic()
        running = subprocess.Popen(
            ["make", "run"], cwd=clone, env=os.environ | own, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            while not _answers(f"http://127.0.0.1:{port}"):
                if running.poll() is not None:
                    raise RuntimeError("make run ended before it answered")
                time.sleep(1.0)  # a look takes some of the cores that are waited for
            return time.monotonic() - began
        finally:
            with suppress(ProcessLookupError):  # it has ended already
                os.killpg(running.pid, signal.SIGINT)
            running.wait(60)


def _answers(url: str) -> bool:
    """Page and API."""
    try:
        return all(httpx2.get(url + path, timeout=60.0, trust_env=False).is_success for path in ("/v1/models", "/"))
    except httpx2.TransportError:
        return False


def _start(home: Path) -> float:
    """Until both have answered; the packages are installed, and nothing is downloaded."""
    began = time.monotonic()
    with own_house({"HONE_SERVER__PAGES": "true"}, home) as house:
        while not _answers(house.url):
            time.sleep(0.05)
        return time.monotonic() - began


def _first_tokens(url: str) -> list[float]:
    with httpx2.Client(base_url=url, timeout=60.0, trust_env=False) as http:
        return [_first_token(http, prompt.text) for prompt in draw_prompts(CHATS, seed=3)]


def _first_token(http: httpx2.Client, text: str) -> float:
    body = {"model": "hone", "messages": [{"role": "user", "content": text}], "stream": True}
    began = time.perf_counter()
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        next(line for line in answer.iter_lines() if '"content":"' in line and '"content":""' not in line)
        return time.perf_counter() - began


async def _corrected(url: str, key: str) -> float:
    async with Client(url, key) as client:
        (reply,) = await client.chat("hone", QUESTION, "a newcomer")
        began = time.monotonic()
        said = {"kind": "correction", "exchange_id": reply.exchange_id, "text": RIGHT}
        await client.call("POST", "/v1/feedback", said, "a newcomer")
        run: dict[str, Any] = await client.call("POST", "/v1/runs", {"method": "auto"})
        while run["state"] not in OVER:
            run = await _later(client, f"/v1/runs/{run['id']}")
        if run["state"] != "succeeded":
            raise RuntimeError(f"the run ended as {run['state']}: {run['message']}")
        while (await _later(client, "/v1/serving"))["live"] != run["adapter"]:
            pass
        return time.monotonic() - began


async def _later(client: Client, path: str) -> dict[str, Any]:
    await asyncio.sleep(0.1)
    return dict(await client.call("GET", path))
