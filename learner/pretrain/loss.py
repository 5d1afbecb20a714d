"""The loss that the built-in model is trained on, and the precision of its products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from learner.pretrain.corpus import Rows
from learner.pretrain.forward import hidden_states


def batch_loss(model: LlamaForCausalLM, rows: Rows, fused: bool = False) -> torch.Tensor:
    """Weighted sum of the cross-entropies of a packed batch; attention stays within each dialogue."""
    ids = torch.from_numpy(rows.ids)  # (B, T)
    hidden = hidden_states(model, rows, fused)  # (B, T, H)
    weights = torch.from_numpy(rows.weights)[:, 1:]  # (B, T-1)
    picked = weights > 0
    logits = model.lm_head(hidden[:, :-1][picked])  # (N, V)
    losses = F.cross_entropy(logits.float(), ids[:, 1:][picked], reduction="none")  # (N,)
    return (losses * weights[picked]).sum()


def fast_products() -> torch.autocast:
    """Matrix products in bfloat16, where that is faster (about twice)."""
    able = torch.cpu.get_capabilities()
    fast = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.autocast("cpu", torch.bfloat16, enabled=fast)
