"""Sequences of several adapters in one batch: none takes anything from another, or harms it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from service.embedded import assemble
from service.embedded.messages import AddSequence
from tests.embedded.driving import GREEDY, Reference, attach, build, prompts, run, tokens_of
from tests.embedded.models import save_adapter


def test_adapters_never_share_what_is_cached(model_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_of("llama")
    adapter = save_adapter(tmp_path / "a", folder, seed=1)
    engine, prompt = build(folder), list(range(5, 60))
    attach(engine, "a", adapter)
    engine.add(AddSequence(0, prompt, replace(GREEDY, max_tokens=20)))
    engine.step()
    replies = run(engine, [AddSequence(1, prompt, GREEDY, "a")])
    assert tokens_of(replies[1]) == Reference(folder, adapter).greedy(prompt, GREEDY.max_tokens)[0]


def test_a_detached_adapter_serves_its_running_sequences_to_the_end(
    model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = model_of("llama")
    adapter = save_adapter(tmp_path / "a", folder, seed=1)
    engine = build(folder)
    attach(engine, "a", adapter)
    engine.add(AddSequence(0, [5, 6, 7], replace(GREEDY, max_tokens=12), "a"))
    tokens = tokens_of(engine.step())
    engine.detach("a")
    with pytest.raises(KeyError):
        engine.add(AddSequence(1, [5], GREEDY, "a"))
    while not engine.idle:
        tokens += tokens_of(engine.step())
    assert tokens == Reference(folder, adapter).greedy([5, 6, 7], 12)[0]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_an_adapter_whose_numbers_overflow_ends_its_own_replies_and_nobody_elses(
    model_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr(assemble, "load_kernel", lambda: None)
    folder = model_of(family)
    huge = save_adapter(tmp_path / "huge", folder, seed=1)
    weights = {name: tensor * 1e18 for name, tensor in load_file(huge / "adapter_model.safetensors").items()}
    save_file(weights, huge / "adapter_model.safetensors")
    engine = build(folder)
    attach(engine, "huge", huge)
    texts = prompts(8, longest=90)
    alone = [tokens_of(run(engine, [AddSequence(n, text, GREEDY)])[n]) for n, text in enumerate(texts)]
    for first in (10, 20):
        requests = [AddSequence(first + n, text, GREEDY, "huge" if n % 2 else None) for n, text in enumerate(texts)]
        replies = run(engine, requests)
        assert all(replies[first + n][-1].finish == "error" for n in range(1, 8, 2))
        assert [tokens_of(replies[first + n]) for n in range(0, 8, 2)] == alone[::2]
    after = run(engine, [AddSequence(30 + n, text, GREEDY) for n, text in enumerate(texts)])
    assert [tokens_of(after[30 + n]) for n in range(8)] == alone
