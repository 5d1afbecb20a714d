"""One optimizer step that survives a bad batch and too little memory, and the check that examples fit the model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from learner import parallel
from learner.batch import Demonstration, Label, Pair, Scored, TokenIds
from learner.methods.adamw import make_adamw, moments, set_moments
from learner.micro_batches import Item, MicroBatches, set_sizes, sizes
from service.errors import TrainingFailed

MOST_BAD_STEPS = 5
MAX_GRADIENT_NORM = 1.0
DIVERGED = "Lower the learning rate, or look at the latest feedback for replies that are not text."

Example = TypeVar("Example", Demonstration, Pair, Label, Scored)

PartLoss = Callable[[Sequence[Item]], tuple[Tensor, dict[str, float]]]
"""From some of a step's examples to their mean loss and its metrics. It may be called again for some of these."""


class Stepper:
    """AdamW with warm-up and clipping. A step whose loss or gradient is not finite is skipped and counted.

        metrics = stepper.add("pairs", pairs, loss_of_pairs) | stepper.add("replies", replies, loss_of_replies)
        metrics |= stepper.update()

    Each summand of a loss is computed, differentiated and freed by itself; one that doesn't fit the memory, in parts.
    Where several processes train (`learner.parallel`), each does so with its share of the examples. `in_4_bits`: the
    base under these parameters is (`learner.methods.adamw`).
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], learning_rate: float, warmup: int = 0, *, in_4_bits: bool = False
    ) -> None:
        self._parameters = list(parameters)
        self._optimizer = make_adamw(self._parameters, learning_rate, in_4_bits=in_4_bits)
        self._learning_rate, self._warmup = learning_rate, warmup
        self._steps = self._bad_in_a_row = 0
        self.skipped = 0
        self._loss = 0.0  # of the step that is being taken
        self._fitting: dict[str, MicroBatches] = {}

    def add(
        self,
        what: str,
        examples: Sequence[Item],
        loss: PartLoss[Item],
        *,
        weight: Callable[[Sequence[Item]], float] = len,
        factor: float = 1.0,
    ) -> dict[str, float]:
        """Add `factor` times the loss of these examples to the step; returns its metrics, nothing for no example.

        The loss of all must be the mean of those of parts by their `weight`, by which metrics are averaged, too: then
        it doesn't matter how many fit the memory. `what`: their name, under which that number is remembered. Raises
        TrainingFailed for a single one that doesn't fit.
        """
        whole, metrics, counted = weight(examples), defaultdict[str, float](float), defaultdict[str, float](float)

        def differentiate(part: Sequence[Item]) -> tuple[float, float, Sequence[Tensor | None], dict[str, float]]:
            share = weight(part) / whole if whole else len(part) / len(examples)
            value, measured = loss(part)
            value = factor * share * value
            slopes: Sequence[Tensor | None] = ()
            if value.requires_grad and torch.isfinite(value):
                slopes = torch.autograd.grad(value, self._parameters, allow_unused=True)
            return share, value.item(), slopes, measured

        fitting, mine = self._fitting.setdefault(what, MicroBatches(what)), parallel.share(examples)
        with parallel.alone():
            for _, (share, value, slopes, measured) in fitting.each(mine, differentiate):
                self._loss += value
                for parameter, slope in zip(self._parameters, slopes, strict=False):  # none where it isn't finite
                    if slope is None:
                        continue
                    if parameter.grad is None:
                        parameter.grad = slope.clone()  # which itself may be a view of something else
                    else:
                        parameter.grad += slope
                for name, number in measured.items():
                    metrics[name] += share * number
                    counted[name] += share
        sums = parallel.totals({name: (total, counted[name]) for name, total in metrics.items()})
        return {name: total / count if count else 0.0 for name, (total, count) in sums.items()}

    def update(self, scale: float = 1.0) -> dict[str, float]:
        """Move at `scale` times the learning rate by what was added; returns the metrics of the step.

        Raises TrainingFailed after MOST_BAD_STEPS steps in a row without a finite loss and gradient.
        """
        self._steps += 1
        if parallel.world() > 1:
            self._sum_up()
        loss, self._loss = self._loss, 0.0
        rate = self._learning_rate * scale * min(1.0, self._steps / max(1, self._warmup))
        norm = torch.tensor(float("nan"))
        if math.isfinite(loss):
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
                f"The loss had no finite value {MOST_BAD_STEPS} steps in a row (step {self._steps}).", DIVERGED
            )
        return {"loss": loss, "gradient_norm": norm.item(), "learning_rate": rate, "skipped": self.skipped}

    def end(self) -> None:
        """After the last step: raises TrainingFailed where that was skipped, or most were, as when a training diverges
        that is too short to be stopped by `update`."""
        last, most = self._bad_in_a_row > 0, 2 * self.skipped > self._steps
        if last or most:
            raise TrainingFailed(
                f"The training ended without a finite loss: {self.skipped} of {self._steps} steps had none"
                f"{', the last one among them' if last else ''}.",
                DIVERGED,
            )

    def state(self) -> dict[str, Any]:
        """All that decides its later steps, beside the parameters; between two of them."""
        return {
            "moments": moments(self._optimizer),
            "steps": self._steps,
            "bad_in_a_row": self._bad_in_a_row,
            "skipped": self.skipped,
            "fitting": sizes(self._fitting),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        set_moments(self._optimizer, state["moments"])
        self._steps, self._bad_in_a_row, self.skipped = state["steps"], state["bad_in_a_row"], state["skipped"]
        set_sizes(self._fitting, state["fitting"])

    def _sum_up(self) -> None:
        """Loss and gradients over all processes, as one tensor; a parameter that no loss reached stays without one."""
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        facts = [self._loss, *(float(p.grad is not None) for p in self._parameters)]
        flat = torch.cat([torch.tensor(facts).to(slopes[0]), *(slope.flatten() for slope in slopes)])
        facts_of_all, summed = parallel.summed(flat).tensor_split([len(facts)])
        self._loss, *reached = facts_of_all.tolist()
        parts = summed.split([p.numel() for p in self._parameters])
        for parameter, part, count in zip(self._parameters, parts, reached, strict=True):
            parameter.grad = part.reshape(parameter.shape) if count else None


def check_finite(figures: Mapping[str, float]) -> None:
    """Raises TrainingFailed where one of what was measured of a trained policy is NaN or infinite."""
    if wrong := [name.replace("_", " ") for name, value in figures.items() if not math.isfinite(value)]:
        raise TrainingFailed(f"The training diverged: {', '.join(wrong)} had no finite value in the end.", DIVERGED)


def within_length(examples: Sequence[Example], max_length: int) -> tuple[list[Example], int]:
    """The examples that fit the model and have a prompt, and how many others there are."""
    fitting = [example for example in examples if example.prompt_token_ids and example.length <= max_length]
    return fitting, len(examples) - len(fitting)


def reply_tokens(examples: Sequence[tuple[TokenIds, TokenIds]]) -> int:
    """How many tokens all their replies have."""
    return sum(len(reply) for _, reply in examples)
