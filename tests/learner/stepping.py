"""One step of an optimizer, along a loss that is computed already."""

from __future__ import annotations

from torch import Tensor

from learner.methods.optimizer import Stepper


def take_step(stepper: Stepper, loss: Tensor) -> dict[str, float]:
    stepper.add("losses", [loss], lambda losses: (losses[0], {}))
    return stepper.update()
