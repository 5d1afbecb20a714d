"""Fifty adapters go live on real vLLM under load, one after the other: how soon each answers, and what callers notice.

Eight callers stream replies from `hone`, through the service. Ours is the time from asking that an adapter be promoted
to the first token of a reply by it: its folder is checked, vLLM loads it and scores its probes, what was live before
retires, and the next request goes to it. The peer is vLLM's plain load call and the first token by what it loaded,
straight from vLLM under the same load; nothing is checked or proven there. In turns, a fifth of the swaps a round.

A request that fails, or a reply that does not come to its end, ends the benchmark. The note has the 99th percentiles,
and the longest gap between two tokens of a reply in decode steps (the median gap), while either side swapped.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

import httpx2

from service.adapters.registry import Registry
from service.settings import SPROUT, load_settings
from service.store.identifiers import new_id
from service.store.queries import keys
from service.store.session import Store
from tests.bench.engine_vllm import ENGINE, fastest_dtype, preloaded
from tests.bench.gateway_processes import service
from tests.bench.harness import CannotMeasure, Comparison, benchmark
from tests.bench.swap import ARRIVAL
from tests.embedded.models import save_adapter
from tests.embedded.serving import parse_event
from tests.engine_contract.asking import CHAT, PROMPT, REPLY
from tests.fixtures.engines import serving_sprout, why_vllm_cannot_run
from tests.fixtures.provenance import scored_provenance

SWAPS, ROUNDS, WARM_UPS = 50, 5, 2
CALLERS, TOKENS = 8, 64
LOOK_SECONDS = 0.01
PATIENCE_SECONDS = 120.0  # for one swap; the first ones wait while vLLM compiles

Swap = Callable[[], Awaitable[float]]
"""Brings another adapter; returns after how many seconds its first token came."""


@dataclass
class Heard:
    """One streamed reply. `arrivals`: when its tokens came; `model`: who it says it is by."""

    status: int = 0
    model: str = ""
    arrivals: list[float] = field(default_factory=list)
    is_finished: bool = False
    is_whole: bool = False

    def take(self, event: dict[str, object] | str) -> None:
        if not isinstance(event, dict):
            self.is_whole = self.is_finished and event == "[DONE]"
        elif isinstance(choices := event.get("choices"), list) and choices:
            self.model = str(event["model"])
            self.is_finished = self.is_finished or choices[0].get("finish_reason") is not None
            if choices[0]["delta"].get("content") or self.is_finished:
                self.arrivals.append(time.perf_counter())


@dataclass
class Side:
    """What was seen of one way to swap, and by those who called meanwhile."""

    seconds: list[float] = field(default_factory=list)
    replies: list[Heard] = field(default_factory=list)

    async def under_load(self, hone: httpx2.AsyncClient, swaps: Sequence[Swap]) -> None:
        """Swap while the callers call. Raises an ExceptionGroup as soon as one of them is let down."""
        has_replied, over = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(self._call(hone, has_replied, over))
            await has_replied.wait()
            for swap in swaps:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    self.seconds.append(await swap())
            over.set()

    async def _call(self, hone: httpx2.AsyncClient, has_replied: asyncio.Event, over: asyncio.Event) -> None:
        """Have one reply after the other. Raises RuntimeError when one does not come to its end."""
        while not over.is_set():
            reply = await ask(hone, "hone", TOKENS)
            if not reply.is_whole:
                raise RuntimeError("a reply was interrupted" if reply.arrivals else f"a request failed: {reply.status}")
            self.replies.append(reply)
            has_replied.set()

    @property
    def longest_gap(self) -> float:
        """Between two tokens of one reply, in decode steps."""
        gaps = [later - earlier for reply in self.replies for earlier, later in pairwise(reply.arrivals)]
        steps = [gap for gap in gaps if gap > ARRIVAL]
        return max(steps) / median(steps)


async def ask(http: httpx2.AsyncClient, model: str, tokens: int) -> Heard:
    """One streamed reply in a conversation of its own, followed to its end, whatever that is."""
    messages = [{"role": "user", "content": "Tell me about rivers."}]
    body: dict[str, object] = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 1.0}
    body |= {"stream": True, "hone": {"conversation_id": new_id("conv")}}
    heard = Heard()
    try:
        async with http.stream("POST", CHAT, json=body) as answer:
            heard.status = answer.status_code
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    heard.take(parse_event(line))
    except httpx2.HTTPError:
        heard.is_whole = False
    return heard


async def first_token(http: httpx2.AsyncClient, asked: str, answers: str) -> float:
    """When it came. Raises RuntimeError if anybody but `answers` replied."""
    heard = await ask(http, asked, 1)
    if not heard.is_whole or heard.model != answers:
        raise RuntimeError(f"{heard.model or 'nobody'} answered for {answers}")
    return heard.arrivals[0]


async def promote(hone: httpx2.AsyncClient, name: str) -> float:
    began = time.perf_counter()
    (await hone.post(f"/v1/adapters/{name}/promote", json={})).raise_for_status()
    while (serving := (await hone.get("/v1/serving")).raise_for_status().json())["live"] != name:
        if serving["requested"] != name:
            raise RuntimeError((await hone.get(f"/v1/adapters/{name}")).json()["reason"])
        await asyncio.sleep(LOOK_SECONDS)
    return await first_token(hone, "hone", f"hone:{name}") - began


async def load_plainly(vllm: httpx2.AsyncClient, folder: Path) -> float:
    """Under a name that no adapter ever had; unloaded afterwards."""
    name = f"plain-{folder.name}"
    began = time.perf_counter()
    loaded = await vllm.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})
    loaded.raise_for_status()
    seconds = await first_token(vllm, name, name) - began
    (await vllm.post("/v1/unload_lora_adapter", json={"lora_name": name})).raise_for_status()
    return seconds


def publish(home: Path, folders: Sequence[Path]) -> tuple[list[str], str]:
    """The names that they get in a new home, and an operator's key."""
    home.mkdir()
    settings = load_settings(home, environment={})
    with closing(Store.open(settings.store_url)) as store:
        registry = Registry.of(settings, store, SPROUT)
        told = (scored_provenance(folder, SPROUT, PROMPT, REPLY) for folder in folders)
        names = [registry.publish(folder, of, {}, "") for folder, of in zip(folders, told, strict=True)]
        with store.begin() as tx:
            return names, keys.create_key(tx, "operator", "bench")


