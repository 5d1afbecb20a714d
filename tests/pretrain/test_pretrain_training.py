"""The tokenizer, the packing and the training loop, on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from learner.pretrain.corpus import batches
from learner.pretrain.dialogue import Message
from learner.pretrain.export import export
from learner.pretrain.loss import batch_loss
from learner.pretrain.muon import Muon, orthogonalise
from learner.pretrain.stream import dialogues
from learner.pretrain.tokenizer import END, KEY_WEIGHT, VERDICT_WEIGHT, encode_dialogue, train_tokenizer
from learner.pretrain.train import Recipe, build_model, lr_factor, practice_lr_factor, read_state, train

TINY = Recipe(hidden=32, layers=2, heads=2, kv_heads=1, intermediate=64, tokens_per_batch=512, max_steps=20,
              practice_steps=4)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(islice(dialogues(7), 800), vocab_size=500)


def test_digits_are_one_token_each_and_text_survives_the_round_trip(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("1024")[-4:] == ["1", "0", "2", "4"]
    for text in ("C-A-T, 12 plus 7!", "naïve café ☃", "  two  spaces"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_encoding_equals_the_chat_template_and_marks_what_the_assistant_writes(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for dialogue in islice(dialogues(8), 60):
        ids, weights = encode_dialogue(tokenizer, dialogue)
        messages = [{"role": m.role, "content": m.content} for m in dialogue]
        assert ids == tokenizer.apply_chat_template(messages, return_dict=False)
        text = tokenizer.decode([i for i, weight in zip(ids, weights, strict=True) if weight >= 1])
        assert text == "".join(m.content.strip() + END for m in dialogue if m.role == "assistant")


def test_the_tokens_of_an_answer_weigh_more(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, weights = encode_dialogue(
        tokenizer, [Message("user", "2 plus 3?"), Message("assistant", "It is 5, pal.", "5")]
    )
    assert [tokenizer.decode([i]).strip() for i, w in zip(ids, weights, strict=True) if w > 1] == ["5"]


def test_a_bare_verdict_weighs_most(tokenizer: PreTrainedTokenizerFast) -> None:
    thought = "A is short, B is long. Better: A"
    for reply, key, weight in (("Better: A", "A", VERDICT_WEIGHT), (thought, thought, KEY_WEIGHT)):
        ids, weights = encode_dialogue(tokenizer, [Message("user", "A or B?"), Message("assistant", reply, key)])
        heavy = [i for i, found in zip(ids, weights, strict=True) if found > 1]
        assert tokenizer.decode(heavy).strip() == key and max(weights) == weight


def test_packed_rows_hold_whole_dialogues_and_are_deterministic(tokenizer: PreTrainedTokenizerFast) -> None:
    first, again = (list(islice(batches(tokenizer, dialogues(1), 1024), 6)) for _ in range(2))
    skipped = next(iter(batches(tokenizer, dialogues(1), 1024, skip=5)))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.weights, b.weights)
    assert np.array_equal(skipped.ids, first[5].ids)
    for rows in first:
        starts = (rows.positions == 0) & (rows.documents > 0)
        assert (rows.ids[starts] == tokenizer.bos_token_id).all()
        assert (rows.weights[rows.documents == 0] == 0).all()
        assert starts.sum() == rows.documents.max(axis=1).sum()


def test_a_packed_loss_equals_the_sum_over_dialogues_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_model(TINY, tokenizer).eval()
    rows = next(iter(batches(tokenizer, dialogues(3), 512)))
    alone = 0.0
    for row in range(len(rows.ids)):
        for document in range(1, rows.documents[row].max() + 1):
            place = rows.documents[row] == document
            ids = torch.from_numpy(rows.ids[row, place])[None]  # (1, T)
            weights = torch.from_numpy(rows.weights[row, place])
            logits = model(input_ids=ids).logits[0]
            for t in range(1, ids.shape[1]):
                alone -= weights[t].item() * torch.log_softmax(logits[t - 1], -1)[ids[0, t]].item()
    assert batch_loss(model, rows).item() == pytest.approx(alone, rel=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of the compiler, which looks at it
def test_compiled_layers_have_the_loss_and_the_gradients_of_plain_ones(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = next(iter(batches(tokenizer, dialogues(3), 512)))
    found = []
    for fused in (False, True):
        model = build_model(TINY, tokenizer)
        loss = batch_loss(model, rows, fused)
        loss.backward()
        found.append([loss, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-3)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 16, 24), (2, 24, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.4


def test_muon_moves_a_matrix_against_its_gradient_and_refuses_a_closure() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    muon = Muon([weight], lr=0.1)
    weight.grad = torch.eye(4)
    muon.step()
    assert (weight.diagonal() < -0.05).all()
    with pytest.raises(ValueError, match="closure"):
        muon.step(lambda: 0.0)


def test_the_learning_rate_rises_holds_and_falls_to_zero() -> None:
    factors = [lr_factor(p, TINY) for p in (0.0, 0.01, 0.02, 0.4, 0.5, 0.75, 1.0)]
    assert factors == pytest.approx([0.02, 0.5, 1, 1, 1, 0.5, 0])
    again = [practice_lr_factor(p, TINY) for p in (0.0, 0.1, 0.5, 1.0)]
    assert again == pytest.approx([0.35 * share for share in (0.02, 0.9, 0.5, 0)])


def test_the_loss_falls_and_a_resumed_run_ends_with_the_same_weights(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    lines: list[str] = []
    whole = train(TINY, tokenizer, tmp_path / "whole", report=lines.append)
    for steps, practised in ((11, 0), (22, 2)):
        train(TINY, tokenizer, tmp_path / "parts", stop_after=steps)
        state = read_state(tmp_path / "parts")
        assert (state.step, state.practised) == (steps, practised)
    resumed = train(TINY, tokenizer, tmp_path / "parts")
    assert read_state(tmp_path / "parts").practised == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    with torch.no_grad():
        rows = next(iter(batches(tokenizer, dialogues(99), 1024)))
        assert batch_loss(whole, rows) < 0.9 * batch_loss(build_model(TINY, tokenizer), rows)
    metrics = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 20 and len(lines) == len(metrics)


def test_each_stage_ends_when_its_time_is_up(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    train(replace(TINY, replicas=1, fused=False, minutes=1e-6, practice_minutes=1e-6), tokenizer, tmp_path)
    state = read_state(tmp_path)
    assert (state.step, state.practised) == (2, 1)


def test_a_dialogue_that_begins_another_renders_to_its_beginning(tokenizer: PreTrainedTokenizerFast) -> None:
    long, _ = encode_dialogue(
        tokenizer, [Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Bye")]
    )
    short, _ = encode_dialogue(tokenizer, [Message("user", "Hi"), Message("assistant", "Hello.")])
    assert long[: len(short)] == short


def test_finished_weights_are_sharper_than_the_trained_ones_and_a_training_that_goes_on_from_them_begins_unsharpened(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trained = build_model(TINY, tokenizer).eval()
    ids = torch.tensor([[1, 5, 9, 4]])
    with torch.no_grad():
        before = trained(input_ids=ids).logits
        export(trained, tokenizer, tmp_path, sharpness=1.25)
        written = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        torch.testing.assert_close(written(input_ids=ids).logits, 1.25 * before, rtol=0.05, atol=0.02)
        going_on = build_model(replace(TINY, begin=str(tmp_path), sharpness=1.25), tokenizer)
        torch.testing.assert_close(going_on(input_ids=ids).logits, before, rtol=0.05, atol=0.02)
