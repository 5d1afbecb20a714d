"""Hold a trained update back until what the policy then says is inside the limits.

Every bit of an update costs some of what the base knows, whatever it won. So at the end its strength is searched by
bisection: the whole of it where that is inside, else the most that is, down to LEAST_SCALE.
"""

from __future__ import annotations

from collections.abc import Callable

from learner.backbone import Backbone
from learner.methods.rollouts import Rollouts
from service.settings import LearnerSettings

LEAST_SCALE, TRIALS = 0.5, 3  # how far an update is held back at most, and in how many halvings
ALLOWED_FLUENCY = 0.6  # as a share of the limit
MORE_BROKEN = 0.01  # share of replies that may be broken above the base's, beside what chance allows

Figures = dict[str, float]


def hold_back(
    backbone: Backbone, measure: Callable[[], Figures], is_inside: Callable[[Figures], bool]
) -> tuple[float, Figures]:
    """Scale the policy's update; returns the scale, and the figures there and at full strength (`full_…`).

    `measure` is called with the policy at each strength that is tried.
    """
    scale = 1.0

    def at(trial: float) -> Figures:
        nonlocal scale
        backbone.scale_policy(trial / scale)
        scale = trial
        return measure()

    measured = at(1.0)
    full = {f"full_{name}": value for name, value in measured.items()}
    if is_inside(measured):
        return scale, full | measured
    inside, outside = LEAST_SCALE, 1.0
    for _ in range(TRIALS):
        measured = at((inside + outside) / 2)
        if is_inside(measured):
            inside = scale
        else:
            outside = scale
    if scale != inside:
        measured = at(inside)
    return scale, full | measured


def sense(own: Rollouts, base: Rollouts) -> Figures:
    """What replies of the policy cost against the base's."""
    return {
        "fluency": own.fluency - base.fluency,
        "kl_per_token": own.kl_per_token,
        "broken": own.broken,
    }


def keeps_sense(measured: Figures, base: Rollouts, settings: LearnerSettings) -> bool:
    """Whether that is inside the limits that the gates will set, with room to spare for another sample."""
    chance = 2 * (base.broken * (1 - base.broken) / base.sizes.numel()) ** 0.5
    return (
        measured["fluency"] >= ALLOWED_FLUENCY * settings.min_fluency
        and measured["kl_per_token"] <= settings.max_kl_per_token
        and measured["broken"] <= base.broken + MORE_BROKEN + chance
    )
