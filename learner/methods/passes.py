"""Passes over examples in random order, of which a killed training repeats no more than the last minutes.

Before a step it is kept, where that is due, all that decides the steps from there on: the weights of what trains (the
policy, or the reward model), its optimizer, the random numbers, and what is left of the pass. A training that goes on
from there prepares itself again as it did at first, from the policy as it was before the stage, and comes to the same
as the unbroken one. What it can't find out again, since the policy has moved meanwhile, it keeps beside.

    passes = Passes(PHASE, backbone, stepper, rng, checkpoint, beside=retention.state)
    if passes.kept:
        retention.load_state(passes.kept)
    while passes.step < steps:
        for indices in passes.batches(len(examples), batch_size):
            metrics = stepper.add("examples", [examples[index] for index in indices], loss) | stepper.update()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from random import Random
from typing import Any, Literal, TypeVar

from learner.adapted_model import HeadRole
from learner.backbone import Backbone
from learner.batch import shuffled_batches
from learner.methods.optimizer import Stepper
from learner.micro_batches import set_sizes, sizes
from learner.stage_checkpoint import StageCheckpoint, set_random

log = logging.getLogger("hone.learner")

T = TypeVar("T")


class Passes:
    """See the module's docstring. To be made when all is prepared: it is here that what trains in this `role`, the
    stepper and `rng` go on from what an earlier attempt kept.

    `beside`: what else to keep; `kept`: that of the earlier attempt, empty without one. `step`: the number of the step
    under way, from 1, or of the last one.
    """

    def __init__(
        self, phase: str, backbone: Backbone, stepper: Stepper, rng: Random, checkpoint: StageCheckpoint | None,
        beside: Callable[[], Mapping[str, Any]] = dict, role: Literal["policy"] | HeadRole = "policy",
    ) -> None:  # fmt: skip
        self._phase, self._backbone, self._stepper, self._rng = phase, backbone, stepper, rng
        self._checkpoint, self._beside, self._role = checkpoint or StageCheckpoint(), beside, role
        self._left: list[Any] = []  # batches of the pass, that of the step under way included
        self.step, self.kept = 0, dict[str, Any]()
        if state := self._checkpoint.part(phase):
            self._load_state(state)
            log.info("It goes on after step %d of %s.", self.step, phase)

    @property
    def under_way(self) -> bool:
        """Whether a pass is, as where it goes on after a kill: then `batches` gives the rest of that."""
        return bool(self._left)

    def batches(self, count: int, size: int) -> Iterator[list[int]]:
        """Indices 0 … count - 1 in random order, `size` at most at a time, each for one step; or what is left of the
        pass under way."""
        return self.through(lambda rng: shuffled_batches(count, size, rng))

    def through(self, draw: Callable[[Random], Iterable[T]]) -> Iterator[T]:
        """The batches of a pass that `draw` gives, all at once, each for one step; or what is left of the pass under
        way, where tuples have become lists."""
        if not self._left:
            self._left = list(draw(self._rng))
        while self._left:
            self._checkpoint.keep(self._phase, self._state)
            self.step += 1
            yield self._left[0]
            self._left = self._left[1:]

    def _state(self) -> dict[str, Any]:
        return {
            "weights": self._backbone.adapter_state(self._role), "stepper": self._stepper.state(),
            "rng": self._rng.getstate(), "fitting": sizes(self._backbone.fitting), "left": self._left,
            "step": self.step, "beside": self._beside(),
        }  # fmt: skip

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._backbone.load_adapter_state(state["weights"], self._role)
        self._stepper.load_state(state["stepper"])
        set_random(self._rng, state["rng"])
        set_sizes(self._backbone.fitting, state["fitting"])
        self._left, self.step, self.kept = state["left"], state["step"], state["beside"]
