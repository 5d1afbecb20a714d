"""Weights and configuration: what no engine could serve, or is not what it says, is not published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from service.adapters.files import check_folder, publish_folder
from service.adapters.manifest import CONFIG, WEIGHTS, Manifest
from service.adapters.weights import check_lora, read_header
from service.errors import AdapterBroken
from service.store.clock import now
from tests.fixtures.adapters import RANK, TARGETS, WIDTH, provenance, write_base, write_source


def test_a_base_may_hold_what_no_adapter_may(published: Path, tmp_path: Path) -> None:
    """Quantised weights, masks, counters."""
    odd = {f"{kind}.weight": np.zeros((2, 3), kind) for kind in ("uint8", "int64", "bool")}
    save_file(odd, write_base(tmp_path / "base") / "odd.safetensors")
    check_folder(published, base_folder=tmp_path / "base")


Tensors = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
FIRST = f"base_model.model.model.layers.0.self_attn.{TARGETS[0]}.lora_A.weight"


def _wrong_rank(tensors: Tensors) -> None:
    tensors[FIRST] = tensors[FIRST][:-1]


def _no_a(tensors: Tensors) -> None:
    del tensors[FIRST]


def _other_module(tensors: Tensors) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = tensors[FIRST]


def _whole_weights(tensors: Tensors) -> None:
    tensors["base_model.model.model.embed_tokens.weight"] = tensors[FIRST]


def _no_numbers(tensors: Tensors) -> None:
    tensors[FIRST] = np.full_like(tensors[FIRST], np.nan)


def _whole_numbers(tensors: Tensors) -> None:
    tensors[FIRST] = tensors[FIRST].astype(np.int64)


def _one_target_less(tensors: Tensors) -> None:
    for name in [name for name in tensors if TARGETS[0] in name]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_wrong_rank, "which is not rank 4"),
        (_no_a, "has only one half (lora_B)"),
        (_other_module, "which is no LoRA weight of q_proj, v_proj"),
        (_whole_weights, "which is no LoRA weight of q_proj, v_proj"),
        (_no_numbers, "infinite or not numbers"),
        (_whole_numbers, "in I64, which engines don't serve"),
        (_one_target_less, "has no weights for q_proj"),
    ],
)
def test_weights_that_are_not_what_they_say_are_not_published(
    source: Path, tmp_path: Path, change: Callable[[Tensors], None], words: str
) -> None:
    tensors = {name: tensor.copy() for name, tensor in load_file(source / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, source / WEIGHTS)
    with pytest.raises(AdapterBroken) as refused:
        publish_folder(source, tmp_path / "adapters", Manifest.of(provenance(), "v1", now()), {})
    assert f"Adapter v1: {WEIGHTS} has" in str(refused.value) and words in str(refused.value)
    assert list((tmp_path / "adapters").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r": 8}, "says r = 8, and the manifest 4"),
        ({"lora_alpha": 16}, "says lora_alpha = 16.0, and the manifest 8.0"),
        ({"peft_type": "IA3"}, "says peft_type = 'IA3'"),
        ({"target_modules": ["q_proj"]}, "has target_modules ['q_proj']"),
        ({"target_modules": ".*_proj"}, "has target_modules '.*_proj'"),
        ({"use_dora": True}, "uses use_dora, which engines don't serve"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"bias": "all"}, "trains biases"),
        ({"r": None}, "says r = None"),
    ],
)
def test_a_configuration_that_no_engine_serves_is_not_published(
    source: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    config = json.loads((source / CONFIG).read_text())
    (source / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(AdapterBroken) as refused:
        publish_folder(source, tmp_path / "adapters", Manifest.of(provenance(), "v1", now()), {})
    assert f"Adapter v1: {CONFIG}" in str(refused.value) and words in str(refused.value)


def test_a_source_with_pickled_weights_alone_is_refused(source: Path, tmp_path: Path) -> None:
    (source / WEIGHTS).rename(source / "adapter_model.bin")
    with pytest.raises(AdapterBroken, match=r"is missing; adapter_model\.bin is a pickle, which can run code"):
        publish_folder(source, tmp_path / "adapters", Manifest.of(provenance(), "v1", now()), {})


def test_shapes_are_held_against_the_base_where_it_is_known(published: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    names = [f"model.layers.{layer}.self_attn.{target}.weight" for layer in range(2) for target in TARGETS]
    save_file({name: np.zeros((WIDTH, WIDTH), np.float32) for name in names}, base / "model.safetensors")
    check_folder(published, base_folder=base)
    save_file({name: np.zeros((WIDTH, 2 * WIDTH), np.float32) for name in names}, base / "model.safetensors")
    with pytest.raises(AdapterBroken, match=r"by \(8, 8\), but the base has \(8, 16\) there"):
        check_folder(published, base_folder=base)


def test_bfloat16_weights_are_checked_for_infinities(tmp_path: Path) -> None:
    def write(numbers: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Path:
        """float32's upper half is bfloat16, which numpy can't name."""
        halves = numbers.astype("<f4").view("<u2")[..., 1::2].tobytes()
        shape = list(numbers.shape)
        header = {}
        data = b""
        for half in "AB":
            header[f"base_model.model.a.q_proj.lora_{half}.weight"] = {
                "dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(halves)],
            }  # fmt: skip
            data += halves
        encoded = json.dumps(header).encode()
        path = tmp_path / WEIGHTS
        path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
        return path

    sound = np.full((4, 4), -3.0e38, np.float32)
    check_lora(write(sound), 4, ["q_proj"])
    for bad in (np.inf, -np.inf, np.nan):
        sound[2, 1] = bad
        with pytest.raises(AdapterBroken, match="infinite or not numbers"):
            check_lora(write(sound), 4, ["q_proj"])


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_bytes_whatever_make_the_header_reader_do_anything_but_refuse(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray((write_source(tmp_path / "whole") / WEIGHTS).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        at = data.draw(st.integers(0, 600))
        content[at : at + 1] = data.draw(st.binary(min_size=2, max_size=9))
    path = tmp_path / WEIGHTS
    path.write_bytes(content)
    try:
        check_lora(path, RANK, TARGETS)
    except AdapterBroken as error:
        assert WEIGHTS in str(error)


def test_the_header_is_read_as_safetensors_itself_reads_it(source: Path) -> None:
    theirs = {name: tensor.shape for name, tensor in load_file(source / WEIGHTS).items()}
    assert {name: tensor.shape for name, tensor in read_header(source / WEIGHTS).items()} == theirs
