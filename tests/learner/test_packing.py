"""Packed rows and rows with a shared prompt give the log-probabilities and gradients of padded ones, and cost less."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learner.backbone import Backbone
from learner.batch import Sequences, collate
from learner.packing import PACKED, Stretches, pack, try_packing
from learner.segments import Segment
from tests.learner.log_probabilities import padded_log_probs
from tests.learner.tiny_backbone import SETTINGS, moved
from tests.learner.tiny_model import PAD, WORDS, build_tiny_model

SIZES = {"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
TOKENS = st.lists(st.integers(3, len(WORDS) - 1), min_size=1, max_size=9).map(tuple)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return moved(Backbone.load(build_tiny_model(tmp_path_factory.mktemp("tiny")), SETTINGS))


def check(backbone: Backbone, batch: Sequences) -> None:
    weights = torch.linspace(-1, 1, batch.token_ids.numel()).reshape(batch.token_ids.shape)
    found = []
    for log_probs in (backbone.log_probs(batch), padded_log_probs(backbone, batch)):
        gradients = torch.autograd.grad((log_probs * weights).sum(), backbone.trainable(), allow_unused=True)
        found.append((log_probs.detach(), torch.cat([g.flatten() for g in gradients if g is not None])))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[0][1], found[1][1], atol=2e-4, rtol=1e-3)


@settings(max_examples=40)
@given(st.lists(st.tuples(TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=4), st.randoms())
def test_any_prompts_and_replies_in_any_order(
    backbone: Backbone, asked: list[tuple[tuple[int, ...], list[tuple[int, ...]]]], rng: object
) -> None:
    examples = [(prompt, reply) for prompt, replies in asked for reply in replies]
    rng.shuffle(examples)  # type: ignore[attr-defined]  # the strategy's Random
    check(backbone, collate(examples, PAD))


@pytest.mark.parametrize(
    "examples",
    [
        [((5, 6, 7), (8,)), ((5, 6, 7), (8,)), ((5, 6, 7), (9, 1))],  # equal replies; one token; EOS
        [((5,), (6, 7)), ((5, 6), (7,)), ((5, 6, 7), (8, 9, 1))],  # a prompt that begins another
        [((5, 6), ()), ((7,), (8, 9))],  # no reply
        [(tuple(3 + n % 40 for n in range(40)), tuple(3 + n % 40 for n in range(24)))],  # the whole window
    ],
)
def test_edges(backbone: Backbone, examples: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    check(backbone, collate(examples, PAD))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(1, 4), max_size=3)), min_size=1, max_size=4).filter(
        lambda parts: all(prompt or replies for prompt, replies in parts)
    )
)
def test_the_stretches_of_a_row_see_what_its_segments_see(parts: list[tuple[int, list[int]]]) -> None:
    """As FlashAttention reads them: the last query of a stretch sees all its keys, each before it one less."""
    segments = [Segment(prompt + sum(replies), tuple(replies)) for prompt, replies in parts]
    length = sum(segment.length for segment in segments)
    expected = torch.block_diag(
        *(torch.ones(s.length, s.length).tril() if s.mask is None else s.mask.float() for s in segments)
    ).bool()
    row = Stretches.of(segments, torch.device("cpu"))
    keys = torch.arange(length) if row.keys is None else row.keys
    found = torch.zeros(length, length, dtype=torch.bool)
    pairs = zip(pairwise(row.query_starts.tolist()), pairwise(row.key_starts.tolist()), strict=True)
    for (first, end), (first_key, end_key) in pairs:
        for query in range(first, end):
            found[query, keys[first_key : end_key - (end - 1 - query)]] = True
        assert (end - first <= row.longest_query, end_key - first_key <= row.longest_keys) == (True, True)
    assert torch.equal(found, expected)


def test_a_reply_in_pieces_and_a_reply_without_a_prompt(backbone: Backbone) -> None:
    """Masks as no `collate` makes them: turns of the user between those that are scored, and all from the first."""
    batch = collate([((5, 6), (7, 8, 9, 10, 11)), ((12,), (13, 14, 15))], PAD)
    batch.reply_mask[0, 4] = False
    batch.reply_mask[1, 0] = True
    found = backbone.log_probs(batch).detach()
    batch.reply_mask[:, 0] = False  # nothing predicts the first token
    torch.testing.assert_close(found, padded_log_probs(backbone, batch).detach(), atol=1e-4, rtol=0)


def test_nothing_is_padded_and_a_shared_prompt_is_there_once() -> None:
    prompt = tuple(range(3, 23))
    batch = collate([(prompt, (30, 1)), ((5, 6), (31, 32, 33, 1)), (prompt, (34, 35, 1))], PAD)
    packed = pack(batch)
    assert packed.token_ids.tolist() == [[*prompt, 30, 34, 35, 5, 6, 31, 32, 33]]
    assert packed.position_ids[0, 20:].tolist() == [20, 20, 21, 0, 1, 2, 3, 4]
    assert packed.targets.tolist() == [30, 1, 31, 32, 33, 1, 34, 35, 1]
    assert packed.rows.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert len(packed.scored) == 8  # the end of the prompt predicts two


def test_a_prompt_is_there_once_however_long_its_replies_are_together(backbone: Backbone) -> None:
    """And attended to in blocks, so that its segment needs no mask."""
    draws = Random(0)
    replies = [tuple(draws.randrange(3, len(WORDS)) for _ in range(31)) for _ in range(40)]
    batch = collate([((5, 6, 7), (*reply, 1)) for reply in replies], PAD)
    (segment,) = pack(batch).segments
    assert segment == Segment(3 + 40 * 31, (31,) * 40)
    check(backbone, batch)


def test_a_model_whose_attention_is_another_keeps_its_own() -> None:
    torch.manual_seed(0)
    assert try_packing(Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)))
    learned_positions = GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    assert try_packing(GPT2LMHeadModel(learned_positions).eval())
    windowed = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))
    assert not try_packing(windowed)
    assert windowed.config._attn_implementation == "sdpa"
    eager = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None, attn_implementation="eager"))
    assert not try_packing(eager)
    chunked = Llama4ForCausalLM(Llama4TextConfig(**SIZES, head_dim=8, num_local_experts=1, attention_chunk_size=64))
    assert not try_packing(chunked)  # where rows are short it would answer the same
    short = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=8, n_embd=32, n_layer=2, n_head=4))
    assert not try_packing(short.eval())
    whole = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None))
    assert try_packing(whole)
    assert whole.config._attn_implementation == PACKED


def test_a_model_that_carries_a_state_from_token_to_token_is_found_out(backbone: Backbone) -> None:
    """Its layers would go on from one sequence into the next."""

    class Remembering(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(hidden)
            return found + hidden.cumsum(1)

    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8))
    model.model.layers[0].mlp = Remembering(model.model.layers[0].mlp)
    assert not try_packing(model)
