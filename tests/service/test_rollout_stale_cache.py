"""A prefix cache that answers with what was computed under another adapter: the scores are right, nothing goes live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence

import pytest

from service.adapters.manifest import Manifest
from service.adapters.probing import Probing
from service.errors import EngineUnavailable
from service.store.clock import now
from tests.fixtures.adapters import NEXT, PROMPT, REPLY, MemoryEngine, provenance
from tests.service.house import House

Key = Callable[[MemoryEngine, str], Hashable]


def by_prompt_alone(engine: MemoryEngine, model: str) -> Hashable:
    return None


def by_name(engine: MemoryEngine, model: str) -> Hashable:
    return model


def by_name_and_salt(engine: MemoryEngine, model: str) -> Hashable:
    return model, engine.salts.get(model)


class PrefixCache:
    """Of an engine: what it computed of tokens, by them and `key`. Scores are computed anew, and kept as well."""

    def __init__(self, engine: MemoryEngine, key: Key) -> None:
        self.engine, self.key, self.kept = engine, key, dict[Hashable, float]()
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self._score = engine.score
        engine.score, engine.next_token = self.score, self.next_token  # type: ignore[method-assign]

    async def score(self, model: str, prompt: Sequence[int], reply: Sequence[int]) -> Sequence[float]:
        for length in range(len(reply)):
            await self._look_up(model, (*prompt, *reply[:length]))
        return await self._score(model, prompt, reply)

    async def next_token(self, model: str, tokens: Sequence[int]) -> tuple[int, float]:
        self.asked.append((model, tuple(tokens)))
        return NEXT, await self._look_up(model, tuple(tokens))

    async def _look_up(self, model: str, tokens: tuple[int, ...]) -> float:
        [logprob] = await self._score(model, tokens, (NEXT,))
        return self.kept.setdefault((self.key(self.engine, model), tokens), logprob)


def test_a_cache_that_does_not_know_the_adapters_apart_is_found_out_and_the_adapter_only_put_aside(
    house: House,
) -> None:
    live = house.go_live(gain=0.2)
    cache = PrefixCache(house.engine, by_prompt_alone)
    name = house.publish(gain=0.5)
    house.promote(name)
    house.reconcile()
    assert (house.serving().live, house.row(name).state, house.serving().requested) == (live, "candidate", None)
    assert "prefix cache holds what was computed under another adapter" in house.row(name).reason
    assert "by 0.5000 nats per token" in house.row(name).reason and "Restart the engine" in house.row(name).reason
    assert name not in house.engine.held
    cache.key = by_name_and_salt  # the engine was mended
    house.promote(name)
    house.reconcile()
    assert house.serving().live == name


@pytest.mark.parametrize("key", [by_name, by_name_and_salt])
def test_a_cache_that_knows_them_apart_is_no_trouble(house: House, key: Key) -> None:
    cache = PrefixCache(house.engine, key)
    first, second = house.go_live(gain=0.2), house.go_live(gain=0.5)
    house.roll_back()
    house.reconcile()
    assert house.serving().live == first
    last = [model for model, _ in cache.asked][-3:]
    assert last == [house.engine.base, first, second]  # what was there before was asked first


@pytest.mark.parametrize(("key", "is_right"), [(by_name, False), (by_name_and_salt, True)])
def test_what_was_computed_before_a_reload_is_found_out_unless_the_salt_keeps_it_apart(
    house: House, key: Key, is_right: bool
) -> None:
    """The engine holds another adapter of that name and place, from a home that is gone, and is given this one."""
    PrefixCache(house.engine, key)
    name, engine = house.publish(), house.engine
    engine.held[name] = str(house.registry.folder / name)
    engine.idle.add(name)
    load = engine.load_adapter

    async def load_adapter(name: str, path: str) -> None:
        await load(name, path)
        engine.idle.discard(name)

    engine.load_adapter = load_adapter  # type: ignore[method-assign]
    house.promote(name)
    house.reconcile()
    assert (house.serving().live == name) is is_right
    assert ("prefix cache holds" in house.row(name).reason) is not is_right


def test_an_engine_that_says_something_else_of_the_bare_base_too_is_itself_at_fault(house: House) -> None:
    async def next_token(model: str, tokens: Sequence[int]) -> tuple[int, float]:
        return NEXT, 0.0  # as with log-probabilities after sampling

    house.engine.next_token = next_token  # type: ignore[method-assign]
    name = house.publish()
    house.promote(name)
    with pytest.raises(EngineUnavailable, match=r"and so is the bare base.*--logprobs-mode"):
        house.reconcile()
    assert (house.row(name).state, house.serving().requested) == ("candidate", name)


def test_what_is_gone_on_with_reaches_into_the_second_half_of_the_reply_to_where_training_changed_it_most() -> None:
    engine = MemoryEngine()
    cache = PrefixCache(engine, by_name_and_salt)
    base = (-1.0, -2.0, -3.0)
    probe = provenance().probes[0].model_copy(update={"logprobs": (-0.1, -2.1, -2.5), "base_logprobs": base})
    manifest = Manifest.of(provenance(probes=(probe,)), "v1", now())
    asyncio.run(Probing(engine, engine.base, manifest).ask_others([]))
    assert cache.asked == [(engine.base, (*PROMPT, *REPLY[:2]))]
