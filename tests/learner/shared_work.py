"""What the processes of a training put together: by the functions of `learner.parallel`, and by steps."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import torch
from torch import nn

from learner import parallel
from learner.batch import TokenIds
from learner.methods.optimizer import Stepper
from learner.sampler import SharedSampler, Tell
from learner.sampling import Reply
from service.errors import TrainingFailed


class Engine:
    """What samples for all and takes its time; the others have none."""

    max_length = 64
    left_out = 0

    def sample(self, prompts: Sequence[TokenIds], *, tell: Tell, **how: Any) -> list[list[Reply]]:
        assert parallel.is_first()
        for _ in range(3):
            tell(True)
        return [[Reply(0, prompts[0], -1.0, True, (-0.5, -0.5))]]


def put_together() -> dict[str, Any]:
    """By the functions of `learner.parallel`, and by steps to which not every process adds."""

    def inner(items: Sequence[int]) -> list[int]:
        assert parallel.world() == 1 and parallel.each(items, list) == list(items)
        return [item * item for item in items]

    weight = nn.Parameter(torch.ones(2))
    stepper, steps = Stepper([weight, nn.Parameter(torch.ones(1))], 0.1), []
    for numbers in ([1.0], [1.0, 2.0, 6.0], [2.0, float("nan")], [float("inf"), 1.0]):
        metrics = stepper.add("numbers", numbers, lambda part: (weight.sum() * mean(part), {"mean": mean(part)}))
        steps.append(metrics | stepper.update())
    try:
        parallel.check_alike({"weight": torch.tensor(float(parallel.rank()))})
        said = ""
    except TrainingFailed as error:
        said = str(error)
    parallel.check_alike({"weight": weight.detach()})
    return {
        "apart": said,
        "each": parallel.each(range(7), inner, lambda item: -item),
        "rows": parallel.rows([3, 1, 2], lambda items: torch.tensor([[item, item] for item in items]), int),
        "one": parallel.each([4], inner),
        "none": parallel.each(list[int](), inner),
        "engine": SharedSampler(Engine()).sample(
            [(1, 2)], per_prompt=1, max_new_tokens=4, seed=0, tell=lambda waits: None
        ),
        "totals": parallel.totals({"both": (1.0, 2.0)} | ({"mine": (5.0,)} if parallel.is_first() else {})),
        "steps": steps,
        "weight": weight.tolist(),
    }
