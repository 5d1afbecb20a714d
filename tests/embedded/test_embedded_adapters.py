"""Adapter folders that cannot be served exactly are refused, with the reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.embedded.errors import AdapterRefused
from service.embedded.lora import read_adapter
from tests.embedded.driving import build
from tests.embedded.models import save_adapter


@pytest.fixture
def adapter(model_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter", model_of("llama"), seed=1)


@pytest.fixture(scope="module")
def shapes(model_of: Callable[[str], Path]) -> dict[str, tuple[int, int]]:
    return build(model_of("llama")).model.linear_shapes()


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def first(tensors: dict[str, torch.Tensor], part: str = "lora_B") -> str:
    return next(name for name in sorted(tensors) if part in name)


def test_a_sound_adapter_is_read_whole(adapter: Path, shapes: dict[str, tuple[int, int]]) -> None:
    read = read_adapter("v1", adapter, shapes, max_rank=4)
    assert set(read.deltas) == set(shapes)
    assert all(delta.scale == 2.0 for delta in read.deltas.values())


def test_reading_gives_way_after_every_matrix(adapter: Path, shapes: dict[str, tuple[int, int]]) -> None:
    rests: list[None] = []
    read = read_adapter("v1", adapter, shapes, 4, lambda: rests.append(None))
    assert len(rests) == 2 * len(read.deltas)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"alora_invocation_tokens": [7]}, "alora_invocation_tokens"),
        ({"r": 8}, "rank 8"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, "finite number"),
        ({"lora_alpha": float("nan")}, "finite number"),
        ({"lora_alpha": True}, "finite number"),
        ({"r": True}, "whole number"),
        ({"r": 0}, "whole number"),
        ({"rank_pattern": {"(": 3}}, "rank_pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
    ],
)
def test_what_would_not_be_exact_is_refused(
    adapter: Path, shapes: dict[str, tuple[int, int]], changes: dict[str, Any], reason: str
) -> None:
    change_config(adapter, **changes)
    with pytest.raises(AdapterRefused, match=reason):
        read_adapter("v1", adapter, shapes, max_rank=64)


def test_a_rank_above_the_maximum_is_refused(adapter: Path, shapes: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(AdapterRefused, match="--max-lora-rank 3"):
        read_adapter("v1", adapter, shapes, max_rank=3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.update({first(t): t[first(t)][:-1].contiguous()}), "has shapes"),
        (lambda t: t.pop(first(t)), "half of the adapter"),
        (lambda t: t.update({first(t): t[first(t)] * float("nan")}), "finite"),
        (lambda t: t.update({first(t).replace("layers.0", "layers.7"): t.pop(first(t))}), "no linear layer|half of"),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(2, 2)}), "not of plain LoRA"),
        (lambda t: t.clear(), "holds no tensors"),
    ],
)
def test_wrong_tensors_are_refused(
    adapter: Path,
    shapes: dict[str, tuple[int, int]],
    change: Callable[[dict[str, torch.Tensor]], None],
    reason: str,
) -> None:
    change_tensors(adapter, change)
    with pytest.raises(AdapterRefused, match=reason):
        read_adapter("v1", adapter, shapes, max_rank=64)


def test_an_adapter_for_another_model_is_refused(adapter: Path, model_of: Callable[[str], Path]) -> None:
    shapes = build(model_of("qwen3")).model.linear_shapes()
    with pytest.raises(AdapterRefused, match=r"has shapes|no linear layer"):
        read_adapter("v1", adapter, shapes, max_rank=64)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_and_damaged_files_are_refused(adapter: Path, shapes: dict[str, tuple[int, int]], name: str) -> None:
    file = adapter / name
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x00\xff" * 20):
        file.write_bytes(content)
        with pytest.raises(AdapterRefused, match=name):
            read_adapter("v1", adapter, shapes, max_rank=64)
    file.unlink()
    with pytest.raises(AdapterRefused, match=name):
        read_adapter("v1", adapter, shapes, max_rank=64)


def test_pickled_weights_are_never_read(adapter: Path, shapes: dict[str, tuple[int, int]]) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(tensors, adapter / "adapter_model.bin")
    with pytest.raises(AdapterRefused, match="never read"):
        read_adapter("v1", adapter, shapes, max_rank=64)
