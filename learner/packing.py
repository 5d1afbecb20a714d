"""Many sequences in one row of tokens: nothing is padded, and a prompt that several replies share is computed once.

A row is cut into segments, and attention stays within each. A segment is one sequence, or a prompt followed by all its
replies, each of which sees the prompt and itself. The first comes from packing as in BERT-like pre-training without
cross-contamination (arXiv 2107.02027), the second is the tree mask of SpecInfer (arXiv 2305.09781) on a tree of depth
two.

On a CPU each segment is attended to by itself (`learner.segments`). On a GPU the whole row is one call of
FlashAttention (arXiv 2307.08691) for sequences of different lengths: it takes stretches of queries and of keys, and a
reply's keys are the prompt's and its own, so that nothing unseen is computed. That kernel is for half precision; a
model in float32 is padded there.

For training, without a cache; with one, and for batches that are padded, this attention is that of `sdpa`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from learner.batch import Sequences, collate
from learner.last_layer import only_at
from learner.segments import Segment, attend_segments

PACKED = "packed"
"""Name of this attention among those of transformers."""
NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)
"""Says to transformers that a mask is there already, so that none is made; packed rows look at none."""
AGREED = 0.02
"""Nats per token that a packed row may differ from a padded one."""
HALF_AGREED = 1 / 32
"""The same of a model in half precision, as a share of its largest logit: a few units in the last place of bfloat16."""
log = logging.getLogger("hone.learner")
_NOT_KNOWN = ("sliding_window", "softcap", "s_aux")


@dataclass(frozen=True)
class Stretches:
    """A row for FlashAttention: S stretches of queries, each with the keys that it sees. The last query of a stretch
    sees all its keys, each before it one less."""

    query_starts: Tensor  # (S + 1,) int32, with the end of the last
    key_starts: Tensor  # (S + 1,) int32, likewise
    longest_query: int
    longest_keys: int
    keys: Tensor | None  # (keys of all stretches,) their places in the row; None: the queries' own

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device) -> Stretches:
        """Of a row of these segments."""
        queries, seen, keys = list[int](), list[int](), list[int]()
        start = 0
        for segment in segments:
            prompt = range(start, start + segment.prompt)
            start += segment.length
            replies = [range(*ends) for ends in pairwise(accumulate(segment.replies, initial=prompt.stop))]
            alone = [(prompt, prompt)] if prompt else []
            for part, sees in [*alone, *((reply, (*prompt, *reply)) for reply in replies)]:
                queries.append(len(part))
                seen.append(len(sees))
                keys += sees
        query_starts, key_starts = (
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device) for lengths in (queries, seen)
        )
        shares = any(segment.replies for segment in segments)
        places = torch.tensor(keys, device=device) if shares else None
        return cls(query_starts, key_starts, max(queries), max(seen), places)


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

    def to(self, device: torch.device) -> Packed:
        """The same with its tensors there."""
        tensors: dict[str, Any] = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **tensors)


def pack(sequences: Sequences, ends: bool = False) -> Packed:
    """Leave out padding, each row's last token, which predicts nothing (with `ends` it stays), and all but one of equal
    prompts.

    A row's prompt is what stands before its first reply token; a row without a reply adds nothing. The very first token
    of a sequence is predicted by nothing and isn't among the targets.
    """
    families: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    wanted: dict[int, list[int]] = {}  # of each row the places of the reply tokens that something predicts
    for row, mask in enumerate(sequences.reply_mask[:, 1:].tolist()):
        if places := [place for place, is_reply in enumerate(mask, start=1) if is_reply]:
            wanted[row] = places
            families[tuple(sequences.token_ids[row, : places[0]].tolist())].append(row)
    token_ids, positions, segments = list[int](), list[int](), list[Segment]()
    predictors: dict[int, list[int]] = {}
    last: dict[int, int] = {}
    for prompt, rows in families.items():
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
        segments.append(Segment(len(prompt) + sum(lengths), tuple(lengths) if len(lengths) > 1 else ()))
    every = [place for row in wanted for place in predictors[row]]
    scored, predicts = torch.tensor(every, dtype=torch.long).unique(return_inverse=True)
    targets = [int(sequences.token_ids[row, place]) for row, places in wanted.items() for place in places]
    rows_of = [row for row, places in wanted.items() for _ in places]
    return Packed(
        torch.tensor([token_ids], dtype=torch.long), torch.tensor([positions], dtype=torch.long), tuple(segments),
        scored, predicts, torch.tensor(targets, dtype=torch.long), torch.tensor(rows_of, dtype=torch.long),
        torch.tensor([last[row] for row in wanted] if ends else [], dtype=torch.long),
    )  # fmt: skip


def _attend(
    module: nn.Module,
    query: Tensor,  # (B, heads, T, D)
    key: Tensor,  # (B, kv_heads, T, D)
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    segments: Sequence[Sequence[Segment]] | None = None,
    stretches: Stretches | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention within each segment: `segments` of every row, in order, or `stretches` of the only one.

    Raises ValueError for what it doesn't compute.
    """
    if segments is None and stretches is None:
        result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return result
    if unknown := [name for name in _NOT_KNOWN if more.get(name) is not None]:
        raise ValueError(f"Packed rows know no {unknown[0]}; pad them.")
    if stretches is not None:
        return _attend_stretches(query, key, value, scaling, stretches), None
    assert segments is not None
    return attend_segments(query, key, value, scaling, segments), None


