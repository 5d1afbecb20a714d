"""Sequences join and leave at every step, wait when the cache is full, and none is lost or changed by others."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from service.embedded.engine import Engine
from service.embedded.kv_cache import KvCache
from service.embedded.messages import AddSequence, SamplingParams
from service.embedded.model import DecodeBatch, Model, Stretch
from tests.embedded.driving import GREEDY, Reference, attach, build, prompts, run, tokens_of
from tests.embedded.models import POSITIONS, save_adapter

TOKEN_BYTES = 2 * 2 * 2 * 8 * 4  # the tiny Llama: layers, keys and values, heads, dim, float32


def small_cache(folder: Path, tokens: int, **options: int) -> Engine:
    return build(folder, kv_cache_bytes=tokens * TOKEN_BYTES, **options)


def test_a_reply_is_the_same_alone_and_among_others(model_of: Callable[[str], Path]) -> None:
    folder = model_of("llama")
    params = SamplingParams(max_tokens=20, temperature=1.3, top_p=0.9, seed=11, logprobs=0)
    request = AddSequence(0, [5, 6, 7, 8], params)
    alone = run(build(folder), [request])[0]
    others = [AddSequence(n, prompt, replace(params, seed=n)) for n, prompt in enumerate(prompts(7), 1)]
    among = run(build(folder), [*others[:4], request, *others[4:]])[0]
    assert tokens_of(among) == tokens_of(alone)
    assert [u.logprob for u in among] == pytest.approx([u.logprob for u in alone], abs=1e-4)


def test_seeds_make_replies_repeatable_and_different(model_of: Callable[[str], Path]) -> None:
    params = SamplingParams(max_tokens=12, temperature=1.5)
    requests = [AddSequence(n, [9, 9, 9], replace(params, seed=n % 2)) for n in range(4)]
    replies = run(build(model_of("llama")), requests)
    assert tokens_of(replies[0]) == tokens_of(replies[2]) != tokens_of(replies[1]) == tokens_of(replies[3])


def test_sequences_join_and_leave_between_steps(model_of: Callable[[str], Path]) -> None:
    folder = model_of("llama")
    engine, reference = build(folder), Reference(folder)
    waiting = [AddSequence(n, p, replace(GREEDY, max_tokens=3 + n % 7)) for n, p in enumerate(prompts(20, seed=1))]
    updates: dict[int, list[int]] = {request.sequence: [] for request in waiting}
    most = 0
    to_come = list(waiting)
    while to_come or not engine.idle:
        if to_come:
            engine.add(to_come.pop(0))
        for update in engine.step():
            updates[update.sequence].append(update.token)
        most = max(most, engine.load.running)
    assert most > 3, "they ran together"
    for request in waiting[::5]:
        assert updates[request.sequence] == reference.greedy(request.prompt, request.params.max_tokens)[0]


def test_long_prompts_are_computed_in_chunks_while_others_go_on(model_of: Callable[[str], Path]) -> None:
    folder = model_of("llama")
    engine, long = build(folder), list(range(5, 115))
    engine.add(AddSequence(0, [5], replace(GREEDY, max_tokens=30)))
    engine.step()
    engine.add(AddSequence(1, long, GREEDY))
    assert [u.sequence for u in engine.step()] == [0], "the long prompt is not ready after one step, 0 went on"
    seen = {0: 2, 1: 0}
    tokens = []
    while not engine.idle:
        for update in engine.step():
            seen[update.sequence] += 1
            tokens += [update.token] if update.sequence == 1 else []
    assert seen == {0: 30, 1: GREEDY.max_tokens}
    assert tokens == Reference(folder).greedy(long, GREEDY.max_tokens)[0]


@pytest.mark.parametrize("tokens", [POSITIONS, POSITIONS + 65, 3 * POSITIONS])
def test_a_full_cache_makes_requests_wait_and_loses_none(model_of: Callable[[str], Path], tokens: int) -> None:
    folder = model_of("llama")
    engine, reference = small_cache(folder, tokens), Reference(folder)
    requests = [AddSequence(n, p, replace(GREEDY, max_tokens=60)) for n, p in enumerate(prompts(8, seed=2, longest=60))]
    waited = preempted = 0
    updates: dict[int, list[int]] = {request.sequence: [] for request in requests}
    for request in requests:
        engine.add(request)
    while not engine.idle:
        for update in engine.step():
            updates[update.sequence].append(update.token)
        assert engine.load.kv_tokens <= tokens
        waited = max(waited, engine.load.waiting)
        preempted = engine.load.preemptions
    assert waited > 0
    assert preempted > 0 or tokens == POSITIONS
    for request in requests[::4]:
        assert updates[request.sequence] == reference.greedy(request.prompt, 60)[0]
    assert {len(reply) for reply in updates.values()} == {60}


def test_first_come_first_served(model_of: Callable[[str], Path]) -> None:
    engine = small_cache(model_of("llama"), POSITIONS)
    requests = [AddSequence(n, [5 + n] * 50, replace(GREEDY, max_tokens=30)) for n in range(5)]
    finished = []
    for request in requests:
        engine.add(request)
    while not engine.idle:
        finished += [update.sequence for update in engine.step() if update.finish]
    assert finished == sorted(finished)


def test_an_aborted_sequence_frees_its_row_for_the_next_step(model_of: Callable[[str], Path]) -> None:
    engine = build(model_of("llama"), max_num_seqs=1)
    engine.add(AddSequence(0, [5, 6], replace(GREEDY, max_tokens=100)))
    engine.add(AddSequence(1, [7, 8], GREEDY))
    engine.step()
    assert (engine.load.running, engine.load.waiting) == (1, 1)
    engine.abort(0)
    assert engine.load.kv_tokens == 0
    assert [update.sequence for update in engine.step()] == [1]
    engine.abort(99)


@pytest.mark.parametrize("victim", range(6))
def test_neighbours_are_untouched_when_one_leaves_at_any_point(model_of: Callable[[str], Path], victim: int) -> None:
    folder = model_of("llama")
    engine, reference = build(folder), Reference(folder)
    given = [*prompts(6, seed=3), list(range(5, 100))]  # the last is still being computed when the victim leaves
    for number, prompt in enumerate(given[:6]):
        engine.add(AddSequence(number, prompt, replace(GREEDY, max_tokens=16)))
    replies: dict[int, list[int]] = {number: [] for number in range(len(given))}

    def step() -> None:
        for update in engine.step():
            replies[update.sequence].append(update.token)

    for _ in range(3):
        step()
    engine.add(AddSequence(6, given[6], replace(GREEDY, max_tokens=16)))
    step()
    engine.abort(victim)
    while not engine.idle:
        step()
    for number, prompt in enumerate(given):
        if number != victim:
            assert replies[number] == reference.greedy(prompt, 16)[0], number


def test_a_shared_beginning_is_computed_once(model_of: Callable[[str], Path]) -> None:
    folder = model_of("llama")
    engine, beginning = build(folder), list(range(5, 95))
    computed: list[int] = []
    model = engine.model

    class Counting:
        """The model, with a note of each prompt's tokens that it computes."""

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def prefill(self, cache: KvCache, stretches: list[Stretch]) -> list[torch.Tensor]:
            computed.extend(len(stretch.tokens) for stretch in stretches)
            return model.prefill(cache, stretches)

        def decode_beside(
            self, batch: DecodeBatch, stretches: list[Stretch]
        ) -> tuple[torch.Tensor, list[torch.Tensor]]:
            computed.extend(len(stretch.tokens) for stretch in stretches)
            return model.decode_beside(batch, stretches)

    engine.model = cast(Model, Counting())
    engine.add(AddSequence(0, [*beginning, 200], replace(GREEDY, max_tokens=20)))
    while not engine.step():
        pass
    before = sum(computed)
    replies = run(engine, [AddSequence(1, [*beginning, 201, 202], GREEDY), AddSequence(2, [*beginning, 200], GREEDY)])
    assert before == 91
    assert sum(computed) - before == 2 + 1
    computed.clear()
    replies |= run(engine, [AddSequence(3 + copy, [7, *beginning], replace(GREEDY, seed=1)) for copy in range(3)])
    assert sum(computed) == 91 + 1 + 1, "of prompts that come together the first is computed and the others wait for it"
    assert tokens_of(replies[3]) == tokens_of(replies[4]) == tokens_of(replies[5])
    reference = Reference(folder)
    assert tokens_of(replies[1]) == reference.greedy([*beginning, 201, 202], GREEDY.max_tokens)[0]
    assert tokens_of(replies[2]) == reference.greedy([*beginning, 200], GREEDY.max_tokens)[0]


