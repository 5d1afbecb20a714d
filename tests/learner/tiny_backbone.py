"""A backbone on the tiny model: its settings, what it is asked to score, and what a training leaves of it."""

from __future__ import annotations

import torch

from learner.backbone import Backbone
from service.settings import LearnerSettings
from tests.learner.tiny_model import ids

SETTINGS = LearnerSettings(rank=4, alpha=8.0)
EXAMPLES = [
    (ids("<bos> what is the capital of france ?"), ids("it is paris .", end=True)),
    (ids("<bos> one"), ids("two", end=True)),
]


def moved(backbone: Backbone, seed: int = 1, size: float = 0.2) -> Backbone:
    """The same backbone after a training that went somewhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.trainable():
            parameter.add_((torch.randn(parameter.shape, generator=generator) * size).to(parameter.device))
    return backbone
