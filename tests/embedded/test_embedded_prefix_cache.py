"""What ended sequences computed serves prompts that begin as they did, changes no reply, and is in nobody's way."""

import gc
import random
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.embedded.engine import WORTH_COPYING, Engine
from service.embedded.kv_cache import KvCache, Plane
from service.embedded.messages import AddSequence, Update
from service.embedded.prefix_cache import PrefixCache, common_prefix
from tests.embedded.driving import GREEDY, Reference, attach, build, prompts, run, tokens_of
from tests.embedded.models import POSITIONS, save_adapter

PROMPT = list(range(5, 45))
TOKEN_BYTES = 2 * 2 * 2 * 8 * 4  # the tiny Llama: layers, keys and values, heads, dim, float32


def ask(engine: Engine, prompt: list[int], adapter: str | None = None, tokens: int = 8) -> list[Update]:
    return run(engine, [AddSequence(0, prompt, replace(GREEDY, max_tokens=tokens), adapter)])[0]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_next_turn_begins_where_the_last_one_ended(model_of: Callable[[str], Path], family: str) -> None:
    folder = model_of(family)
    engine, reference = build(folder), Reference(folder)
    first = ask(engine, PROMPT)
    assert engine.load.prefix_hits == 0
    prompt = [*PROMPT, *tokens_of(first), 7, 8, 9]
    second = ask(engine, prompt)
    assert engine.load.prefix_hits == len(PROMPT) + len(first) - 1, "all that was computed; the last token wasn't"
    assert engine.load.prefix_queries == len(PROMPT) + len(prompt)
    tokens, values = reference.greedy(prompt, len(second))
    assert tokens_of(second) == tokens
    assert [update.logprob for update in second] == pytest.approx(values, abs=1e-4)


def test_the_same_prompt_again_computes_its_last_token_alone(model_of: Callable[[str], Path]) -> None:
    engine = build(model_of("llama"))
    assert tokens_of(ask(engine, PROMPT)) == tokens_of(ask(engine, PROMPT))
    assert engine.load.prefix_hits == len(PROMPT) - 1


def test_an_aborted_reply_is_kept_too(model_of: Callable[[str], Path]) -> None:
    engine = build(model_of("llama"))
    engine.add(AddSequence(0, PROMPT, replace(GREEDY, max_tokens=30)))
    engine.step()
    engine.abort(0)
    ask(engine, PROMPT)
    assert engine.load.prefix_hits == len(PROMPT) - 1


def test_little_in_common_is_computed_again(model_of: Callable[[str], Path]) -> None:
    engine = build(model_of("llama"))
    ask(engine, PROMPT)
    ask(engine, [*PROMPT[: WORTH_COPYING - 1], 4, 4, 4])
    assert engine.load.prefix_hits == 0


def test_it_can_be_switched_off(model_of: Callable[[str], Path]) -> None:
    engine = build(model_of("llama"), enable_prefix_caching=False)
    assert tokens_of(ask(engine, PROMPT)) == tokens_of(ask(engine, PROMPT))
    assert engine.load.prefix_hits == 0


def test_another_adapter_of_the_same_name_gets_nothing_of_the_first(
    model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = model_of("llama")
    engine, adapters = build(folder), [save_adapter(tmp_path / str(seed), folder, seed=seed) for seed in (1, 2)]
    ask(engine, PROMPT)
    for adapter in adapters:
        attach(engine, "same-name", adapter)
        assert tokens_of(ask(engine, PROMPT, "same-name")) == Reference(folder, adapter).greedy(PROMPT, 8)[0]
        engine.detach("same-name")
    assert engine.load.prefix_hits == 0


def test_a_detached_adapter_is_let_go_of(model_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_of("llama")
    engine = build(folder)
    attach(engine, "a", save_adapter(tmp_path / "a", folder, seed=1))
    adapter = weakref.ref(engine.adapters["a"])
    ask(engine, PROMPT, "a")
    engine.add(AddSequence(1, PROMPT, GREEDY, "a"))
    engine.step()
    engine.detach("a")
    while not engine.idle:
        engine.step()
    ask(engine, [5, 6])  # no batch of the adapter's is the last one
    gc.collect()
    assert adapter() is None


@pytest.mark.parametrize("rows", [1.5, 3, 8])
def test_many_conversations_in_a_small_cache_are_answered_as_ever(model_of: Callable[[str], Path], rows: float) -> None:
    """Rows are kept, extended, taken away and laid out anew."""
    folder = model_of("llama")
    engine = build(folder, kv_cache_bytes=int(rows * POSITIONS) * TOKEN_BYTES)
    reference, draws = Reference(folder), random.Random(3)
    conversations = [list(prompt) for prompt in prompts(6, seed=5, longest=30)]
    for _ in range(5):
        chosen = draws.sample(range(6), draws.randrange(1, 5))
        requests = [AddSequence(n, conversations[n], replace(GREEDY, max_tokens=draws.randrange(1, 9))) for n in chosen]
        for number, updates in run(engine, requests).items():
            reply = tokens_of(updates)
            assert reply == reference.greedy(conversations[number], len(reply))[0]
            conversations[number] = [*conversations[number], *reply, draws.randrange(5, 300)]
    assert engine.load.prefix_hits > 0 or rows == 1.5


def cache(rows: int) -> KvCache:
    return KvCache([Plane(1, 4)], rows * 64, rows, 64, torch.float32, torch.device("cpu"))


def test_running_rows_take_the_place_of_kept_ones() -> None:
    kept = PrefixCache(cache(4))
    kept.keep(0, [1, 2, 3], None, running=1)
    kept.keep(0, [4, 5, 6], None, running=1)
    assert [kept.longest(tokens, None) for tokens in ([1, 2, 3, 9], [4, 5])] == [(3, 3), (2, 2)]
    kept.make_way(3)
    assert [kept.longest(tokens, None) for tokens in ([1, 2, 3, 9], [4, 5])] == [(3, 3), (0, None)]
    kept.keep(0, [7], None, running=4)
    assert kept.longest([7], None) == (0, None), "all rows are running"


def test_the_row_that_was_used_longest_ago_goes_first() -> None:
    kept = PrefixCache(cache(8), most=2)
    kept.keep(0, [1, 1], None, running=1)
    kept.keep(0, [2, 2], None, running=1)
    kept.longest([1, 1], None)
    kept.keep(0, [3, 3], None, running=1)
    assert [kept.longest([n, n], None)[0] for n in (1, 2, 3)] == [2, 0, 2]


def test_a_row_that_went_on_is_kept_once_with_what_is_new() -> None:
    rows = cache(4)
    kept = PrefixCache(rows)
    rows.views[0][0] = 1.0
    kept.keep(0, [1, 2], None, running=1)
    rows.views[0][0] = 2.0
    kept.keep(0, [1, 2, 3], None, running=1)
    assert kept.longest([1, 2, 3, 4], None) == (3, 3)
    assert rows.views[0][3, 0, :4, 0].tolist() == [1.0, 1.0, 2.0, 0.0]
    kept.keep(0, [1, 2], None, running=1)
    assert kept.longest([1, 2, 3], None) == (3, 3), "nothing is lost by what is shorter"


@pytest.mark.parametrize("seed", range(20))
def test_the_common_prefix_is_what_a_look_at_every_token_finds(seed: int) -> None:
    draws = random.Random(seed)
    one = [draws.randrange(2) for _ in range(draws.randrange(12))]
    other = one[: draws.randrange(13)] + [draws.randrange(2) for _ in range(draws.randrange(4))]
    differ = [i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    assert common_prefix(one, other) == min([*differ, len(one), len(other)])
