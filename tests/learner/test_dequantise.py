"""The dequantised base: what NF4 gives back and nothing else changed, in bounded memory, whole or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from learner.backbone import Backbone
from learner.dequantise import INDEX, dequantise
from learner.nf4 import DEQUANTISED, load_nf4
from service.adapters.fingerprint import base_fingerprint
from service.errors import BadInput, Conflict, StoreError, TrainingFailed
from service.settings import SPROUT, LearnerSettings
from tests.fixtures.waiting import PATIENCE
from tests.learner.tiny_model import build_tiny_model, ids

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


class Heard:
    def __init__(self) -> None:
        self.steps: list[tuple[int, int, str]] = []

    def __call__(self, done: int, of: int, name: str) -> None:
        self.steps.append((done, of, name))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), width=64)


def check_against_bitsandbytes(model: Path, out: Path) -> int:
    """Every weight of `out` is what the trainer's NF4 base gives back, or what `model` has; how many were in NF4."""
    trained = load_nf4(model, CPU)
    served = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert served.dtype == torch.bfloat16
    in_nf4 = 0
    for name, module in trained.named_modules():
        if isinstance(module, Linear4bit):
            in_nf4 += 1
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            found = served.get_submodule(name).weight
            assert isinstance(found, torch.Tensor)
            assert torch.equal(found, weight if found.shape == weight.shape else weight.T), name
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
    quantised = {f"{name}.weight" for name, module in trained.named_modules() if isinstance(module, Linear4bit)}
    for name, tensor in served.state_dict().items():
        assert torch.equal(tensor, plain[name]) != (name in quantised), name
    return in_nf4


@pytest.mark.parametrize("model", ["tiny", "sprout"])
def test_the_linear_layers_are_what_nf4_gives_back_and_all_else_is_as_it_was(
    model: str, model_folder: Path, tmp_path: Path
) -> None:
    source = SPROUT if model == "sprout" else model_folder
    heard = Heard()
    written = dequantise(source, tmp_path / "out", heard)
    assert check_against_bitsandbytes(source, tmp_path / "out") == written.dequantised > 0
    of = written.tensors
    assert [step[:2] for step in heard.steps] == [(done, of) for done in range(of + 1)]
    others = {path.name for path in source.iterdir() if path.is_file()} - {"config.json", "model.safetensors"}
    for name in others:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads((source / "config.json").read_text()) | {"dtype": "bfloat16"}
    assert json.loads((tmp_path / "out" / DEQUANTISED).read_text())["base_sha256"] == base_fingerprint(source)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("what is red") == AutoTokenizer.from_pretrained(source)("what is red")


def test_shards_stay_shards_with_an_index(model_folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    count = len(list((tmp_path / "shards").glob("*.safetensors")))
    written = dequantise(tmp_path / "shards", tmp_path / "out", Heard())
    assert count > 2 and len(list((tmp_path / "out").glob("*.safetensors"))) == count
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    tensors = {
        name: shard for shard in set(index["weight_map"].values()) for name in load_file(tmp_path / "out" / shard)
    }
    assert tensors.keys() == index["weight_map"].keys() and len(tensors) == written.tensors
    assert index["metadata"]["total_size"] == written.bytes
    check_against_bitsandbytes(tmp_path / "shards", tmp_path / "out")


def test_weights_that_lie_beside_it_for_another_program_are_left_alone(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    save_file({"tok_embeddings.weight": torch.zeros(2, 2)}, tmp_path / "model" / "consolidated.safetensors")
    dequantise(tmp_path / "model", tmp_path / "out", lambda done, of, name: None)
    assert [file.name for file in sorted((tmp_path / "out").glob("*.safetensors*"))] == ["model.safetensors"]


def test_transposed_layers_and_tensors_that_are_no_floats_survive(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=31, n_positions=16, n_embd=64, n_layer=2, n_head=2))
    model.save_pretrained(tmp_path / "gpt2")
    weights = tmp_path / "gpt2" / "model.safetensors"
    extra = {
        "odd": torch.tensor([True, False, True]),
        "count": torch.tensor(7),
        "small": torch.ones(3, dtype=torch.half),
    }
    save_file(load_file(weights) | extra, weights, {"format": "pt"})
    dequantise(tmp_path / "gpt2", tmp_path / "out", Heard())
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["odd"], extra["odd"]) and torch.equal(found["count"], extra["count"])
    assert found["small"].dtype == torch.bfloat16
    trained = dict(load_nf4(tmp_path / "gpt2", CPU).named_modules())
    layer = trained["transformer.h.0.attn.c_attn"]
    expected = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(found["transformer.h.0.attn.c_attn.weight"], expected.T)


