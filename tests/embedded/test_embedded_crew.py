"""Several threads compute a step together: not by one bit does it matter how many, and none is left behind."""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.embedded.kernel import Kernel
from service.embedded.messages import AddSequence
from service.embedded.model import DecodeBatch, Stretch
from tests.embedded.driving import GREEDY, attach, build, run
from tests.embedded.models import save_adapter

PROMPTS = [list(range(5, 5 + length)) for length in (1, 3, 7, 20, 33, 2, 11, 90)]


@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["awake", "asleep"])
def test_a_crew_computes_what_one_thread_does(
    compiled: Kernel, model_of: Callable[[str], Path], tmp_path: Path, pause: float
) -> None:
    """With more members than there are cores, between whose steps there is time to fall asleep, or none."""
    folder = model_of("llama")
    adapter = save_adapter(tmp_path / "adapter", folder, seed=1)
    requests = [
        AddSequence(n, prompt, replace(GREEDY, max_tokens=30), "a" if n % 2 else None)
        for n, prompt in enumerate(PROMPTS)
    ]

    def replies(threads: int) -> dict[int, list[float | None]]:
        engine = build(folder, threads=threads)
        attach(engine, "a", adapter)
        for request in requests:
            engine.add(request)
        logprobs: dict[int, list[float | None]] = {request.sequence: [] for request in requests}
        while not engine.idle:
            time.sleep(pause if threads > 1 else 0)
            for update in engine.step():
                logprobs[update.sequence].append(update.logprob)
        return logprobs

    assert replies(7) == replies(1)


@pytest.mark.parametrize("threads", [1, 3])
def test_prompts_computed_together_are_what_each_is_alone(
    compiled: Kernel, model_of: Callable[[str], Path], tmp_path: Path, threads: int
) -> None:
    """Of several adapters, from their beginning or later, with all their logits or their last."""
    folder = model_of("llama")
    engine = build(folder, threads=threads)
    attach(engine, "a", save_adapter(tmp_path / "adapter", folder, seed=1))
    adapters = [engine.adapters["a"] if row % 3 else None for row in range(8)]
    stretches = [
        Stretch(row, 7 * (row % 2), torch.tensor(prompt), adapters[row], every=row in (1, 6))
        for row, prompt in enumerate(PROMPTS)
    ]
    with torch.inference_mode():
        engine.model.prefill(engine.cache, [replace(one, start=0, tokens=torch.arange(5, 12)) for one in stretches])
        alone = [engine.model.prefill(engine.cache, [stretch])[0].clone() for stretch in stretches]
        kept = [view.clone() for view in engine.cache.views]
        together = engine.model.prefill(engine.cache, stretches)
    assert [len(logits) for logits in together] == [len(PROMPTS[row]) if row in (1, 6) else 1 for row in range(8)]
    assert all(map(torch.equal, together, alone)) and all(map(torch.equal, engine.cache.views, kept))


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_and_prompts_in_one_pass_are_what_they_are_by_themselves(
    compiled: Kernel, model_of: Callable[[str], Path], tmp_path: Path, threads: int
) -> None:
    folder = model_of("llama")
    engine = build(folder, threads=threads)
    attach(engine, "a", save_adapter(tmp_path / "adapter", folder, seed=1))
    adapter, cache, model = engine.adapters["a"], engine.cache, engine.model
    adapters = [None, adapter, adapter, None]
    begun = [Stretch(row, 0, torch.tensor(PROMPTS[row + 2]), adapters[row], every=False) for row in range(4)]
    stretches = [
        Stretch(4, 0, torch.tensor(PROMPTS[4]), adapter, every=True),
        Stretch(5, 0, torch.tensor(PROMPTS[1]), None, every=False),
    ]
    with torch.inference_mode():
        model.prefill(cache, begun)
        batch = DecodeBatch(cache, [7, 8, 9, 10], [len(one.tokens) for one in begun], adapters)
        alone = [model.decode(batch).clone(), *(logits.clone() for logits in model.prefill(cache, stretches))]
        kept = [view.clone() for view in cache.views]
        rows, of_prompts = model.decode_beside(batch, stretches)
    assert [len(logits) for logits in of_prompts] == [len(PROMPTS[4]), 1]
    assert all(map(torch.equal, [rows, *of_prompts], alone)) and all(map(torch.equal, cache.views, kept))


def test_the_threads_of_a_model_end_with_it(compiled: Kernel, model_of: Callable[[str], Path]) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    if not Path("/proc/self/task").exists():
        pytest.skip("this system doesn't say how many threads there are")
    engine = build(model_of("llama"), threads=1)
    run(engine, [AddSequence(0, PROMPTS[3], GREEDY)])
    before = threads()
    engine = build(model_of("llama"), threads=5)
    run(engine, [AddSequence(0, PROMPTS[3], GREEDY)])
    assert threads() == before + 4
    del engine
    gc.collect()
    assert threads() == before
