"""Hold a trained update back until what the policy then says is inside the limits.

Every bit of an update costs some of what the base knows, whatever it won. So at the end its strength is searched by
bisection: the whole of it where that is inside, else the most that is, down to LEAST_SCALE. What is made smaller is the
whole update of the base or, where there was a parent, its way from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import islice
from random import Random

import torch
from torch import Tensor

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.methods.answers import MAX_NEW_TOKENS, Answers, share_agreed
from learner.methods.optimizer import check_finite
from learner.methods.rollouts import Judge, Rollouts, roll_out, share_preferred
from learner.sampling import sample, with_room
from service.settings import LearnerSettings

CHECKED_REPLIES = 4  # to each prompt
ENOUGH_WON = 0.94  # share of comparisons with the base, as the judge sees it, from which more would only cost
LEAST_SCALE, TRIALS = 0.5, 3  # how far an update of the base is held back at most, and in how many halvings
ALLOWED_FLUENCY = 0.6  # as a share of the limit
MOST_QUESTIONS = 320  # that are asked again for the answers that the base knows
LOST_ANSWERS = 0.04  # share of the firm answers of the base that its update may cost the policy
MORE_BROKEN = 0.01  # share of replies that may be broken above the base's, beside what chance allows
IN_WORDS = {
    "answers_lost": "lost {:.0%} of the base's answers (limit {:.0%})",
    "fluency": "changed its fluency by {:.2f} nats per token (limit {:.2f})",
    "kl_per_token": "moved {:.2f} nats per token from the anchor (limit {:.2f})",
    "broken": "left {:.0%} of its replies empty or without an end (limit {:.0%})",
}

Figures = dict[str, float]
Weights = Mapping[str, Tensor]


def hold_inside_limits(
    backbone: Backbone,
    judge: Judge | None,
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    answers: Answers | None = None,
    start: Weights | None = None,
) -> tuple[float, Figures]:
    """Shrink the policy's update until replies to `prompts` are well inside the limits and, as the judge sees it, win
    no more than enough, and the likeliest replies hold what the base's hold of the first of `answers`. It isn't held
    back for what its parent won, or lost, already. `start`: what it is held back to; None: the base. Returns what
    `hold_back` does, and of each limit that isn't kept even so its name and value (`…_limit`)."""
    base = roll_out(backbone, judge, prompts, CHECKED_REPLIES, "base", settings.seed + 100)
    firm = ((prompt, answer) for prompt, answer in (answers or {}).items() if answer.firm)
    known = dict(islice(firm, MOST_QUESTIONS))
    held = _share_held(backbone, "base", known) if known else 0.0

    def measure(role: Role = "policy") -> Figures:
        own = roll_out(backbone, judge, prompts, CHECKED_REPLIES, role, settings.seed + 101)
        won = {} if judge is None else {"share_won": share_preferred(own.grades, base.grades)}
        lost = {"answers_lost": held - _share_held(backbone, role, known)} if known else {}
        return sense(own, base) | won | lost

    @cache
    def of_parent() -> Figures:
        return measure("parent") if backbone.has("parent") else {}

    def is_within(measured: Figures, name: str, limit: float) -> bool:
        value = measured.get(name, limit)
        return value <= limit or value <= of_parent().get(name, limit)

    def outside(measured: Figures) -> Figures:
        """The limits that are not kept."""
        lost = {} if is_within(measured, "answers_lost", LOST_ANSWERS) else {"answers_lost": LOST_ANSWERS}
        return lost | limits_broken(measured, base, settings)

    def is_inside(measured: Figures) -> bool:
        return not outside(measured) and is_within(measured, "share_won", ENOUGH_WON)

    scale, measured = hold_back(backbone, measure, is_inside, start)
    return scale, measured | {f"{name}_limit": limit for name, limit in outside(measured).items()}


def hold_on_some(
    backbone: Backbone,
    prompts: Sequence[TokenIds],
    count: int,
    settings: LearnerSettings,
    rng: Random,
    answers: Answers,
    start: Weights | None,
) -> tuple[float, Figures]:
    """`hold_inside_limits` on so many of the prompts that leave half of the model's context for a reply, without a
    judge; none: all of it. Of the others it returns how many there are."""
    short, too_long = with_room(backbone, prompts, backbone.max_length)
    checked, scale, measured = rng.sample(short, min(count, len(short))), 1.0, Figures()
    if checked:
        scale, measured = hold_inside_limits(backbone, None, checked, settings, answers, start)
    return scale, measured | {"prompts_too_long": too_long}


def beginning(backbone: Backbone) -> Weights | None:
    """The policy's weights as they are before a stage, where it has a parent: what it is to be held back to, lest it
    lose what was won before."""
    return backbone.adapter_state() if backbone.has("parent") else None


def _share_held(backbone: Backbone, role: Role, answers: Answers) -> float:
    """How much of the answers the likeliest replies in this role hold."""
    asked = list(answers)
    replies = sample(backbone, asked, role=role, max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)
    texts = backbone.decode([reply.token_ids for (reply,) in replies])
    return float(share_agreed(texts, asked, answers).mean())


def hold_back(
    backbone: Backbone,
    measure: Callable[[], Figures],
    is_inside: Callable[[Figures], bool],
    start: Weights | None = None,
) -> tuple[float, Figures]:
    """Scale the policy's update; returns the scale, and the figures there and at full strength (`full_…`).

    `measure` is called with the policy at each strength that is tried; `start`: its weights at strength 0. Raises
    TrainingFailed where what it gives at full strength isn't finite.
    """
    scale, end, least = 1.0, backbone.adapter_state(), LEAST_SCALE if start is None else 0.0
    start = start or {name: torch.zeros_like(one) if "lora_B" in name else one for name, one in end.items()}

    def at(trial: float) -> Figures:
        nonlocal scale
        if trial != scale:
            backbone.load_adapter_state({name: torch.lerp(start[name], one, trial) for name, one in end.items()})
            scale = trial
        return measure()

    measured = at(1.0)
    check_finite(measured)
    full = {f"full_{name}": value for name, value in measured.items()}
    if is_inside(measured):
        return scale, full | measured
    inside, outside = least, 1.0
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


def limits_broken(measured: Figures, base: Rollouts, settings: LearnerSettings) -> Figures:
    """Those that the gates will set, with room to spare for another sample, which that is not inside of."""
    chance = 2 * (base.broken * (1 - base.broken) / base.sizes.numel()) ** 0.5
    least = {"fluency": ALLOWED_FLUENCY * settings.min_fluency}
    most = {"kl_per_token": settings.max_kl_per_token, "broken": base.broken + MORE_BROKEN + chance}
    return {name: limit for name, limit in least.items() if not measured[name] >= limit} | {
        name: limit for name, limit in most.items() if not measured[name] <= limit
    }


def limits_in_words(measured: Mapping[str, float]) -> str:
    """What is to be said of the limits that an update was not held inside of; empty where it was."""
    said = [
        words.format(measured[name], measured[f"{name}_limit"])
        for name, words in IN_WORDS.items()
        if f"{name}_limit" in measured
    ]
    left = (
        "nothing of its update is left" if measured.get("scale") == 0 else "its update was not made smaller than half"
    )
    return f"it {' and '.join(said)}, and {left}" if said else ""