def _attend_stretches(query: Tensor, key: Tensor, value: Tensor, scaling: float, stretches: Stretches) -> Tensor:
    if query.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError("FlashAttention computes in half precision; pad the rows.")
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # (T, heads, D)
    if stretches.keys is not None:
        k, v = k[stretches.keys], v[stretches.keys]
    attended = varlen_attn(
        q, k, v, stretches.query_starts, stretches.key_starts, stretches.longest_query, stretches.longest_keys,
        scale=scaling, window_size=(-1, 0), enable_gqa=True,
    )  # fmt: skip
    assert isinstance(attended, Tensor)
    return attended.unsqueeze(0)  # (1, T, heads, D)


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def predicting_logits(model: Any, packed: Packed) -> Tensor:
    """The logits that predict every reply token: (R, V). `model`: a causal language model with this attention."""
    output = model(**_given(packed), logits_to_keep=packed.scored)
    logits: Tensor = output.logits[0, packed.predicts]
    return logits


def hidden_states(decoder: Any, packed: Packed, places: Tensor, feed_forward: nn.Module | None = None) -> Tensor:
    """What the model's last layer makes of the tokens at `places` (M,), each once: (M, H).

    `decoder`: the model without its output layer; `feed_forward`: as `learner.last_layer` finds it.
    """
    with only_at(feed_forward, places):
        states: Tensor = decoder(**_given(packed)).last_hidden_state[0]
    return states[places]


def _given(packed: Packed) -> dict[str, Any]:
    """What a model takes of it."""
    device = packed.token_ids.device
    if device.type == "cpu":
        attention: dict[str, Any] = {"segments": [packed.segments]}
    else:
        attention = {"stretches": Stretches.of(packed.segments, device)}
    inputs = {"input_ids": packed.token_ids, "position_ids": packed.position_ids}
    return inputs | attention | {"attention_mask": NO_MASK, "use_cache": False}


@torch.no_grad()
def try_packing(model: Any) -> bool:
    """Give a model this attention, and see whether it computes the same with it; if not it keeps the one it had.

    Not, for instance, a model with attention in sliding windows, or with layers that carry a state from token to token.
    """
    had = model.config._attn_implementation
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if had != "sdpa" or model.device.type not in ("cpu", "cuda") or layers != {"full_attention"}:
        return False
    tokens = [place % config.vocab_size for place in range(5, 29)]
    batch = collate([(tokens[:6], tokens[6:9]), (tokens[:6], tokens[9:16]), (tokens[16:19], tokens[19:])], 0)
    packed, batch = pack(batch).to(model.device), batch.to(model.device)
    try:
        padded = model(input_ids=batch.token_ids, attention_mask=batch.attention_mask).logits[:, :-1]
        expected = padded[batch.reply_mask[:, 1:]].float()
        model.set_attn_implementation(PACKED)
        found = predicting_logits(model, packed)
        agreed = AGREED if found.dtype == torch.float32 else max(AGREED, HALF_AGREED * float(expected.abs().max()))
        if (found.float().log_softmax(-1) - expected.log_softmax(-1)).abs().max() < agreed:
            return True
        log.debug("The model answers packed rows otherwise than padded ones: they are padded.")
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        log.debug("The model takes no packed rows (%s): they are padded.", error)
    model.set_attn_implementation(had)
    return False