def test_replies_end_at_eos_at_max_tokens_and_at_the_end_of_the_context(model_of: Callable[[str], Path]) -> None:
    folder = model_of("llama")
    greedy = Reference(folder).greedy([5, 6, 7], 6)[0]
    engine = build(folder)
    ends = replace(GREEDY, max_tokens=50, stop_token_ids=frozenset({greedy[2]}))
    stop = greedy.index(greedy[2]) + 1
    replies = run(engine, [AddSequence(0, [5, 6, 7], ends), AddSequence(1, [5, 6, 7], replace(GREEDY, max_tokens=2))])
    assert (len(replies[0]), replies[0][-1].finish) == (stop, "stop")
    assert (len(replies[1]), replies[1][-1].finish) == (2, "length")
    whole = run(engine, [AddSequence(2, [5] * (POSITIONS - 3), replace(GREEDY, max_tokens=50))])[2]
    assert (len(whole), whole[-1].finish) == (3, "length")


def test_prompt_logprobs_are_those_of_transformers(model_of: Callable[[str], Path]) -> None:
    folder = model_of("llama")
    prompt = [random.Random(5).randrange(5, 300) for _ in range(100)]  # longer than a chunk
    params = replace(GREEDY, prompt_logprobs=1, max_tokens=1)
    beside = [AddSequence(8, [5], GREEDY), AddSequence(9, prompt, GREEDY)]  # 9 shares its prompt, but lends nothing
    update = run(build(folder), [*beside, AddSequence(0, prompt, params)])[0][0]
    expected = Reference(folder).logprobs(prompt)
    assert update.prompt_logprobs is not None
    assert update.prompt_logprobs[0] is None and len(update.prompt_logprobs) == len(prompt)
    for place, entries in enumerate(update.prompt_logprobs[1:]):
        assert entries is not None
        row = expected[place]
        assert entries[0].token == prompt[place + 1]
        assert entries[0].logprob == pytest.approx(float(row[prompt[place + 1]]), abs=1e-4)
        assert entries[0].rank == int((row > row[prompt[place + 1]]).sum()) + 1
        assert entries[1].token == int(row.argmax())


