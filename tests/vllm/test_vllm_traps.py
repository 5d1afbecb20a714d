"""What real vLLM does to those who load adapters carelessly, and that Hone's ways are safe from it.

The traps were seen in vLLM 0.32. If a later one mends the first of them, its test says so; nothing else hangs on it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.adapters.manifest import WEIGHTS
from service.adapters.registry import Registry
from service.adapters.replica import Replica
from service.adapters.rollout import Rollout
from service.engine import Engine
from service.engine_program import VLLM_PLUGIN, VLLM_PYTHON
from service.settings import SPROUT
from service.store.queries import adapters, serving
from service.store.session import Store
from service.store.tables import Serving
from tests.embedded.models import save_adapter
from tests.engine_contract.asking import PROMPT, REPLY, TEXT, chat, complete, gap, scores, true_scores
from tests.fixtures.engines import MAX_LORAS, ServedEngine, why_vllm_cannot_run
from tests.fixtures.provenance import scored_provenance
from tests.fixtures.waiting import PATIENCE

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]

LONG = PROMPT * 25  # more than two of the blocks in which vLLM keeps prefixes
LONG_CHAT = [{"role": "user", "content": "What is the capital of France? " * 35}]

_numbers = count(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters that change much."""
    folder = tmp_path_factory.mktemp("trained")
    made = [save_adapter(folder / str(seed), SPROUT, seed=seed) for seed in range(1, MAX_LORAS + 3)]
    for adapter in made:
        _multiply(adapter, 2.0)
    return made


@pytest.fixture
def fresh(vllm_engine: ServedEngine) -> Iterator[str]:
    """A name that no adapter ever had, unloaded afterwards."""
    name = f"trap-{next(_numbers)}"
    yield name
    vllm_engine.unload(name)


def _multiply(adapter: Path, factor: float) -> None:
    """The second factor of every update, hence the update."""
    tensors = load_file(adapter / WEIGHTS)
    save_file({name: t * factor if "lora_B" in name else t for name, t in tensors.items()}, adapter / WEIGHTS)


def _said(engine: ServedEngine, model: str) -> list[float]:
    """Log-probabilities of what follows a long prompt, whose prefix vLLM may take from its cache."""
    body = complete(model=model, prompt=LONG, temperature=0, logprobs=5, max_tokens=1, ignore_eos=True)
    answer = engine.post(TEXT, body)
    assert answer.status_code == 200, answer.text
    [top] = answer.json()["choices"][0]["logprobs"]["top_logprobs"]
    return sorted(top.values(), reverse=True)[:5]


def test_the_same_name_and_path_answers_from_a_stale_cache_but_a_new_name_never_does(
    vllm_engine: ServedEngine, trained: list[Path], tmp_path: Path, fresh: str
) -> None:
    place, reused = tmp_path / "place", f"{fresh}-reused"
    shutil.copytree(trained[0], place)
    assert vllm_engine.load(reused, place).status_code == 200
    _said(vllm_engine, reused)
    assert vllm_engine.unload(reused).status_code == 200
    shutil.rmtree(place)
    shutil.copytree(trained[1], place)
    assert vllm_engine.load(reused, place).status_code == 200
    assert vllm_engine.load(fresh, trained[1]).status_code == 200
    try:
        stale, true = _said(vllm_engine, reused), _said(vllm_engine, fresh)
    finally:
        vllm_engine.unload(reused)
    tokens = [*LONG, *REPLY]
    assert gap(scores(vllm_engine, fresh, tokens), true_scores(tokens, trained[1])) < vllm_engine.close_to
    assert gap(stale, true) > 1e-3, "this vLLM keys its prefix cache by more than name and path"