def test_what_trains_on_nf4_and_what_is_served_say_the_same(model_folder: Path, tmp_path: Path) -> None:
    dequantise(model_folder, tmp_path / "out", Heard())
    example = [(ids("<bos> what is the capital of france ?"), ids("it is perhaps rome .", end=True))]
    trained = Backbone.load(model_folder, LearnerSettings(quantise="nf4")).score(example, "base").item()
    served = Backbone.load(tmp_path / "out", LearnerSettings()).score(example, "base").item()
    plain = Backbone.load(model_folder, LearnerSettings()).score(example, "base").item()
    assert trained == pytest.approx(served, abs=0.2 if torch.cuda.is_available() else 1e-4)  # bfloat16 on a GPU
    assert abs(trained - plain) > 0.5


def test_a_dequantised_base_is_neither_quantised_nor_dequantised_again(model_folder: Path, tmp_path: Path) -> None:
    dequantise(model_folder, tmp_path / "out", Heard())
    with pytest.raises(BadInput, match="was dequantised already"):
        dequantise(tmp_path / "out", tmp_path / "again", Heard())
    with pytest.raises(TrainingFailed, match=r"engine\.weights"):
        Backbone.load(tmp_path / "out", LearnerSettings(quantise="nf4"))


def _copy(model_folder: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in model_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no folder", "no model"),
        ("no config", "no config.json"),
        ("bad config", "can't be read"),
        ("pickle", "is a pickle"),
        ("quantised", r"is quantised already \(bitsandbytes\)"),
        ("no weights", "holds no model"),
        ("truncated", "is damaged"),
        ("renamed", "names its layers otherwise"),
        ("unknown", "knows no such"),
        ("eight bits", "is stored as F8_E4M3"),
    ],
)
def test_what_can_not_be_dequantised_is_told_and_leaves_nothing(
    model_folder: Path, tmp_path: Path, damage: str, words: str
) -> None:
    model = _copy(model_folder, tmp_path / "model")
    config, weights = model / "config.json", model / "model.safetensors"
    if damage == "no folder":
        model = tmp_path / "nowhere"
    elif damage == "no config":
        config.unlink()
    elif damage == "bad config":
        config.write_text("{")
    elif damage == "pickle":
        weights.rename(model / "pytorch_model.bin")
    elif damage == "no weights":
        weights.unlink()
    elif damage == "quantised":
        config.write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "renamed":
        save_file({f"other.{name}": tensor for name, tensor in load_file(weights).items()}, weights)
    elif damage == "unknown":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "none-such"}))
    else:
        save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(BadInput, match=words):
        dequantise(model, tmp_path / "out", Heard())
    assert {path.name for path in tmp_path.iterdir()} <= {"model"}


def test_nothing_is_overwritten(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(Conflict, match="exists already"):
        dequantise(model_folder, tmp_path / "out", Heard())


def test_a_disk_without_room_is_told_before_anything_is_written(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("learner.dequantise.shutil.disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"needs 0\.0 GB"):
        dequantise(model_folder, tmp_path / "deep" / "out", Heard())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["killed in the middle", "full disk"])
def test_what_is_broken_off_is_no_model(model_folder: Path, tmp_path: Path, when: str) -> None:
    def break_off(done: int, of: int, name: str) -> None:
        if done == of // 2:
            raise OSError(28, "No space left on device") if when == "full disk" else KeyboardInterrupt

    with pytest.raises(StoreError if when == "full disk" else KeyboardInterrupt):
        dequantise(model_folder, tmp_path / "out", break_off)
    assert list(tmp_path.iterdir()) == []


MEASURE = """
    import json, resource, sys
    from pathlib import Path
    import torch
    from safetensors.torch import load_file
    from learner import dequantise as writer

    model, out, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    layers = {f"model.layers.{layer}.mlp.up_proj.weight": False for layer in range(0, int(sys.argv[4]), 8)}
    writer._find_layers = lambda folder, names: layers  # some, as quantising takes its time
    writer.round_trip(torch.ones(64, 64, dtype=torch.bfloat16))  # whatever is imported late

    def status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again from here
    before = status("VmRSS")
    if how == "all at once":
        held = [tensor.clone() for file in model.glob("*.safetensors") for tensor in load_file(file).values()]
    writer.dequantise(model, out, lambda done, of, name: None)
    print(status("VmHWM") - before)
"""


def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path) -> None:
    """128 MB in tensors of 2 MB; that the measurement can fail is seen by holding all of them."""
    layers, width = 64, 1024
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(width, width, generator=generator).to(torch.bfloat16)
    for shard in range(2):
        names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(shard, layers, 2)]
        save_file({name: weight.clone() for name in names}, model / f"model-{shard}.safetensors")
    largest, whole = 2 * width * width, 2 * width * width * layers

    def peak(how: str) -> int:
        command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(model), str(tmp_path / how), how, str(layers)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    bound = 24 * largest  # float32 copies, codes and places of one tensor
    assert peak("streamed") < bound < whole / 2 < peak("all at once")