@pytest.mark.parametrize("seed", range(3))
def test_whoever_comes_and_goes_whenever_gets_the_same_reply_as_alone(
    model_of: Callable[[str], Path], tmp_path: Path, seed: int
) -> None:
    """Base and two adapters, arrivals and aborts in every state, in a cache that is too small for them."""
    folder, draws = model_of("llama"), random.Random(seed)
    adapters = {name: save_adapter(tmp_path / name, folder, seed=n) for n, name in enumerate(("a", "b"), 1)}
    engine, alone = small_cache(folder, 2 * POSITIONS, max_num_seqs=6), build(folder)
    for name, path in adapters.items():
        attach(engine, name, path)
        attach(alone, name, path)
    beginning = list(range(5, 35))  # shared by half of them, so that rows are copied, too
    to_come = [
        AddSequence(
            number,
            (beginning if number % 2 else []) + prompt,
            SamplingParams(max_tokens=draws.randrange(1, 70), temperature=1.0, seed=number),
            draws.choice((None, "a", "b")),
        )
        for number, prompt in enumerate(prompts(24, seed=seed, longest=40))
    ]
    replies: dict[int, list[int]] = {request.sequence: [] for request in to_come}
    everybody, finished, aborted = list(to_come), set[int](), set[int]()
    while to_come or not engine.idle:
        while to_come and draws.random() < 0.7:
            engine.add(to_come.pop(0))
        if draws.random() < 0.06:
            victim = draws.choice(everybody).sequence
            engine.abort(victim)
            aborted |= {victim} - finished
            to_come = [request for request in to_come if request.sequence != victim]
        for update in engine.step():
            assert update.sequence not in aborted
            replies[update.sequence].append(update.token)
            finished |= {update.sequence} if update.finish else set()
        assert engine.load.kv_tokens <= 2 * POSITIONS
    assert engine.load.preemptions > 0 and aborted and len(finished | aborted) == len(everybody)
    for request in everybody:
        expected = tokens_of(run(alone, [request])[request.sequence])
        assert replies[request.sequence] == expected[: len(replies[request.sequence])], request.sequence
        assert request.sequence in aborted or len(replies[request.sequence]) == len(expected)
