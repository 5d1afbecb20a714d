"""What the engine makes of its arguments, and what it says when they cannot be met."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, Lfm2Config, MambaConfig, PreTrainedConfig

from service.embedded.arguments import GIB, EngineArguments, parse_arguments
from service.embedded.assemble import assemble, default_threads
from service.embedded.errors import EngineError
from tests.embedded.models import POSITIONS, SMALL, VOCABULARY

TOKEN_BYTES = 2 * 2 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_model_len": 100_000}, "above the model's 128 positions"),
        ({"kv_cache_bytes": 100, "max_model_len": 100}, "raise --kv-cache-gib or lower --max-model-len"),
        ({"kv_cache_bytes": 1}, "raise --kv-cache-gib"),
        ({"device": "cuda:99"}, "--device cuda:99 is not usable here"),
        ({"device": "potato"}, "--device potato is not usable here"),
    ],
)
def test_what_cannot_be_met_says_what_to_change(
    model_of: Callable[[str], Path], options: dict[str, object], says: str
) -> None:
    with pytest.raises(EngineError, match=says):
        assemble(replace(EngineArguments(model=str(model_of("llama")), device="cpu"), **options))  # type: ignore[arg-type]


def test_the_cache_never_takes_more_than_its_bound(model_of: Callable[[str], Path]) -> None:
    usual = EngineArguments(model=str(model_of("llama")), device="cpu", threads=1)
    for bound in (POSITIONS * TOKEN_BYTES, 1000 * TOKEN_BYTES + 17, GIB):
        engine, ready = assemble(replace(usual, kv_cache_bytes=bound, max_num_seqs=16))
        assert ready.kv_bytes == ready.kv_tokens * TOKEN_BYTES <= bound
        assert sum(view.nbytes for view in engine.cache.views) <= bound
        assert ready.kv_tokens <= 16 * POSITIONS, "no more than what can be of use"


def test_a_small_cache_shortens_the_context_unless_it_was_asked_for(model_of: Callable[[str], Path]) -> None:
    usual = EngineArguments(model=str(model_of("llama")), device="cpu", threads=1)
    _, ready = assemble(replace(usual, kv_cache_bytes=50 * TOKEN_BYTES))
    assert ready.max_model_len == 50
    assert "50 tokens a sequence" in ready.lines[1]


def test_damaged_and_pickled_models_are_refused(model_of: Callable[[str], Path], tmp_path: Path) -> None:
    for file in model_of("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    arguments = EngineArguments(model=str(tmp_path), device="cpu")
    with pytest.raises(EngineError, match="damaged or unreadable"):
        assemble(arguments)
    weights.rename(tmp_path / "pytorch_model.bin")
    for architecture in ("LlamaForCausalLM", "GPT2LMHeadModel"):  # of which transformers loads the second
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
        with pytest.raises(EngineError, match=r"\(.bin\) are never loaded. Take a version .* or convert it"):
            assemble(arguments)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(EngineError, match="not valid JSON"):
        assemble(arguments)


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, state_size=4, num_hidden_layers=2),
        Lfm2Config(**SMALL, layer_types=["full_attention", "conv"]),
    ],
)
def test_recurrent_and_hybrid_models_are_refused_with_what_serves_them(
    tmp_path: Path, config: PreTrainedConfig
) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(EngineError, match=r"no recurrent and no hybrid models. .*`hone up --engine vllm`"):
        assemble(EngineArguments(model=str(tmp_path), device="cpu", threads=1))


def test_small_models_get_few_threads() -> None:
    assert default_threads(20 * 2**20) <= 2
    assert default_threads(2**40) >= default_threads(20 * 2**20) >= 1


def test_sizes_may_be_given_in_bytes_or_gib() -> None:
    assert parse_arguments(["--kv-cache-gib", "0.5"]).kv_cache_bytes == GIB // 2
    assert parse_arguments(["--kv-cache-bytes", "77"]).kv_cache_bytes == 77
    assert parse_arguments([]).name == "sprout"
    assert parse_arguments(["--model", "a/b", "--served-model-name", "mine"]).name == "mine"
    wrong = ["--max-num-seqs 0", "--kv-cache-gib 1 --kv-cache-bytes 1", "--kv-cache-gib nan", "--kv-cache-gib inf"]
    for options in (*wrong, "--threads -1", "--port 70000", "--nonsense"):
        with pytest.raises(SystemExit):
            parse_arguments(options.split())
