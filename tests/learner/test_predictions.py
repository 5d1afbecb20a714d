"""What losses ask of the policy's distributions is the same a few positions at a time, and takes less memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

from learner import output_layer
from learner.backbone import Backbone
from learner.batch import collate
from learner.methods import retention
from learner.methods.answers import Answer
from learner.methods.groups import Group, listwise
from learner.methods.retention import Retention, retained
from learner.output_layer import kl_top_in_chunks, pull_to_anchor_in_chunks, top_log_probs_in_chunks
from learner.predictions import Predictions
from learner.tensors import kl_top, top_log_probs
from tests.fixtures.waiting import PATIENCE
from tests.learner.log_probabilities import EXAMPLES, graded
from tests.learner.tiny_backbone import SETTINGS, moved
from tests.learner.tiny_model import PAD, WORDS, ids

ROOT = Path(__file__).parents[2]
GROUPS = [
    Group(
        prompt=ids("<bos> what is the capital of france ?"),
        replies=(ids("it is paris .", end=True), ids("paris", end=True), ids("perhaps rome", end=True)),
        answer=Answer(frozenset({"paris"})),
        start=torch.tensor([-9.0, -4.0, -7.0]),
        targets=torch.tensor([0.2, 0.7, 0.1]),
    ),
    Group(
        prompt=ids("<bos> one"),
        replies=(ids("two", end=True), ids("three four five", end=True), ids("one", end=True)),
        answer=Answer(),
        start=torch.tensor([-3.0, -8.0, -5.0]),
        targets=torch.tensor([0.1, 0.6, 0.3]),
    ),
]


@pytest.mark.parametrize("positions", [12, 1])
@pytest.mark.parametrize("rows", [1, 4, 5, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("one_weight", [True, False])
def test_the_pull_to_the_anchor_in_chunks_is_that_of_float64(
    monkeypatch: pytest.MonkeyPatch, positions: int, rows: int, bias: bool, one_weight: bool
) -> None:
    """Against the divergences as torch.distributions has them, differentiated by torch through whole logits."""
    torch.manual_seed(positions)
    layer = nn.Linear(6, 9, bias=bias).requires_grad_(False)
    states, anchor = torch.randn(positions, 6, requires_grad=True), torch.randn(positions, 6)
    stay = 0.7 if one_weight else torch.rand(positions)
    monkeypatch.setattr(output_layer, "AT_ONCE", 9 * rows + 1)
    found, metrics = pull_to_anchor_in_chunks(states, anchor, layer, stay, 0.3)
    (slope,) = torch.autograd.grad(3 * found, states)

    exact, exactly = layer.double(), states.detach().double().requires_grad_()
    ours, theirs = (torch.distributions.Categorical(logits=exact(part)) for part in (exactly, anchor.double()))
    kl = torch.distributions.kl_divergence(ours, theirs)
    surprise = kl + ours.entropy()
    expected = (torch.as_tensor(stay) * kl + 0.3 * surprise).mean()
    (expected_slope,) = torch.autograd.grad(3 * expected, exactly)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slope.double(), expected_slope, atol=1e-5, rtol=1e-5)
    assert metrics == pytest.approx({"kl": kl.mean().item(), "surprise": surprise.mean().item()}, abs=1e-5)
    with torch.no_grad():
        again, _ = pull_to_anchor_in_chunks(states, anchor, layer.float(), stay, 0.3)
    torch.testing.assert_close(again, found.detach())


@pytest.mark.parametrize("positions", [12, 1, 0])
@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("count", [1, 4, 9, 20])
@pytest.mark.parametrize("sharp", [1.0, 40.0])
def test_the_divergence_from_top_tokens_in_chunks_is_that_of_whole_logits(
    monkeypatch: pytest.MonkeyPatch, positions: int, rows: int, count: int, sharp: float
) -> None:
    """Differentiated by torch; also where the tokens are all there are, and where the others have next to no odds."""
    torch.manual_seed(positions)
    layer = nn.Linear(6, 9).requires_grad_(False)
    states, anchor = (sharp * torch.randn(positions, 6)).requires_grad_(), torch.randn(positions, 6)
    monkeypatch.setattr(output_layer, "AT_ONCE", 9 * rows + 1)
    top_ids, top = top_log_probs_in_chunks(anchor, count, layer)
    for one, other in zip((top_ids, top), top_log_probs(layer(anchor), count), strict=True):
        torch.testing.assert_close(one, other)
    found = graded(kl_top_in_chunks(states, top_ids, top, layer), [states])
    for one, other in zip(found, graded(kl_top(layer(states), top_ids, top), [states]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(kl_top_in_chunks(states, top_ids, top, layer), found[0])


def in_chunks_and_whole(folder: Path, monkeypatch: pytest.MonkeyPatch, packs: bool) -> Iterator[Backbone]:
    """The same backbone twice: with its output layer known, two positions at a time, and with whole logits."""
    monkeypatch.setattr(output_layer, "AT_ONCE", 2 * len(WORDS))
    backbone = moved(Backbone.load(folder, SETTINGS))
    backbone._packs, layer = packs, backbone._output_layer
    assert layer is not None
    for known, width in ((layer, 32), (None, len(WORDS))):
        backbone._output_layer = known
        predictions: Predictions = backbone.predictions(collate(EXAMPLES, PAD))
        assert predictions.states.shape[1] == width
        yield backbone


@pytest.mark.parametrize("packs", [True, False])
def test_what_holds_back_a_correction_has_the_gradients_of_whole_logits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    found = list[list[Tensor]]()
    monkeypatch.setattr(retention, "TOP_TOKENS", 5)
    for backbone in in_chunks_and_whole(folder, monkeypatch, packs):
        kept = retained(backbone, EXAMPLES[:3], "base")
        loss, _ = Retention(backbone, kept, Random(0)).loss(kept)
        found.append([*graded(loss, list(backbone.trainable())), *(one.top for one in kept)])
    assert found[0][0] > 1e-4
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_nothing_pulls_where_nothing_is_predicted() -> None:
    layer, states = nn.Linear(6, 9).requires_grad_(False), torch.randn(0, 6, requires_grad=True)
    pull, metrics = pull_to_anchor_in_chunks(states, states.detach(), layer, 1.0, 1.0)
    assert (pull.item(), metrics) == (0.0, {"kl": 0.0, "surprise": 0.0})
    (slope,) = torch.autograd.grad(pull, states)
    assert slope.shape == (0, 6)


def test_a_mask_leaves_those_where_it_is_true(folder: Path) -> None:
    predictions = Backbone.load(folder, SETTINGS).predictions(collate(EXAMPLES, PAD))
    some = predictions[predictions.rows == 1]
    assert len(predictions) == 10 and len(some) == 2
    assert some.token_ids.tolist() == list(EXAMPLES[1][1])
    torch.testing.assert_close(some.log_probs(), predictions.log_probs()[predictions.rows == 1])


@pytest.mark.parametrize("packs", [True, False])
def test_a_step_of_replies_has_the_gradients_of_whole_logits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    found = list[list[Tensor]]()
    for backbone in in_chunks_and_whole(folder, monkeypatch, packs):
        loss, metrics = listwise(backbone, 0.03, GROUPS)
        found.append([*graded(loss, list(backbone.trainable())), torch.tensor(list(metrics.values()))])
    assert found[0][1].abs().sum() > 1e-3
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


MEASURE = """
    import sys
    from pathlib import Path
    from types import SimpleNamespace
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from learner import output_layer
    from learner.backbone import Backbone
    from learner.methods.groups import Group, listwise

    length, vocabulary = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"), adapter_name="policy")
    tokenizer = SimpleNamespace(pad_token_id=0, decode=lambda ids, **how: "")
    backbone = Backbone(model, tokenizer, frozenset())
    output_layer.AT_ONCE = int(sys.argv[3])

    def step(length):
        replies = tuple(tuple(range(first, first + length)) for first in (5, 6, 7, 8))
        odds = torch.tensor([0.4, 0.3, 0.2, 0.1])
        groups = [Group((first, 2, 3), replies, frozenset(), -odds, odds) for first in (5, 6)]
        loss, _ = listwise(backbone, 0.03, groups)
        torch.autograd.grad(loss, backbone.trainable(), allow_unused=True)

    def status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

    step(2)  # whatever is imported, or allocated, late
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again from here
    before = status("VmRSS")
    step(length)
    print(status("VmHWM") - before)
"""


def test_memory_does_not_grow_with_positions_and_vocabulary() -> None:
    """That the measurement can fail is seen by having all logits at once."""
    length, vocabulary = 100, 131_072
    logits = 4 * 8 * length * vocabulary  # bytes: 419 MB

    def peak(at_once: int) -> int:
        command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(length), str(vocabulary), str(at_once)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert peak(1 << 20) < logits / 2 < logits < peak(1 << 40)
