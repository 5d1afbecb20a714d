"""One base in many roles: each gives its own log-probabilities, and none disturbs another."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from learner.backbone import Backbone
from learner.batch import Sequences, collate
from service.errors import AdapterBroken, TrainingFailed
from service.settings import LearnerSettings
from tests.learner.tiny_backbone import EXAMPLES, SETTINGS, moved
from tests.learner.tiny_model import PAD


def batch() -> Sequences:
    return collate(EXAMPLES, PAD)


def test_a_fresh_policy_is_the_base(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    torch.testing.assert_close(backbone.log_probs(batch()), backbone.log_probs(batch(), "base"))


def test_log_probs_are_those_of_the_plain_model_one_by_one(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    log_probs = Backbone.load(folder, SETTINGS).log_probs(batch()).detach()
    for row, (prompt, reply) in enumerate(EXAMPLES):
        with torch.no_grad():
            full = torch.log_softmax(model(torch.tensor([prompt + reply])).logits[0].float(), -1)
        for place, token in enumerate(reply, start=len(prompt)):
            assert log_probs[row, place].item() == pytest.approx(full[place - 1, token].item(), abs=1e-4)
        outside = torch.cat([log_probs[row, : len(prompt)], log_probs[row, len(prompt) + len(reply) :]])
        assert outside.abs().sum().item() == 0


def test_reply_log_probs_are_the_sums_and_score_keeps_the_order(folder: Path) -> None:
    backbone = moved(Backbone.load(folder, SETTINGS))
    sums = backbone.log_probs(batch()).sum(1).detach()
    torch.testing.assert_close(backbone.reply_log_probs(batch()).detach(), sums)
    torch.testing.assert_close(backbone.score(EXAMPLES, "policy", batch_size=1), sums.cpu())


def test_a_batch_without_a_reply_scores_nothing(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    assert backbone.log_probs(collate([((3, 4), ())], PAD)).abs().sum().item() == 0
    assert backbone.reply_log_probs(collate([((3, 4), ())], PAD)).tolist() == [0.0]


def test_moving_the_policy_moves_no_other_role(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    before = backbone.score(EXAMPLES, "base")
    moved(backbone)
    assert (backbone.score(EXAMPLES, "policy") - before).abs().max() > 0.01
    torch.testing.assert_close(backbone.score(EXAMPLES, "base"), before)
    torch.testing.assert_close(backbone.score(EXAMPLES, "anchor"), before)
    torch.testing.assert_close(backbone.score(EXAMPLES, "parent"), before)


def test_only_the_policy_s_adapter_gets_gradients(folder: Path, tmp_path: Path) -> None:
    moved(Backbone.load(folder, SETTINGS)).save_adapter(tmp_path / "v1")
    backbone = Backbone.load(folder, SETTINGS, parent=tmp_path / "v1")
    backbone.score(EXAMPLES, "parent")
    (backbone.reply_log_probs(batch()) - backbone.reply_log_probs(batch(), "parent").detach()).sum().backward()
    with_gradient = {name for name, p in backbone.model.named_parameters() if p.grad is not None}
    assert with_gradient
    assert all(".policy." in name for name in with_gradient)


def test_a_saved_adapter_starts_the_next_policy_and_stays_as_the_parent(folder: Path, tmp_path: Path) -> None:
    first = moved(Backbone.load(folder, SETTINGS))
    first.save_adapter(tmp_path / "v1")
    second = Backbone.load(folder, LearnerSettings(rank=2), parent=tmp_path / "v1")
    torch.testing.assert_close(second.score(EXAMPLES, "policy"), first.score(EXAMPLES, "policy"))
    moved(second, seed=2)
    torch.testing.assert_close(second.score(EXAMPLES, "parent"), first.score(EXAMPLES, "policy"))
    assert (second.score(EXAMPLES, "policy") - second.score(EXAMPLES, "parent")).abs().max() > 0.01


def test_a_named_anchor_is_an_adapter_of_its_own(folder: Path, tmp_path: Path) -> None:
    first = moved(Backbone.load(folder, SETTINGS))
    first.save_adapter(tmp_path / "v1")
    backbone = Backbone.load(folder, SETTINGS, anchor=tmp_path / "v1")
    torch.testing.assert_close(backbone.score(EXAMPLES, "anchor"), first.score(EXAMPLES, "policy"))
    torch.testing.assert_close(backbone.score(EXAMPLES, "policy"), backbone.score(EXAMPLES, "base"))


def test_peft_itself_loads_what_was_saved(folder: Path, tmp_path: Path) -> None:
    backbone = moved(Backbone.load(folder, SETTINGS))
    backbone.save_adapter(tmp_path / "v1")
    assert sorted(p.name for p in (tmp_path / "v1").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    names = load_file(tmp_path / "v1" / "adapter_model.safetensors")
    assert all(n.startswith("base_model.model.") and n.endswith((".lora_A.weight", ".lora_B.weight")) for n in names)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "v1").eval()
    with torch.no_grad():
        logits = model(batch().token_ids[:1]).logits
        expected, _, _ = backbone.logits(batch())
    torch.testing.assert_close(logits[0, len(EXAMPLES[0][0]) - 1], expected[0].cpu(), atol=1e-4, rtol=1e-4)


def test_state_goes_out_and_back_in(folder: Path) -> None:
    backbone = moved(Backbone.load(folder, SETTINGS))
    state, before = backbone.adapter_state(), backbone.score(EXAMPLES, "policy")
    moved(backbone, seed=3)
    backbone.load_adapter_state(state)
    torch.testing.assert_close(backbone.score(EXAMPLES, "policy"), before)


def test_merging_changes_no_figure_and_leaves_the_base_bit_for_bit(folder: Path) -> None:
    backbone = moved(Backbone.load(folder, SETTINGS))
    weights = {name: p.clone() for name, p in backbone.model.named_parameters()}
    expected = backbone.log_probs(batch()).detach()
    with backbone.merged("policy") as model:
        sequences = batch().to(backbone.device)
        merged = model(input_ids=sequences.token_ids, attention_mask=sequences.attention_mask).logits
    plain, token_ids, _ = backbone.logits(batch())
    torch.testing.assert_close(merged[0, 7:12], plain[:5].detach(), atol=1e-4, rtol=1e-4)
    assert len(token_ids) == 7
    torch.testing.assert_close(backbone.log_probs(batch()).detach(), expected)
    assert all(torch.equal(p, weights[name]) for name, p in backbone.model.named_parameters())


def test_the_same_seed_starts_the_same_adapter(folder: Path) -> None:
    first, second = (Backbone.load(folder, SETTINGS).adapter_state() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_missing_base_is_a_failed_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="can't be loaded"):
        Backbone.load(tmp_path / "nowhere", SETTINGS)


@pytest.mark.parametrize(
    "damage", ["missing", "truncated", "cut at once", "other shape", "no config", "no folder", "dora"]
)
def test_a_damaged_parent_is_named_with_what_to_do(folder: Path, tmp_path: Path, damage: str) -> None:
    parent = tmp_path / "v1"
    Backbone.load(folder, SETTINGS).save_adapter(parent)
    weights, config = parent / "adapter_model.safetensors", parent / "adapter_config.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "cut at once":
        weights.write_bytes(weights.read_bytes()[:20])
    elif damage == "no folder":
        shutil.rmtree(parent)
    elif damage == "dora":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    elif damage == "other shape":
        save_file({name: tensor[:, :-1].contiguous() for name, tensor in load_file(weights).items()}, weights)
    else:
        config.unlink()
    with pytest.raises(AdapterBroken, match="v1") as caught:
        Backbone.load(folder, SETTINGS, parent=parent)
    assert "\n" not in str(caught.value)
    of_folder = "Name a folder that training wrote, with adapter_config.json and adapter_model.safetensors."
    again = "It is cut short or damaged: copy it again from where it came from, or take another adapter."
    wanted = {"missing": of_folder, "no config": of_folder, "no folder": of_folder}
    wanted["dora"] = "Start from the base, or from a plain LoRA adapter."
    assert caught.value.hint == wanted.get(damage, again)
    assert damage != "dora" or "v1 is a DoRA adapter" in str(caught.value)
    assert damage != "other shape" or re.search("size mismatch for .*, and [0-9]+ more like that", str(caught.value))


@pytest.mark.parametrize("role", ["parent", "anchor", "judge"])
def test_an_adapter_with_a_weight_that_is_not_finite_is_refused(folder: Path, tmp_path: Path, role: str) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    backbone.save_adapter(broken := tmp_path / "v1")
    weights = load_file(broken / "adapter_model.safetensors")
    name = next(iter(weights))
    weights[name][0, 0] = float("nan")
    save_file(weights, broken / "adapter_model.safetensors")
    with pytest.raises(AdapterBroken, match=rf"v1.adapter_model\.safetensors .* aren't finite: 1 of .* in {name}"):
        if role == "judge":
            backbone.add_judge(broken, SETTINGS)
        else:
            given = (broken, None) if role == "parent" else (None, broken)
            Backbone.load(folder, SETTINGS, *given)


def test_a_parent_whose_files_have_different_ranks_is_refused_before_anything_is_said_of_it(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Backbone.load(folder, SETTINGS).save_adapter(parent := tmp_path / "v1")
    config = parent / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 16}))
    said = rf"v1: adapter_config\.json says rank 16 \(r\), and the weights .* have rank {SETTINGS.rank}\. Put both"
    with pytest.raises(AdapterBroken, match=said):
        Backbone.load(folder, SETTINGS, parent=parent)
    assert "It keeps" not in caplog.text
