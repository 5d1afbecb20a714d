"""The engine computes what transformers and PEFT compute, for every family, alone and in mixed batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from service.embedded import assemble
from service.embedded.general import GeneralModel
from service.embedded.llama import Llama
from service.embedded.messages import AddSequence
from tests.embedded.driving import GREEDY, Reference, attach, build, run, tokens_of
from tests.embedded.models import save_adapter

FAST = ["llama", "llama3-rope", "mistral", "qwen2", "qwen3"]
GENERAL = ["mistral-sliding", "gpt2", "gpt-neox", "gemma2"]
PROMPTS = [[5, 9, 14, 200, 33], [7], list(range(20, 60)), [250, 251, 252, 253, 254, 255, 256, 5, 6, 7, 8]]


@pytest.mark.parametrize("family", FAST + GENERAL)
@pytest.mark.parametrize("threads", [1, 3])
def test_greedy_tokens_and_logprobs_equal_those_of_transformers(
    model_of: Callable[[str], Path], family: str, threads: int
) -> None:
    folder = model_of(family)
    engine = build(folder, threads=threads)
    assert isinstance(engine.model, Llama if family in FAST else GeneralModel)
    results = run(engine, [AddSequence(number, prompt, GREEDY) for number, prompt in enumerate(PROMPTS)])
    reference = Reference(folder)
    for number, prompt in enumerate(PROMPTS):
        tokens, values = reference.greedy(prompt, GREEDY.max_tokens)
        assert tokens_of(results[number]) == tokens
        assert [update.logprob for update in results[number]] == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("family", ["mistral-sliding", "gpt2", "gpt-neox", "gemma2"])
def test_general_models_decode_all_rows_at_once(model_of: Callable[[str], Path], family: str) -> None:
    model = build(model_of(family)).model
    assert isinstance(model, GeneralModel) and model.batches


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_rows_decoded_one_by_one_give_the_same(model_of: Callable[[str], Path], family: str) -> None:
    requests = [AddSequence(number, prompt, GREEDY) for number, prompt in enumerate(PROMPTS)]
    together = build(model_of(family))
    alone = build(model_of(family))
    assert isinstance(alone.model, GeneralModel)
    alone.model.batches = False
    assert {n: tokens_of(u) for n, u in run(together, requests).items()} == {
        n: tokens_of(u) for n, u in run(alone, requests).items()
    }


@pytest.mark.parametrize(
    ("family", "compiled"),
    [(family, True) for family in ("llama", "llama3-rope", "qwen3")]
    + [(family, False) for family in ("llama", "llama3-rope", "qwen3", "gpt2", "gemma2")],
)
def test_base_and_two_adapters_in_one_batch_equal_peft(
    model_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr(assemble, "load_kernel", lambda: None)
    folder = model_of(family)
    one = save_adapter(tmp_path / "one", folder, seed=1)
    two = save_adapter(tmp_path / "two", folder, seed=2, r=8, lora_alpha=4, use_rslora=True)
    engine = build(folder)
    attach(engine, "one", one)
    attach(engine, "two", two)
    names = [None, "one", "two", "one", None, "two", "one"]
    prompts = [PROMPTS[number % 3] for number in range(len(names))]
    results = run(
        engine,
        [AddSequence(n, prompt, GREEDY, name) for n, (prompt, name) in enumerate(zip(prompts, names, strict=True))],
    )
    references = {None: Reference(folder), "one": Reference(folder, one), "two": Reference(folder, two)}
    for number, name in enumerate(names):
        tokens, values = references[name].greedy(prompts[number], GREEDY.max_tokens)
        assert tokens_of(results[number]) == tokens
        assert [update.logprob for update in results[number]] == pytest.approx(values, abs=1e-4)
    assert results[0][0].logprob != pytest.approx(results[3][0].logprob, abs=1e-3), "the adapter changes something"


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_bfloat16_is_as_near_as_its_precision(model_of: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    folder = model_of(family)
    adapter = save_adapter(tmp_path / "a", folder, seed=1)
    engine = build(folder, dtype="bfloat16")
    attach(engine, "a", adapter)
    for name in (None, "a"):
        [update] = run(engine, [AddSequence(0, PROMPTS[2], replace(GREEDY, max_tokens=1), name)])[0]
        exact = Reference(folder, adapter if name else None).logprobs(PROMPTS[2])[-1]
        assert update.logprob == pytest.approx(float(exact[update.token]), abs=0.1)


def test_alpha_and_rank_patterns_are_honoured(model_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_of("llama")
    options = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 32, "layers.0.self_attn.v_proj": 1}}
    adapter = save_adapter(tmp_path / "patterned", folder, seed=3, **options)
    engine = build(folder)
    attach(engine, "patterned", adapter)
    results = run(engine, [AddSequence(0, PROMPTS[0], GREEDY, "patterned")])
    tokens, values = Reference(folder, adapter).greedy(PROMPTS[0], GREEDY.max_tokens)
    assert tokens_of(results[0]) == tokens
    assert [update.logprob for update in results[0]] == pytest.approx(values, abs=1e-4)
