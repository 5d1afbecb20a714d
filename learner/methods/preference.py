"""Learn a preference from few comparisons, without learning to cheat.

Comparisons alone are too few and too far from what the policy says to train on directly: plain DPO either stays near
50 % or wins with empty replies. So: (1) fit a preference model to all comparisons; (2) sample replies to prompts that
people really asked, and that the model asks itself in their manner (`retention.neighbours`), first from the base, then
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

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

import torch
from torch import Tensor

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Example, Pair, Progress, TokenIds, collate, shuffled_batches
from learner.losses import dpo_loss, listwise_loss
from learner.methods.anchor_scores import AnchorScores
from learner.methods.answers import Answer, Answers, answer_tokens, answers
from learner.methods.optimizer import Stepper, within_length
from learner.methods.preference_model import PreferenceModel, fit_preferences
from learner.methods.retention import neighbours_apart
from learner.methods.rollouts import Rollouts, roll_out, share_preferred
from learner.methods.strength import beginning, hold_inside_limits
from learner.sampling import affordable
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
TRAINED_REPLIES = 4  # of these: the best, the worst and some between
GROUPS_PER_STEP = 8
PAIRS_PER_STEP = 2
PAIRS_WEIGHT = 0.3
NATS = 6.0  # that a typically preferred reply should gain on the other in an iteration, with a trusted judge
ENOUGH_PAIRS = 20  # for a judge to be followed as far as its accuracy says: two picks prove nothing
STAY = 0.02  # weight of KL to the anchor, token by token
KEEP = 4.0  # the same where the token is part of what the base answers: there nothing is a matter of taste
KEEP_ELSEWHERE = 0.4  # the same in each reply that isn't the best
STRENGTH, LEAST_STRENGTH, STRENGTH_GAIN = 0.03, 0.02, 2.0  # λ: where it starts, its least, how fast it moves
TARGET_FLUENCY = 0.2  # as a share of the limit: what training aims at
CHECKED_PROMPTS = 48


@dataclass(frozen=True)
class PreferenceResult:
    steps: int
    pairs: int
    too_long: int  # pairs left out, because they do not fit the model
    skipped_steps: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Replies to one prompt with the odds they should gain on each other."""

    prompt: TokenIds
    replies: tuple[TokenIds, ...]
    answer: Answer
    start: Tensor  # (k,) log-probability under what sampled them
    targets: Tensor  # (k,) sum to 1

    @property
    def best(self) -> TokenIds:
        return self.replies[int(self.targets.argmax())]