async def _said_by(client: Engine, model: str) -> list[float]:
    """The same through the service's client: of a chat, then of a completion."""
    options = {"model": model, "temperature": 0, "max_tokens": 1}
    chatted = await client.chat(chat(messages=LONG_CHAT, logprobs=True, top_logprobs=5, **options))
    completed = await client.complete(complete(prompt=LONG, logprobs=5, ignore_eos=True, **options))
    [token] = chatted["choices"][0]["logprobs"]["content"]
    [top] = completed["choices"][0]["logprobs"]["top_logprobs"]
    of_chat = sorted((one["logprob"] for one in token["top_logprobs"]), reverse=True)
    return [*of_chat[:5], *sorted(top.values(), reverse=True)[:5]]


def test_what_comes_back_under_its_name_and_path_is_told_apart_by_its_salt(
    vllm_engine: ServedEngine, trained: list[Path], tmp_path: Path, fresh: str
) -> None:
    """As the first adapter of a home that was wiped: `v1` again, in the folder of the first `v1`, of other weights."""
    place, reused = tmp_path / "place", f"{fresh}-reused"

    async def story() -> tuple[list[float], list[float], list[float]]:
        plain, salting = Engine(vllm_engine.url), Engine(vllm_engine.url)
        try:
            for number, folder in enumerate(trained[:2]):
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(folder, place)
                await plain.load_adapter(reused, str(place))
                salting.salt_cache(reused, str(number) * 64)
                unsalted, salted = await _said_by(plain, reused), await _said_by(salting, reused)
                await plain.unload_adapter(reused)
            await plain.load_adapter(fresh, str(trained[1]))
            return unsalted, salted, await _said_by(plain, fresh)
        finally:
            await plain.close()
            await salting.close()

    unsalted, salted, true = asyncio.run(asyncio.wait_for(story(), PATIENCE))
    for part in (slice(0, 5), slice(5, 10)):  # chat, completion
        assert gap(salted[part], true[part]) < 1e-3 < gap(unsalted[part], true[part])


def test_an_adapter_whose_tensors_match_nothing_loads_without_a_word_and_changes_nothing(
    vllm_engine: ServedEngine, trained: list[Path], tmp_path: Path, fresh: str
) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(trained[0], odd)
    tensors = load_file(odd / WEIGHTS)
    save_file({name.replace("model.layers", "transformer.h"): t for name, t in tensors.items()}, odd / WEIGHTS)
    assert vllm_engine.load(fresh, odd).status_code == 200
    tokens = [*PROMPT, *REPLY]
    assert scores(vllm_engine, fresh, tokens) == pytest.approx(scores(vllm_engine, "sprout", tokens), abs=1e-6)


def test_versions_beyond_the_slots_are_each_served_as_themselves(
    vllm_engine: ServedEngine, trained: list[Path]
) -> None:
    """Unloading forgets the name alone; whatever stays in a slot must not answer for a later version."""
    tokens = [*PROMPT, *REPLY]
    for folder in trained:
        name = f"trap-{next(_numbers)}"
        assert vllm_engine.load(name, folder).status_code == 200
        assert gap(scores(vllm_engine, name, tokens), true_scores(tokens, folder)) < vllm_engine.close_to
        assert vllm_engine.unload(name).status_code == 200
        assert vllm_engine.post(TEXT, complete(model=name)).status_code == 404
    assert [model["id"] for model in vllm_engine.models()] == ["sprout"]


def test_without_a_gpu_the_bare_base_is_nobodys_adapter_once_every_slot_was_filled(
    vllm_engine: ServedEngine, trained: list[Path]
) -> None:
    """Without `service.vllm_plugin` vLLM computes it with the adapter in its last slot, beside others and alone."""
    body = complete(prompt=PROMPT, temperature=0, logprobs=0, max_tokens=12, ignore_eos=True, return_token_ids=True)
    names = [f"trap-{next(_numbers)}" for _ in range(MAX_LORAS)]

    def said(model: str) -> tuple[list[int], list[float]]:
        answer = vllm_engine.post(TEXT, body | {"model": model})
        assert answer.status_code == 200, answer.text
        [choice] = answer.json()["choices"]
        return choice["token_ids"], choice["logprobs"]["token_logprobs"]

    for name, folder in zip(names, trained, strict=False):
        assert vllm_engine.load(name, folder).status_code == 200
        said(name)
    with ThreadPoolExecutor() as callers:
        beside = list(callers.map(said, ["sprout", *names, "sprout"]))
    for name in names:
        vllm_engine.unload(name)
    for tokens, logprobs in (beside[0], beside[-1], said("sprout")):
        expected = true_scores([*PROMPT, *tokens])[len(PROMPT) - 1 :]
        assert gap(logprobs, expected) < vllm_engine.close_to


