"""The forward pass of a Llama over packed rows, cut where a compiler gains most.

Half the time of a model this small goes into normalisation, rotary embedding, activation and casts between its matrix
products. `torch.compile` fuses these with each other in both directions, where there is a C++ compiler; without one the
same functions run as they are written. What varies from batch to batch, attention within each dialogue, stays between
the compiled functions, so that each is compiled once for all layers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from learner.pretrain.corpus import Rows
from learner.segments import Segment, attend_segments


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864), the halves of a head paired as in Llama. `x`: (T, heads, D)."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _before_attention(
    x: Tensor, scale: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (T, heads, D) in float32, of the residual stream `x`: (T, H)."""
    normed = F.rms_norm(x, x.shape[-1:], scale, eps)
    query, key, value = (F.linear(normed, w).float().unflatten(-1, (-1, cos.shape[-1])) for w in (q, k, v))
    return _rotated(query, cos, sin), _rotated(key, cos, sin), value


def _after_attention(
    x: Tensor, attended: Tensor, out: Tensor, scale: Tensor, gate: Tensor, up: Tensor, down: Tensor, eps: float
) -> Tensor:
    """The residual stream after a layer, (T, H): attention's output is added, then the gated feed-forward network's."""
    x = x + F.linear(attended, out)
    normed = F.rms_norm(x, x.shape[-1:], scale, eps)
    return x + F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down)


@cache
def _functions(fused: bool) -> tuple[Callable[..., tuple[Tensor, Tensor, Tensor]], Callable[..., Tensor]]:
    if not fused or not (shutil.which("g++") or shutil.which("clang++")):
        return _before_attention, _after_attention
    options: dict[str, str | int | bool | Callable[..., Any]] = {"cpp.threads": 1}
    return (torch.compile(_before_attention, fullgraph=True, dynamic=False, options=options),
            torch.compile(_after_attention, fullgraph=True, dynamic=False, options=options))  # fmt: skip


def hidden_states(model: LlamaForCausalLM, rows: Rows, fused: bool = False) -> Tensor:
    """What the last layer makes of every token, normalised: (B, T, H). Attention stays within each dialogue.

    `fused`: compiled, for one thread.
    """
    before, after = _functions(fused)
    decoder, (batch, length) = model.model, rows.ids.shape
    x = decoder.embed_tokens(torch.from_numpy(rows.ids).flatten())  # (B T, H)
    positions = torch.from_numpy(rows.positions).view(1, -1)
    with torch.autocast("cpu", enabled=False):
        cos, sin = (part[0].unsqueeze(1) for part in decoder.rotary_emb(x, positions))  # (B T, 1, D)
    segments = [[Segment(tokens) for row in rows.lengths for tokens in row]]
    for layer in decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        norm, next_norm = layer.input_layernorm, layer.post_attention_layernorm
        qkv = before(
            x, norm.weight, attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight, cos, sin,
            norm.variance_epsilon,
        )  # fmt: skip
        query, key, value = (states.transpose(0, 1).unsqueeze(0) for states in qkv)  # (1, heads, B T, D)
        attended = attend_segments(query, key, value, attention.scaling, segments)  # (1, B T, heads, D)
        x = after(
            x, attended[0].flatten(1), attention.o_proj.weight, next_norm.weight, mlp.gate_proj.weight,
            mlp.up_proj.weight, mlp.down_proj.weight, next_norm.variance_epsilon,
        )  # fmt: skip
    states: Tensor = decoder.norm(x).view(batch, length, -1)
    return states
