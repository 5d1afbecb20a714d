"""How the tests read the cases, and what agreement is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from learner.adapted_model import HeadRole
from learner.backbone import Backbone
from learner.batch import Example, collate
from tests.learner.tiny_model import ids
from tests.reference.cases import LABELS, PAIRS

CLOSE = 1e-5
CHOSEN: list[Example] = [(ids(prompt), ids(better)) for prompt, better, _ in PAIRS]
REJECTED: list[Example] = [(ids(prompt), ids(worse)) for prompt, _, worse in PAIRS]
LABELLED: list[Example] = [(ids(prompt), ids(reply)) for prompt, reply, _ in LABELS]


def assert_agrees(ours: Tensor, trls: Tensor) -> None:
    """To 1e-5, of the number itself or of 1 where it is smaller; losses and gradients are computed in float32."""
    torch.testing.assert_close(ours.detach(), trls, atol=CLOSE, rtol=CLOSE)


def assert_gradients_agree(backbone: Backbone, role: str, trls: Mapping[str, Tensor]) -> None:
    """Those that a loss's backward pass left at an adapter's weights, all of them."""
    ours = {
        name.replace(f".{role}.", "."): parameter.grad
        for name, parameter in backbone.model.named_parameters()
        if f".{role}." in name
    }
    assert ours.keys() == trls.keys() and trls
    largest = max(float(gradient.abs().max()) for gradient in trls.values())
    for name, gradient in ours.items():
        assert gradient is not None
        torch.testing.assert_close(gradient, trls[name], atol=CLOSE * max(1.0, largest), rtol=CLOSE)


def tokens_of(examples: list[Example]) -> list[int]:
    """All of them, without padding."""
    return [token for prompt, reply in examples for token in (*prompt, *reply)]


def unpadded(token_ids: Tensor, pad_id: int) -> list[int]:
    found: list[int] = token_ids[token_ids != pad_id].tolist()
    return found


def rewards(backbone: Backbone, examples: list[Example], role: HeadRole = "reward") -> Tensor:
    """The first head's."""
    return backbone.rewards(collate(examples, backbone.pad_id), role)[:, 0]
