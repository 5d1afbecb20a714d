"""What one way of computing log-probabilities is compared with: of which examples, by what, with which gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Sequences
from tests.learner.tiny_model import ids

ASKED = ids("<bos> what is the capital of france ?")
EXAMPLES = [
    (ASKED, ids("it is paris .", end=True)),
    (ids("<bos> one"), ids("two", end=True)),
    (ASKED, ids("perhaps rome", end=True)),
    (ids("<bos> two"), ()),
]


def graded(log_probs: Tensor, by: list[Tensor]) -> list[Tensor]:
    """The values, and the gradients of their sum with weights that differ."""
    weights = torch.linspace(-1, 2, log_probs.numel()).reshape(log_probs.shape)
    found = torch.autograd.grad((log_probs * weights).sum(), by, allow_unused=True, materialize_grads=True)
    return [log_probs.detach(), *found]


def padded_log_probs(backbone: Backbone, batch: Sequences) -> torch.Tensor:
    """By transformers itself, without any of ours: (B, T)."""
    logits = backbone.model(input_ids=batch.token_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    log_probs = logits.log_softmax(-1).gather(2, batch.token_ids[:, 1:, None]).squeeze(2)
    return torch.nn.functional.pad(log_probs, (1, 0)) * batch.reply_mask
