"""Many sequences in one row of tokens: nothing is padded, and a prompt that several replies share is computed once.

A row is cut into segments, and attention stays within each. A segment is one sequence, or a prompt followed by all its
replies, each of which sees the prompt and itself. What can't be seen is never computed, but for the replies of a shared
prompt, where a mask hides it. The first comes from packing as in BERT-like pre-training without cross-contamination
(arXiv 2107.02027), the second is the tree mask of SpecInfer (arXiv 2305.09781) on a tree of depth two.

For training on a CPU, without a cache; with one, and for batches that are padded, this attention is that of `sdpa`.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from learner.batch import Sequences, collate

PACKED = "packed"
"""Name of this attention among those of transformers."""
NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)
"""Says to transformers that a mask is there already, so that none is made; packed rows look at none."""
AGREED = 0.02
"""Nats per token that a packed row may differ from a padded one, where a model computes in half precision."""
log = logging.getLogger("hone.learner")
MOST_SHARING = 1024
"""Tokens of replies after which a shared prompt is computed once more: the mask of a segment grows with its square."""
_NOT_KNOWN = ("sliding_window", "softcap", "s_aux")


@dataclass(frozen=True)
class Segment:
    """So many tokens of a row, which see each other and no others."""

    length: int
    sees: Tensor | None = None  # (length, length) bool, row by row; None: each token sees those up to itself


@dataclass(frozen=True)
class Packed:
    """The tokens from which the replies of a batch are predicted, R reply tokens in all, in the order of the batch."""

    token_ids: Tensor  # (1, N)
    position_ids: Tensor  # (1, N)
    segments: tuple[Segment, ...]
    scored: Tensor  # (M,) the places that predict a reply token, each once
    predicts: Tensor  # (R,) for every reply token which of `scored` predicts it
    targets: Tensor  # (R,) the reply tokens
    rows: Tensor  # (R,) the row of the batch that each belongs to
    ends: Tensor  # (rows with a reply,) the place of each one's last reply token; empty where those were left out


def pack(sequences: Sequences, ends: bool = False) -> Packed:
    """Leave out padding, each row's last token, which predicts nothing (with `ends` it stays), and all but one of equal
    prompts.

    A row's prompt is what stands before its first reply token; a row without a reply adds nothing. The very first token
    of a sequence is predicted by nothing and isn't among the targets.
    """
    families: defaultdict[tuple[tuple[int, ...], int], list[int]] = defaultdict(list)
    sharing: Counter[tuple[int, ...]] = Counter()  # tokens of all the replies to a prompt so far
    wanted: dict[int, list[int]] = {}  # of each row the places of the reply tokens that something predicts
    for row, mask in enumerate(sequences.reply_mask[:, 1:].tolist()):
        if places := [place for place, is_reply in enumerate(mask, start=1) if is_reply]:
            wanted[row] = places
            prompt = tuple(sequences.token_ids[row, : places[0]].tolist())
            families[prompt, sharing[prompt] // MOST_SHARING].append(row)
            sharing[prompt] += places[-1] - places[0]
    token_ids, positions, segments = list[int](), list[int](), list[Segment]()
    predictors: dict[int, list[int]] = {}
    last: dict[int, int] = {}
    for (prompt, _), rows in families.items():
        start = len(token_ids)
        token_ids += prompt
        positions += range(len(prompt))
        lengths = []
        for row in rows:
            places = wanted[row]
            reply = sequences.token_ids[row, len(prompt) : places[-1] + ends].tolist()
            first = len(token_ids) - len(prompt)  # place p of this row stands at first + p, or in the prompt
            predictors[row] = [(start if place <= len(prompt) else first) + place - 1 for place in places]
            last[row] = first + places[-1]
            token_ids += reply
            positions += range(len(prompt), len(prompt) + len(reply))
            lengths.append(len(reply))
        segments.append(_segment(len(prompt), lengths))
    every = [place for row in wanted for place in predictors[row]]
    scored, predicts = torch.tensor(every, dtype=torch.long).unique(return_inverse=True)
    targets = [int(sequences.token_ids[row, place]) for row, places in wanted.items() for place in places]
    rows_of = [row for row, places in wanted.items() for _ in places]
    return Packed(
        torch.tensor([token_ids], dtype=torch.long), torch.tensor([positions], dtype=torch.long), tuple(segments),
        scored, predicts, torch.tensor(targets, dtype=torch.long), torch.tensor(rows_of, dtype=torch.long),
        torch.tensor([last[row] for row in wanted] if ends else [], dtype=torch.long),
    )  # fmt: skip


def _segment(prompt: int, replies: Sequence[int]) -> Segment:
    length = prompt + sum(replies)
    if len(replies) == 1:
        return Segment(length)
    sees = torch.zeros(length, length, dtype=torch.bool)
    sees[:, :prompt] = True
    for start, end in pairwise(accumulate(replies, initial=prompt)):
        sees[start:end, start:end] = True
    return Segment(length, sees.tril())


def _attend(
    module: nn.Module,
    query: Tensor,  # (B, heads, T, D)
    key: Tensor,  # (B, kv_heads, T, D)
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    segments: Sequence[Sequence[Segment]] | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention within each segment (`segments`: of every row, in order), in float32: the backward pass of torch's
    kernel is slower in bfloat16 for sequences this short. Raises ValueError for what it doesn't compute.
    """
    if segments is None:
        result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return result
    if unknown := [name for name in _NOT_KNOWN if more.get(name) is not None]:
        raise ValueError(f"Packed rows know no {unknown[0]}; pad them.")
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    rows = []
    for parts, *row in zip(segments, query.split(1), key.split(1), value.split(1), strict=True):
        q, k, v = (x.float().split([part.length for part in parts], 2) for x in row)
        with torch.autocast("cpu", enabled=False):
            attended = [
                F.scaled_dot_product_attention(*qkv, part.sees, is_causal=part.sees is None, scale=scaling)
                for part, qkv in zip(parts, zip(q, k, v, strict=True), strict=True)
            ]
        rows.append(torch.cat(attended, 2))
    return torch.cat(rows).transpose(1, 2).to(query.dtype), None  # (B, T, heads, D)


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def predicting_logits(model: Any, packed: Packed) -> Tensor:
    """The logits that predict every reply token: (R, V). `model`: a causal language model with this attention."""
    output = model(
        input_ids=packed.token_ids, position_ids=packed.position_ids, attention_mask=NO_MASK, use_cache=False,
        segments=[packed.segments], logits_to_keep=packed.scored,
    )  # fmt: skip
    logits: Tensor = output.logits[0, packed.predicts]
    return logits


