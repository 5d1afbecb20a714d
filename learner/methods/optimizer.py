"""One optimizer step that survives a bad batch, and the check that examples fit the model: shared by the methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from learner.batch import Demonstration, Label, Pair, Scored
from service.errors import TrainingFailed

MOST_BAD_STEPS = 5
MAX_GRADIENT_NORM = 1.0

Example = TypeVar("Example", Demonstration, Pair, Label, Scored)


class Stepper:
    """AdamW with warm-up and clipping. A step whose loss or gradient is not finite is skipped and counted.

    Raises TrainingFailed after MOST_BAD_STEPS such steps in a row.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float, warmup: int = 0) -> None:
        self._parameters = list(parameters)
        self._optimizer = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=0.0, betas=(0.9, 0.99))
        self._learning_rate, self._warmup = learning_rate, warmup
        self._steps = self._bad_in_a_row = 0
        self.skipped = 0

    def step(self, loss: Tensor, scale: float = 1.0) -> dict[str, float]:
        """Backward and update at `scale` times the learning rate; returns the metrics of the step."""
        self._steps += 1
        rate = self._learning_rate * scale * min(1.0, self._steps / max(1, self._warmup))
        norm = torch.tensor(float("nan"))
        if torch.isfinite(loss):
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        if torch.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
            self._bad_in_a_row = 0
        else:
            self.skipped += 1
            self._bad_in_a_row += 1
        self._optimizer.zero_grad(set_to_none=True)
        if self._bad_in_a_row >= MOST_BAD_STEPS:
            raise TrainingFailed(
                f"The loss had no finite value {MOST_BAD_STEPS} steps in a row (step {self._steps}).",
                "Lower the learning rate, or look at the latest feedback for replies that are not text.",
            )
        return {"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": rate, "skipped": self.skipped}


def within_length(examples: Sequence[Example], max_length: int) -> tuple[list[Example], int]:
    """The examples that fit the model and have something to learn from, and how many do not fit."""
    fitting = [example for example in examples if example.length <= max_length]
    return [example for example in fitting if example.prompt_token_ids], len(examples) - len(fitting)