async def measure(url: str, key: str, engine_url: str, names: Sequence[str], folders: Sequence[Path]) -> Comparison:
    ours, plain = Side(), Side()
    operator = {"authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(base_url=url, headers=operator, timeout=PATIENCE_SECONDS, trust_env=False) as hone,
        httpx2.AsyncClient(base_url=engine_url, timeout=PATIENCE_SECONDS, trust_env=False) as vllm,
    ):
        promotions: list[Swap] = [partial(promote, hone, name) for name in names]
        loads: list[Swap] = [partial(load_plainly, vllm, folder) for folder in folders]
        await Side().under_load(hone, promotions[:WARM_UPS] + loads[:WARM_UPS])
        for number in range(ROUNDS):
            turn = slice(WARM_UPS + number, None, ROUNDS)
            await ours.under_load(hone, promotions[turn])
            await plain.under_load(hone, loads[turn])
    p99, plain_p99 = (quantiles(side.seconds, n=100, method="inclusive")[-1] for side in (ours, plain))
    gap, plain_gap = (side.longest_gap for side in (ours, plain))
    note = (
        f"{len(ours.seconds)} swaps each beside {CALLERS} streams, vLLM in {fastest_dtype()}; "
        f"99th percentile {p99:.2f} s, of the plain call {plain_p99:.2f} s; "
        f"longest gap between tokens {gap:.1f} decode steps, beside the plain call {plain_gap:.1f}; "
        f"of {len(ours.replies)} requests while ours swapped none failed and none was interrupted"
    )
    return Comparison(ours.seconds, plain.seconds, note)


@benchmark(
    "vllm-swap",
    unit="seconds from publishing to the first token",
    peer_name="vLLM's plain load call, which proves nothing",
    higher_is_better=False,
)
def vllm_swap() -> Comparison:
    if (reason := why_vllm_cannot_run()) is not None:
        raise CannotMeasure(reason)
    with tempfile.TemporaryDirectory(prefix="hone-bench-") as temporary:
        place = Path(temporary)
        folders = [
            save_adapter(place / f"trained-{seed}", SPROUT, seed, r=16, lora_alpha=32)
            for seed in range(WARM_UPS + SWAPS)
        ]
        names, key = publish(place / "home", folders)
        with (
            serving_sprout("vllm", place / "engine", ENGINE | {"dtype": fastest_dtype()}, preloaded()) as engine,
            service([engine.url], place / "home") as url,
        ):
            return asyncio.run(measure(url, key, engine.url, names, folders))
