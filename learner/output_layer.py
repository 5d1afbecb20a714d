"""Log-probabilities, entropies and divergences from the anchor, from hidden states, a few positions at a time: (N, V)
logits are never there as a whole.

With 150,000 tokens in the vocabulary, the logits of two thousand reply tokens take 1.2 GB in float32, their softmax as
much and the gradients as much again. Here a chunk goes through output layer and softmax, and what is kept of it is a
number and the slope of that number for each position. As in Liger Kernel (arXiv 2410.10989, section 3.2) the slope is
found at once, in the forward pass: what is computed here depends on its own position's state alone, as in
∂ log p(y) / ∂ h = W_y - Σ_v p(v) W_v, so the backward pass only has to weigh it, and no logit is computed twice.

Departure: theirs is of a loss, whose weights have to be known beforehand; these are of each position by itself.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from learner.tensors import kl_of_top, top_log_probs

AT_ONCE = 1 << 24
"""Logits that are in memory together: 64 MiB in float32. Fewer make products with the output layer's weights slower."""
_LARGE = 64.0
"""Logits by which a soft cap would be seen: the caps of models are at 20 to 50."""
log = logging.getLogger("hone.learner")


class _Sloped(torch.autograd.Function):
    """Values of which the slopes by the states are known: (N, H), (N,), (N, H) → (N,)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(slopes)
        return values.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return (slopes * gradient.unsqueeze(1)).to(slopes.dtype), None, None


def log_probs_in_chunks(states: Tensor, token_ids: Tensor, layer: nn.Linear) -> Tensor:
    """Log-probability of each token in the state that predicts it: (N, H), (N,) → (N,), float32.

    Gradients reach the states alone: `layer` is a frozen one, such as `plain_output_layer` finds. No more than AT_ONCE
    logits are in memory, or those of one position.
    """
    log_probs = torch.empty(len(states), dtype=torch.float32, device=states.device)
    slopes = torch.empty_like(states) if torch.is_grad_enabled() and states.requires_grad else None
    with torch.no_grad():
        for part in _chunks(len(states), layer):
            spread, chosen = _log_softmax(layer(states[part])), token_ids[part, None]  # (n, V), (n, 1)
            log_probs[part] = spread.gather(1, chosen).squeeze(1)
            if slopes is not None:
                rise = spread.exp_().neg_()
                rise.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=rise.dtype))
                torch.mm(rise.to(layer.weight.dtype), layer.weight, out=slopes[part])
    return log_probs if slopes is None else _sloped(states, log_probs, slopes)


def log_probs_and_entropies_in_chunks(states: Tensor, token_ids: Tensor, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """As `log_probs_in_chunks`, and the entropy, in nats, of the distribution at each position: (N,) both."""
    log_probs, entropies = torch.empty(2, len(states), dtype=torch.float32, device=states.device)
    has_slopes = torch.is_grad_enabled() and states.requires_grad
    slopes, of_entropies = (torch.empty_like(states) if has_slopes else None for _ in range(2))
    with torch.no_grad():
        for part in _chunks(len(states), layer):
            spread, chosen = _log_softmax(layer(states[part])), token_ids[part, None]  # (n, V), (n, 1)
            log_probs[part] = spread.gather(1, chosen).squeeze(1)
            p = spread.exp_()
            surprises = torch.special.entr(p)  # -p log p, and 0 where p is
            entropies[part] = surprises.sum(1)
            if slopes is not None and of_entropies is not None:  # ∂ entropy / ∂ logit is -p · (log p + entropy)
                rise = surprises.addcmul_(p, entropies[part, None], value=-1)
                torch.mm(rise.to(layer.weight.dtype), layer.weight, out=of_entropies[part])
                rise = p.neg_()
                rise.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=rise.dtype))
                torch.mm(rise.to(layer.weight.dtype), layer.weight, out=slopes[part])
    if slopes is None or of_entropies is None:
        return log_probs, entropies
    return _sloped(states, log_probs, slopes), _sloped(states, entropies, of_entropies)


def pull_to_anchor_in_chunks(
    states: Tensor, states_anchor: Tensor, layer: nn.Linear, stay: float | Tensor, sharpen: float
) -> tuple[Tensor, dict[str, float]]:
    """`learner.tensors.pull_to_anchor` of what the output layer makes of the states of policy and anchor, (N, H) both.

    Gradients reach the policy's states alone. No more than AT_ONCE logits of each are in memory.
    """
    if len(states) == 0:
        return states.sum(), {"kl": 0.0, "surprise": 0.0}
    stay = torch.as_tensor(stay, dtype=torch.float32, device=states.device).expand(len(states))
    costs, kl, surprise = torch.empty(3, len(states), dtype=torch.float32, device=states.device)
    slopes = torch.empty_like(states) if torch.is_grad_enabled() and states.requires_grad else None
    with torch.no_grad():
        for part in _chunks(len(states), layer):
            log_p, log_q = _log_softmax(layer(states[part])), _log_softmax(layer(states_anchor[part]))  # (n, V) both
            p = log_p.exp()
            kl[part], surprise[part] = (p * (log_p - log_q)).sum(-1), -(p * log_q).sum(-1)
            costs[part] = stay[part] * kl[part] + sharpen * surprise[part]
            if slopes is not None:  # ∂ cost / ∂ logit is p · (what the token costs - what all do on average)
                each = log_p.sub_(log_q).mul_(stay[part, None]).sub_(log_q, alpha=sharpen)
                rise = each.sub_(costs[part, None]).mul_(p)
                torch.mm(rise.to(layer.weight.dtype), layer.weight, out=slopes[part])
    pull = (costs if slopes is None else _sloped(states, costs, slopes)).mean()
    return pull, {"kl": kl.mean().item(), "surprise": surprise.mean().item()}


def kl_top_in_chunks(states: Tensor, top_ids: Tensor, top_anchor: Tensor, layer: nn.Linear) -> Tensor:
    """`learner.tensors.kl_top` of what the output layer makes of the states: (N, H), (N, K), (N, K) → (N,).

    Gradients reach the states alone. No more than AT_ONCE logits are in memory.
    """
    kl = torch.empty(len(states), dtype=torch.float32, device=states.device)
    slopes = torch.empty_like(states) if torch.is_grad_enabled() and states.requires_grad else None
    with torch.no_grad():
        for part in _chunks(len(states), layer):
            spread, chosen = _log_softmax(layer(states[part])), top_ids[part]  # (n, V), (n, K)
            with torch.set_grad_enabled(slopes is not None):
                top = spread.gather(1, chosen).requires_grad_(slopes is not None)
                kl_of_part = kl_of_top(top, top_anchor[part], has_rest=top_ids.shape[1] < layer.out_features)
            kl[part] = kl_of_part.detach()
            if slopes is not None:  # ∂ log p(k) / ∂ logit is 1 at k, less p everywhere
                (by_top,) = torch.autograd.grad(kl_of_part, top, torch.ones_like(kl_of_part))
                rise = spread.exp_().mul_(-by_top.sum(1, keepdim=True)).scatter_add_(1, chosen, by_top)
                torch.mm(rise.to(layer.weight.dtype), layer.weight, out=slopes[part])
    return kl if slopes is None else _sloped(states, kl, slopes)


@torch.no_grad()
def top_log_probs_in_chunks(states: Tensor, count: int, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """`learner.tensors.top_log_probs` of what the output layer makes of the states, without gradients: (N, H) → (N, K)
    ids, (N, K). No more than AT_ONCE logits are in memory."""
    shape = len(states), min(count, layer.out_features)
    token_ids = torch.empty(shape, dtype=torch.long, device=states.device)
    values = torch.empty(shape, dtype=torch.float32, device=states.device)
    for part in _chunks(len(states), layer):
        token_ids[part], values[part] = top_log_probs(layer(states[part]), count)
    return token_ids, values


@torch.no_grad()
def plain_output_layer(model: Any) -> nn.Linear | None:
    """The layer that makes logits of what the decoder gives back, where nothing else does anything to either.

    None where it is not frozen, quantised or part of an adapter, and where the model is seen to scale or to cap what
    goes in or comes out. `model`: a causal language model of transformers, without PEFT's wrapper.
    """
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear or not layer.weight.dtype.is_floating_point or layer.weight.requires_grad:
        return None
    seen: dict[str, Tensor] = {}

    def exchange(_: nn.Module, given: tuple[Tensor], made: Tensor) -> Tensor:
        seen["given"] = given[0]
        seen["made"] = _LARGE * torch.linspace(-1, 1, made.numel()).reshape(made.shape).to(made)
        return seen["made"]

    hook = layer.register_forward_hook(exchange)
    tokens = [place % model.config.get_text_config().vocab_size for place in range(5, 13)]
    token_ids = torch.tensor([tokens], device=model.device)
    try:
        logits = model(input_ids=token_ids, use_cache=False).logits
        states = model.get_decoder()(input_ids=token_ids, use_cache=False).last_hidden_state
        if torch.equal(logits, seen["made"].to(logits)) and torch.allclose(states, seen["given"], 1e-2, 1e-3):
            return layer
        log.debug("The model's logits are more than what its output layer makes of its states: they are kept whole.")
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        log.debug("The model's output layer can't be told from its decoder (%s): logits are kept whole.", error)
    finally:
        hook.remove()
    return None


def _chunks(positions: int, layer: nn.Linear) -> list[slice]:
    """Positions whose logits may be in memory together."""
    size = max(1, AT_ONCE // layer.out_features)
    return [slice(start, start + size) for start in range(0, positions, size)]


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities of all tokens: (n, V) → (n, V), float32."""
    return torch.log_softmax(logits.float(), dim=-1)


def _sloped(states: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
    sloped: Tensor = _Sloped.apply(states, values, slopes)  # type: ignore[no-untyped-call]  # torch leaves it
    return sloped
