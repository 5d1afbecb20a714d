"""The distributions that predict the reply tokens of a batch, and what losses ask of them, in little memory.

    policy = backbone.predictions(batch)
    log_probs = policy.log_probs()  # (N,)
    pull, metrics = policy.pull_to(backbone.predictions(batch, "anchor"), stay=0.02, sharpen=0.03)

What is kept of each is the hidden state, from which logits come a few positions at a time; the logits themselves only
where the model's output layer isn't known to be all that makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from learner.output_layer import (
    kl_top_in_chunks,
    log_probs_and_entropies_in_chunks,
    log_probs_in_chunks,
    pull_to_anchor_in_chunks,
    top_log_probs_in_chunks,
)
from learner.policy_losses import entropy
from learner.tensors import kl_top, pull_to_anchor, token_log_probs, top_log_probs


@dataclass(frozen=True)
class Predictions:
    """Of N reply tokens. `layer`: makes logits of `states`, and is frozen; None where these are logits already."""

    token_ids: Tensor  # (N,)
    rows: Tensor  # (N,) which of the batch each token belongs to
    states: Tensor  # (N, H), or (N, V)
    layer: nn.Linear | None

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, mask: Tensor) -> Predictions:
        """Those where `mask`, (N,), is True."""
        return replace(self, token_ids=self.token_ids[mask], rows=self.rows[mask], states=self.states[mask])

    def log_probs(self) -> Tensor:
        """Log-probability of each token: (N,), float32."""
        if self.layer is None:
            return token_log_probs(self.states, self.token_ids)
        return log_probs_in_chunks(self.states, self.token_ids, self.layer)

    def log_probs_and_entropies(self) -> tuple[Tensor, Tensor]:
        """Log-probability of each token, and the entropy of what predicts it, in nats: (N,) both, float32."""
        if self.layer is None:
            return token_log_probs(self.states, self.token_ids), entropy(self.states)
        return log_probs_and_entropies_in_chunks(self.states, self.token_ids, self.layer)

    def reply_log_probs(self, count: int) -> Tensor:
        """Log-probability of the whole reply of each of the batch's `count` rows: (count,), float32; 0 without one."""
        log_probs = self.log_probs()
        return log_probs.new_zeros(count).index_add(0, self.rows, log_probs)

    def pull_to(self, anchor: Predictions, stay: float | Tensor, sharpen: float) -> tuple[Tensor, dict[str, float]]:
        """`learner.tensors.pull_to_anchor`, where `anchor` predicts the same tokens."""
        if self.layer is None:
            return pull_to_anchor(self.states, anchor.states, stay, sharpen)
        return pull_to_anchor_in_chunks(self.states, anchor.states, self.layer, stay, sharpen)

    def top_log_probs(self, count: int) -> tuple[Tensor, Tensor]:
        """`learner.tensors.top_log_probs` of each distribution, without gradients: (N, K) ids, (N, K)."""
        if self.layer is None:
            return top_log_probs(self.states.detach(), count)
        return top_log_probs_in_chunks(self.states, count, self.layer)

    def kl_top(self, top_ids: Tensor, top_anchor: Tensor) -> Tensor:
        """`learner.tensors.kl_top` from what the anchor gave each of these tokens: (N, K) both → (N,), nats."""
        if self.layer is None:
            return kl_top(self.states, top_ids, top_anchor)
        return kl_top_in_chunks(self.states, top_ids, top_anchor, self.layer)