def train(
    backbone: Backbone,
    pairs: Sequence[Pair],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    progress: Progress,
    anchor: AnchorScores | None = None,
) -> PreferenceResult:
    """Train the policy in place, on comparisons and on what it says to `prompts`. Same seed, same result.

    `anchor`: what is known of the anchor from an earlier attempt, and where more is kept. Raises TrainingFailed when
    the loss stays without a finite value.
    """
    fitting, too_long = within_length(pairs, backbone.max_length)
    judged = list(dict.fromkeys(pair.prompt_token_ids for pair in fitting))
    asked = [*prompts, *affordable(judged, ITERATIONS * PROMPTS)]
    asked = [p for p in dict.fromkeys(asked) if p and len(p) <= backbone.max_length // 2]
    if all(pair.tie for pair in fitting) or not asked:
        return PreferenceResult(0, len(fitting), too_long, 0)
    course = _Course(backbone, fitting, asked, settings, progress, anchor or AnchorScores(backbone))
    course.learn()
    scale, measured = course.hold_inside_limits()
    fit = course.judge.fit
    metrics = {"judge_accuracy": fit.accuracy, "judge_log_score": fit.log_score, "scale": scale} | measured
    return PreferenceResult(course.step, len(fitting), too_long, course.stepper.skipped, metrics)


class _Course:
    """The iterations of one training, with what they share; `step`: how many steps were taken."""

    def __init__(
        self, backbone: Backbone, pairs: Sequence[Pair], asked: Sequence[TokenIds], settings: LearnerSettings,
        progress: Progress, anchor: AnchorScores,
    ) -> None:  # fmt: skip
        self._backbone, self._pairs, self._asked, self._settings = backbone, pairs, asked, settings
        self._progress, self._anchor, self._rng = progress, anchor, Random(settings.seed)
        own, self._unseen = neighbours_apart(backbone, asked, Random(settings.seed), settings.seed)
        pool = [*asked, *own]
        most = min(PROMPTS, len(pool))
        self._per_iteration = self._steps_on(most)
        self.step, self._steps, self._strength = 0, (ITERATIONS + 2) * self._per_iteration, STRENGTH
        progress(PHASE, 0, self._steps, {})
        self.judge = fit_preferences(backbone, pairs)
        self._temperature = self.judge.fit.spread / (NATS * _trust(self.judge))
        self.stepper = Stepper(backbone.trainable(), settings.dpo_learning_rate, warmup=4, in_4_bits=backbone.in_4_bits)
        self._chosen_each = [self._rng.sample(pool, most) for _ in range(MOST_ITERATIONS + 1)]
        self._at_last = self._rng.sample(pool, most)
        every = [*self._unseen, *self._at_last, *(prompt for chosen in self._chosen_each for prompt in chosen)]
        self._right = answers(backbone, every, settings.seed + 99)
        self._trained_on = set[TokenIds]()
        self._by_base = self._roll_out(self._chosen_each[0], "base", 0)
        self._start = beginning(backbone)
        self._won_before = self._start is not None and self._wins(0)

    def learn(self) -> None:
        """Iterations until it wins what is wanted, and one in which the learning rate falls."""
        for iteration in range(MOST_ITERATIONS + 1):
            is_last = self._won_before or iteration == MOST_ITERATIONS
            is_last = is_last or (iteration >= ITERATIONS and self._wins(iteration))
            chosen = self._chosen_each[iteration]
            if is_last:
                chosen = list(dict.fromkeys([*chosen, *self._at_last]))
                self._steps = self.step + self._steps_on(len(chosen))
            else:
                self._steps = max(self._steps, self.step + 3 * self._per_iteration)
            rollouts = self._by_base
            if iteration or self._start is not None:
                rollouts = self._roll_out(chosen, "policy", iteration)
                lack = TARGET_FLUENCY * self._settings.min_fluency - (rollouts.fluency - self._by_base.fluency)
                self._strength = max(LEAST_STRENGTH, self._strength + STRENGTH_GAIN * lack)
            self._learn_from(rollouts, is_last)
            if is_last:
                break

    def hold_inside_limits(self) -> tuple[float, dict[str, float]]:
        """As `strength` does, on some of all prompts, and first on the answers that it wasn't trained to keep."""
        checked = self._rng.sample(self._asked, min(CHECKED_PROMPTS, len(self._asked)))
        untouched_first = dict(sorted(self._right.items(), key=lambda answer: answer[0] in self._trained_on))
        return hold_inside_limits(self._backbone, self.judge, checked, self._settings, untouched_first, self._start)

    def _roll_out(self, chosen: Sequence[TokenIds], role: Role, iteration: int) -> Rollouts:
        return roll_out(self._backbone, self.judge, chosen, REPLIES, role, self._settings.seed + iteration, self._right)

    def _steps_on(self, prompts: int) -> int:
        """How many steps all passes over replies to so many prompts take."""
        return self._settings.dpo_epochs * -(-prompts // GROUPS_PER_STEP)

    def _wins(self, iteration: int) -> bool:
        """Whether the policy wins what is wanted, as the judge sees it."""
        seed = self._settings.seed + 50 + iteration
        own = roll_out(self._backbone, self.judge, self._by_base.prompts, ASKED_AGAIN, "policy", seed)
        return share_preferred(own.grades, self._by_base.grades) >= WANTED_WON

    def _learn_from(self, rollouts: Rollouts, is_last: bool) -> None:
        """The passes over replies of one iteration, with the people's own pairs beside."""
        begun, rate = self.step, 1 - 0.8 * self.step / (MOST_ITERATIONS * self._per_iteration)
        steps = self._steps_on(len(rollouts.prompts))
        utilities = rollouts.utilities(self._temperature, self._strength, self._by_base.fluency)
        measured = {
            "fluency": rollouts.fluency - self._by_base.fluency,
            "sampled_kl": rollouts.kl_per_token,
            "strength": self._strength,
        }
        self._trained_on.update(rollouts.prompts)
        for _ in range(self._settings.dpo_epochs):
            for indices in shuffled_batches(len(rollouts.prompts), GROUPS_PER_STEP, self._rng):
                self.step += 1
                groups = [_group(rollouts, self._right, utilities, index, self._rng) for index in indices]
                metrics = self._add(groups, self._rng.sample(self._pairs, min(PAIRS_PER_STEP, len(self._pairs))))
                share = (self.step - begun) / steps
                metrics |= self.stepper.update(rate + (LAST_RATE - rate) * share if is_last else rate)
                self._progress(PHASE, self.step, self._steps, metrics | measured)

    def _add(self, groups: Sequence[Group], some: Sequence[Pair]) -> dict[str, float]:
        """The gradients of one step: of groups of replies, and of some of the people's own pairs beside them."""
        of_groups = partial(_listwise, self._backbone, self._strength)
        metrics = self.stepper.add("groups of replies", groups, of_groups)
        self._anchor.of(both(some))  # of all pairs: the loss sees only this process's share
        of_pairs = partial(dpo, self._backbone, self._settings, self._anchor)
        return metrics | self.stepper.add("pairs", some, of_pairs, weight=pair_weights, factor=PAIRS_WEIGHT)


def _trust(judge: PreferenceModel) -> float:
    """How far to follow a judge of this accuracy: hardly at a coin's, all the way from 80 % on; less with few pairs."""
    accuracy = (judge.fit.accuracy * judge.fit.decided + 1) / (judge.fit.decided + 2)
    return max(0.01, min(1.0, (accuracy - 0.5) / 0.3) * min(1.0, judge.fit.decided / ENOUGH_PAIRS))


def _group(rollouts: Rollouts, right: Answers, utilities: Tensor, index: int, rng: Random) -> Group:
    """Best, worst and some others: most of what there is to learn, for less work."""
    prompt = rollouts.prompts[index]
    order = utilities[index].argsort().tolist()
    if len(order) > TRAINED_REPLIES:
        order = [order[0], order[-1], *rng.sample(order[1:-1], TRAINED_REPLIES - 2)]
    replies = tuple(rollouts.replies[index][place] for place in order)
    targets = torch.softmax(utilities[index, order], -1)
    return Group(prompt, replies, right[prompt], rollouts.policy[index, order], targets)


def _listwise(backbone: Backbone, strength: float, groups: Sequence[Group]) -> tuple[Tensor, dict[str, float]]:
    """The listwise loss of all replies, and the pull towards the anchor at every token of each group's best, and at
    the answers in the others."""
    batch = collate([(group.prompt, reply) for group in groups for reply in group.replies], backbone.pad_id)
    policy = backbone.predictions(batch)
    log_probs = policy.reply_log_probs(len(batch.token_ids)).reshape(len(groups), -1)
    targets = torch.stack([group.targets for group in groups]).to(log_probs)
    start = torch.stack([group.start for group in groups]).to(log_probs)
    loss, metrics = listwise_loss(log_probs, start, targets, torch.ones_like(targets, dtype=torch.bool))
    best = torch.arange(len(groups), device=targets.device) * targets.shape[1] + targets.argmax(1)
    said = [(group, reply) for group in groups for reply in group.replies]
    flags = [flag for group, reply in said for flag in answer_tokens(backbone, reply, group.answer)]
    is_answer, of_best = torch.tensor(flags, device=targets.device), torch.isin(policy.rows, best)
    elsewhere = is_answer & ~of_best
    with torch.no_grad():
        by_anchor = backbone.predictions(batch, "anchor")
    stay = torch.where(is_answer[of_best], KEEP, STAY)
    pull, more = policy[of_best].pull_to(by_anchor[of_best], stay, strength)
    loss = loss + int(of_best.sum()) / max(1, len(groups)) * pull
    if elsewhere.any():
        held, _ = policy[elsewhere].pull_to(by_anchor[elsewhere], KEEP_ELSEWHERE, 0.0)
        loss = loss + int(elsewhere.sum()) / len(groups) * held
    return loss, metrics | more


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
