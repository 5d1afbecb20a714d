"""Learn a preference from few comparisons, without learning to cheat.

Comparisons alone are too few and too far from what the policy says to train on directly: plain DPO either stays near
50 % or wins with empty replies. So: (1) fit a preference model to all comparisons; (2) sample replies to prompts that
people really asked, and that the model asks itself in their manner (`self_asked.neighbours`), first from the base, then
from the policy as it is; (3) grade them (`rollouts`); (4) move it from there towards policy · exp(u) by a listwise DPO
loss on them (arXiv 2305.18290, 2402.01878), with the people's own pairs beside; (2) to (4) again, on-policy, until it
wins what is wanted, a few times at most; (5) measure, and hold the adapter's strength back until it is inside the
limits, and wins no more than enough. That is mirror descent (arXiv 2005.09814). Asked for odds relative to the anchor
instead, it wins no more after the second iteration: then it learns to undo what it has drifted by chance.

Three things keep its sense. It stops when it wins what is wanted. At every token of the best replies the policy is
pulled to the anchor's likely tokens, as hard as fluency asks: λ rises while sampled replies are less fluent than the
target, and falls again (dual ascent). And where a token is part of what the base's replies agree on, the policy is held
to the anchor's odds much harder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Example, Pair, Progress, TokenIds, collate
from learner.losses import dpo_loss
from learner.methods.anchor_scores import AnchorScores
from learner.methods.answers import Answer, answers
from learner.methods.groups import Group, draw_group, listwise
from learner.methods.optimizer import Stepper, within_length
from learner.methods.passes import Passes
from learner.methods.preference_model import PreferenceModel, fit_preferences
from learner.methods.rollouts import Rollouts, roll_out, share_preferred
from learner.methods.self_asked import neighbours_apart
from learner.methods.strength import beginning, hold_inside_limits
from learner.sampling import affordable, with_room
from learner.stage_checkpoint import StageCheckpoint
from service.errors import TrainingFailed
from service.settings import LearnerSettings

PHASE = "dpo"
ITERATIONS, MOST_ITERATIONS = 2, 6
"""More follow while it wins less than WANTED_WON. After them comes one more, in which the learning rate falls to
LAST_RATE: what large steps move at random, small ones put back. One that wins as much from the start has that alone."""
WANTED_WON = 0.8  # share of comparisons with the base, as the judge sees it
LAST_RATE = 0.1  # of the learning rate
ASKED_AGAIN = 2  # replies to each of the first prompts, by which that is seen
PROMPTS = 128  # an iteration; the last has twice as many
REPLIES = 6  # to each
GROUPS_PER_STEP = 8
PAIRS_PER_STEP = 2
PAIRS_WEIGHT = 0.3
NATS = 6.0  # that a typically preferred reply should gain on the other in an iteration, with a trusted judge
ENOUGH_PAIRS = 20  # for a judge to be followed as far as its accuracy says: two picks prove nothing
STRENGTH, LEAST_STRENGTH, STRENGTH_GAIN = 0.03, 0.02, 2.0  # λ: where it starts, its least, how fast it moves
TARGET_FLUENCY = 0.2  # as a share of the limit: what training aims at
CHECKED_PROMPTS = 48
BASIS = "basis"
"""In a checkpoint: what was found out before the policy moved."""


@dataclass(frozen=True)
class PreferenceResult:
    steps: int
    pairs: int
    too_long: int  # pairs left out, because they do not fit the model
    skipped_steps: int
    metrics: dict[str, float] = field(default_factory=dict)


def train(
    backbone: Backbone,
    pairs: Sequence[Pair],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    progress: Progress,
    anchor: AnchorScores | None = None,
    checkpoint: StageCheckpoint | None = None,
    measured: Collection[TokenIds] = (),
) -> PreferenceResult:
    """Train the policy in place, on comparisons and on what it says to `prompts`. Same seed, same result.

    `anchor`: what is known of the anchor from an earlier attempt, and where more is kept. `checkpoint`: where it is
    kept how far the training is, and what it goes on from; the result is that of one unbroken training. `measured`:
    what the model doesn't ask itself. Raises TrainingFailed when no prompt leaves half of the model's context for a
    reply, or the loss stays without a finite value.
    """
    fitting, too_long = within_length(pairs, backbone.max_length)
    judged = list(dict.fromkeys(pair.prompt_token_ids for pair in fitting))
    asked = [*prompts, *affordable(judged, ITERATIONS * PROMPTS)]
    asked, left_out = with_room(backbone, asked, backbone.max_length)
    if all(pair.tie for pair in fitting):
        return PreferenceResult(0, len(fitting), too_long, 0)
    if not asked:
        raise TrainingFailed(
            f"No prompt leaves half of a context of {backbone.max_length} tokens for a reply.",
            "Set learner.dpo_on to pairs: then no replies are sampled.",
        )
    anchor, checkpoint = anchor or AnchorScores(backbone), checkpoint or StageCheckpoint()
    course = _Course(backbone, fitting, asked, settings, progress, anchor, checkpoint, measured)
    course.learn()
    course.stepper.end()
    scale, found = course.hold_inside_limits()
    fit = course.judge.fit
    metrics = {"judge_accuracy": fit.accuracy, "judge_log_score": fit.log_score, "scale": scale} | found
    metrics["prompts_too_long"] = left_out
    return PreferenceResult(course.passes.step, len(fitting), too_long, course.stepper.skipped, metrics)


@dataclass(frozen=True)
class _Iteration:
    number: int
    is_last: bool
    begun: int  # the step after which it did
    steps: int  # of the training, as far as one can say
    strength: float  # λ
    rollouts: Rollouts  # that it learns from


class _Course:
    """The iterations of one training, with what they share."""

    def __init__(
        self, backbone: Backbone, pairs: Sequence[Pair], asked: Sequence[TokenIds], settings: LearnerSettings,
        progress: Progress, anchor: AnchorScores, checkpoint: StageCheckpoint, measured: Collection[TokenIds],
    ) -> None:  # fmt: skip
        self._backbone, self._pairs, self._asked, self._settings = backbone, pairs, asked, settings
        self._progress, self._anchor, self._rng = progress, anchor, Random(settings.seed)
        self._start, self.judge = beginning(backbone), fit_preferences(backbone, pairs)
        self._temperature = self.judge.fit.spread / (NATS * _trust(self.judge))
        self.stepper = Stepper(backbone.trainable(), settings.dpo_learning_rate, warmup=4, in_4_bits=backbone.in_4_bits)
        basis = checkpoint.part(BASIS) or self._basis(measured)
        checkpoint.hold(BASIS, basis)
        self._chosen = [[tuple(prompt) for prompt in some] for some in basis["chosen"]]
        self._per_iteration = self._steps_on(len(self._chosen[0]))
        self._right = {tuple(prompt): Answer.from_parts(*parts) for prompt, *parts in basis["right"]}
        self._by_base = _restored(basis["by_base"])
        self._now = _Iteration(-1, False, 0, (ITERATIONS + 2) * self._per_iteration, STRENGTH, self._by_base)
        self.passes = Passes(PHASE, backbone, self.stepper, self._rng, checkpoint, beside=self._state)
        if kept := self.passes.kept:
            self._now = _Iteration(**kept | {"rollouts": _restored(kept["rollouts"])})

    def learn(self) -> None:
        """Iterations until it wins what is wanted, and one in which the learning rate falls."""
        while self.passes.under_way or not self._now.is_last:
            if not self.passes.under_way:
                self._now = self._next()
            self._learn_from(self._now)

    def hold_inside_limits(self) -> tuple[float, dict[str, float]]:
        """As `strength` does, on some of all prompts, and first on the answers that it wasn't trained to keep."""
        checked = self._rng.sample(self._asked, min(CHECKED_PROMPTS, len(self._asked)))
        before = (prompt for some in self._chosen[: self._now.number] for prompt in some)
        trained_on = {*before, *self._now.rollouts.prompts}
        untouched_first = dict(sorted(self._right.items(), key=lambda answer: answer[0] in trained_on))
        return hold_inside_limits(self._backbone, self.judge, checked, self._settings, untouched_first, self._start)

    def _basis(self, measured: Collection[TokenIds]) -> dict[str, Any]:
        """The prompts of each iteration, and then those that the last one has beside; what the base answers to all of
        them, and to some that it is never trained on; and its replies to the first ones."""
        backbone, seed = self._backbone, self._settings.seed
        own, unseen = neighbours_apart(backbone, self._asked, Random(seed), seed, measured)
        pool = [*self._asked, *own]
        most = min(PROMPTS, len(pool))
        self._progress(PHASE, 0, (ITERATIONS + 2) * self._steps_on(most), {})
        chosen = [self._rng.sample(pool, most) for _ in range(MOST_ITERATIONS + 2)]
        every = [*unseen, *chosen[-1], *(prompt for some in chosen[:-1] for prompt in some)]
        right = answers(backbone, every, seed + 99)
        by_base = roll_out(backbone, self.judge, chosen[0], REPLIES, "base", seed, right)
        return {
            "chosen": chosen,
            "right": [(prompt, *answer.parts) for prompt, answer in right.items()],
            "by_base": _kept(by_base),
        }

    def _next(self) -> _Iteration:
        """The iteration after this one, with the replies that it learns from."""
        number, begun, steps, strength = self._now.number + 1, self.passes.step, self._now.steps, self._now.strength
        has_parent, chosen = self._start is not None, self._chosen[number]
        may_end = number >= ITERATIONS or (has_parent and number == 0)
        is_last = number == MOST_ITERATIONS or (may_end and self._wins(number))
        if is_last:
            chosen = list(dict.fromkeys([*chosen, *self._chosen[-1]]))
            steps = begun + self._steps_on(len(chosen))
        else:
            steps = max(steps, begun + 3 * self._per_iteration)
        rollouts = self._by_base
        if number or has_parent:
            seed = self._settings.seed + number
            rollouts = roll_out(self._backbone, self.judge, chosen, REPLIES, "policy", seed, self._right)
            lack = TARGET_FLUENCY * self._settings.min_fluency - (rollouts.fluency - self._by_base.fluency)
            strength = max(LEAST_STRENGTH, strength + STRENGTH_GAIN * lack)
        return _Iteration(number, is_last, begun, steps, strength, rollouts)

    def _steps_on(self, prompts: int) -> int:
        """How many steps all passes over replies to so many prompts take."""
        return self._settings.dpo_epochs * -(-prompts // GROUPS_PER_STEP)

    def _wins(self, iteration: int) -> bool:
        """Whether the policy wins what is wanted, as the judge sees it."""
        seed = self._settings.seed + 50 + iteration
        own = roll_out(self._backbone, self.judge, self._by_base.prompts, ASKED_AGAIN, "policy", seed)
        return share_preferred(own.grades, self._by_base.grades) >= WANTED_WON

    def _learn_from(self, now: _Iteration) -> None:
        """The passes over replies of one iteration, with the people's own pairs beside."""
        rollouts, rate = now.rollouts, 1 - 0.8 * now.begun / (MOST_ITERATIONS * self._per_iteration)
        steps = self._steps_on(len(rollouts.prompts))
        utilities = rollouts.utilities(self._temperature, now.strength, self._by_base.fluency)
        measured = {
            "fluency": rollouts.fluency - self._by_base.fluency,
            "sampled_kl": rollouts.kl_per_token,
            "strength": now.strength,
        }
        while self.passes.step < now.begun + steps:
            for indices in self.passes.batches(len(rollouts.prompts), GROUPS_PER_STEP):
                groups = [draw_group(rollouts, self._right, utilities, index, self._rng) for index in indices]
                metrics = self._add(groups, self._rng.sample(self._pairs, min(PAIRS_PER_STEP, len(self._pairs))))
                share = (self.passes.step - now.begun) / steps
                metrics |= self.stepper.update(rate + (LAST_RATE - rate) * share if now.is_last else rate)
                self._progress(PHASE, self.passes.step, now.steps, metrics | measured)

    def _state(self) -> dict[str, Any]:
        """All that decides later steps, beside the basis and what `Passes` knows."""
        return vars(self._now) | {"rollouts": _kept(self._now.rollouts)}

    def _add(self, groups: Sequence[Group], some: Sequence[Pair]) -> dict[str, float]:
        """The gradients of one step: of groups of replies, and of some of the people's own pairs beside them."""
        of_groups = partial(listwise, self._backbone, self._now.strength)
        metrics = self.stepper.add("groups of replies", groups, of_groups)
        self._anchor.of(both(some))  # of all pairs: the loss sees only this process's share
        of_pairs = partial(dpo, self._backbone, self._settings, self._anchor)
        return metrics | self.stepper.add("pairs", some, of_pairs, weight=pair_weights, factor=PAIRS_WEIGHT)


def _trust(judge: PreferenceModel) -> float:
    """How far to follow a judge of this accuracy: hardly at a coin's, all the way from 80 % on; less with few pairs."""
    accuracy = (judge.fit.accuracy * judge.fit.decided + 1) / (judge.fit.decided + 2)
    return max(0.01, min(1.0, (accuracy - 0.5) / 0.3) * min(1.0, judge.fit.decided / ENOUGH_PAIRS))


def _kept(rollouts: Rollouts) -> dict[str, Any]:
    """What a checkpoint holds of them: copies, since some of their tensors are the same one."""
    return {name: one.clone() if isinstance(one, Tensor) else one for name, one in vars(rollouts).items()}


def _restored(kept: Mapping[str, Any]) -> Rollouts:
    """From that."""
    prompts = tuple(tuple(prompt) for prompt in kept["prompts"])
    replies = tuple(tuple(tuple(reply) for reply in row) for row in kept["replies"])
    return Rollouts(**{**kept, "prompts": prompts, "replies": replies})


def dpo(
    backbone: Backbone, settings: LearnerSettings, anchor: AnchorScores, pairs: Sequence[Pair]
) -> tuple[Tensor, dict[str, float]]:
    """DPO on comparisons as people made them."""
    examples = both(pairs)
    fixed, half = anchor.of(examples), len(pairs)  # first: while the policy's graph is kept there is less memory
    policy = backbone.reply_log_probs(collate(examples, backbone.pad_id))
    fixed = fixed.to(policy)
    return dpo_loss(
        policy[:half], policy[half:], fixed[:half], fixed[half:], beta=settings.dpo_beta,
        label_smoothing=settings.dpo_label_smoothing, robust=settings.dpo_robust,
        margins=torch.tensor([pair.margin for pair in pairs]).to(policy),
        ties=torch.tensor([pair.tie for pair in pairs]).to(policy.device),
        weights=torch.tensor([pair.weight for pair in pairs]).to(policy),
        certainties=torch.tensor([pair.certainty for pair in pairs]).to(policy),
    )  # fmt: skip


def both(pairs: Sequence[Pair]) -> list[Example]:
    """The chosen ones, then the rejected."""
    return [(p.prompt_token_ids, p.chosen) for p in pairs] + [(p.prompt_token_ids, p.rejected) for p in pairs]


def pair_weights(pairs: Sequence[Pair]) -> float:
    return sum(pair.weight for pair in pairs)