def test_that_trap_is_still_there() -> None:
    """If not, `service.vllm_plugin` can go."""
    if (reason := why_vllm_cannot_run()) is not None:
        pytest.skip(reason)
    code = """
import torch
from vllm.lora.ops.torch_ops import lora_ops
import hone_vllm_plugin

def shrunk():
    output = torch.zeros(2, 3)
    lora_ops.bgmv_shrink(torch.ones(2, 4), torch.ones(2, 1, 3, 4), output, torch.tensor([-1, 0]), 1.0)
    return output[:, 0].tolist()

before = shrunk()
hone_vllm_plugin.register()
hone_vllm_plugin.register()
print(before, shrunk())
"""
    environment = os.environ | {"PYTHONPATH": str(VLLM_PLUGIN)}
    ended = subprocess.run([VLLM_PYTHON, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[4.0, 4.0] [0.0, 4.0]"


def test_only_what_vllm_proves_to_serve_goes_live(
    vllm_engine: ServedEngine, trained: list[Path], sqlite_store: Store, tmp_path: Path
) -> None:
    """An adapter that changes nothing, and one of other weights than its manifest says, load well and are rejected."""
    registry = Registry(sqlite_store, tmp_path / "adapters", SPROUT)
    idle = tmp_path / "idle"
    shutil.copytree(trained[0], idle)
    _multiply(idle, 0.0)
    told = scored_provenance(trained[0], SPROUT, PROMPT, REPLY)
    honest, nothing, liar = (registry.publish(folder, told, {}, "") for folder in (trained[0], idle, trained[1]))

    def desired() -> Serving:
        with sqlite_store.read() as tx:
            return serving.desired_state(tx)

    async def story() -> None:
        client = Engine(vllm_engine.url)
        replica = Replica(registry, client, MAX_LORAS)
        rollout = Rollout(sqlite_store, [replica])
        loop = asyncio.create_task(rollout.run())
        try:
            await rollout.join()
            for name in (honest, nothing, liar):
                with sqlite_store.begin() as tx:
                    serving.request_live(tx, name, "name:op", "")
                while desired().requested is not None:
                    assert not rollout.problem
                    await asyncio.sleep(0.02)
                assert desired().live == honest
            assert [model.name for model in await client.models() if model.parent is not None] == [honest]
            await client.unload_adapter(honest)
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await client.close()

    asyncio.run(asyncio.wait_for(story(), PATIENCE))
    with sqlite_store.read() as tx:
        rejected = [adapters.get_adapter(tx, name) for name in (nothing, liar)]
    for adapter in rejected:
        assert adapter is not None and adapter.state == "rejected"
        assert "differ from the trainer's" in adapter.reason or "answers like base" in adapter.reason


def test_a_broken_adapter_does_not_end_the_engine(vllm_engine: ServedEngine, trained: list[Path], fresh: str) -> None:
    """Not-a-number weights load; what is asked of them is refused, and others go on."""
    broken = trained[2]
    tensors = load_file(broken / WEIGHTS)
    save_file({name: torch.full_like(t, float("nan")) for name, t in tensors.items()}, broken / WEIGHTS)
    assert vllm_engine.load(fresh, broken).status_code == 200
    asked = complete(model=fresh, prompt=[*PROMPT, *REPLY], max_tokens=1, prompt_logprobs=0)
    assert vllm_engine.post(TEXT, asked).status_code >= 400
    assert vllm_engine.post(TEXT, complete()).status_code == 200