def hidden_states(decoder: Any, packed: Packed) -> Tensor:
    """What the model's last layer makes of every token: (N, H). `decoder`: the model without its output layer."""
    states: Tensor = decoder(
        input_ids=packed.token_ids, position_ids=packed.position_ids, attention_mask=NO_MASK, use_cache=False,
        segments=[packed.segments],
    ).last_hidden_state[0]  # fmt: skip
    return states


@torch.no_grad()
def try_packing(model: Any) -> bool:
    """Give a model this attention, and see whether it computes the same with it; if not it keeps the one it had.

    Not, for instance, a model with attention in sliding windows, or with layers that carry a state from token to token.
    """
    had = model.config._attn_implementation
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if had != "sdpa" or model.device.type != "cpu" or layers != {"full_attention"}:
        return False
    tokens = [place % config.vocab_size for place in range(5, 29)]
    batch = collate([(tokens[:6], tokens[6:9]), (tokens[:6], tokens[9:16]), (tokens[16:19], tokens[19:])], 0)
    try:
        padded = model(input_ids=batch.token_ids, attention_mask=batch.attention_mask).logits[:, :-1]
        expected = padded[batch.reply_mask[:, 1:]].float().log_softmax(-1)
        model.set_attn_implementation(PACKED)
        found = predicting_logits(model, pack(batch)).float().log_softmax(-1)
        if (found - expected).abs().max() < AGREED:
            return True
        log.debug("The model answers packed rows otherwise than padded ones: they are padded.")
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        log.debug("The model takes no packed rows (%s): they are padded.", error)
    model.set_attn_implementation(had)
    return False
