"""Learn a preference from few comparisons, without learning to cheat.

Comparisons alone are too few and too far from what the policy says to train on directly: plain DPO either stays near
50 % or wins with empty replies. So: (1) fit a preference model to all comparisons; (2) sample replies to prompts that
people really asked, first from the base, then from the policy as it is; (3) grade them (`rollouts`); (4) move it
towards anchor · exp(u) by listwise DPO on them (arXiv 2305.18290, 2402.01878), with the people's own pairs beside; (2)
to (4) again, on-policy (arXiv 2402.04792), until it wins what is wanted, a few times at most; (5) measure on those
prompts and hold the adapter's strength back until it is inside the limits, and wins no more than enough.

Three things keep its sense. The targets are odds relative to the anchor with a fixed temperature, so there is an
optimum and not an endless push. At every token of the best replies the policy is pulled to the anchor's likely tokens,
as hard as fluency asks: λ rises while sampled replies are less fluent than the target, and falls again (dual ascent).
And where a token is part of what the base's replies agree on, the policy is held to the anchor's odds much harder.
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
from learner.methods.rollouts import Rollouts, roll_out, share_preferred
from learner.methods.strength import hold_inside_limits
from learner.sampling import affordable
from service.settings import LearnerSettings

PHASE = "dpo"
ITERATIONS, MOST_ITERATIONS = 3, 6
"""More follow while it wins less than WANTED_WON: what many words can express is learned slowly. After them comes one
more, in which the learning rate falls to LAST_RATE: what large steps move at random, small ones put back."""
WANTED_WON = 0.85  # share of comparisons with the base, as the judge sees it
LAST_RATE = 0.1  # of the learning rate
ASKED_AGAIN = 2  # replies to each of the first prompts, by which that is seen
PROMPTS = 72  # an iteration
REPLIES = 6  # to each
TRAINED_REPLIES = 4  # of these: the best, the worst and some between
GROUPS_PER_STEP = 8
PAIRS_PER_STEP = 2
PAIRS_WEIGHT = 0.3
NATS = 9.0  # by which a reply that people would typically prefer should gain on the other, with a trusted judge
ENOUGH_PAIRS = 20  # for a judge to be followed as far as its accuracy says: two picks prove nothing
STAY = 0.02  # weight of KL to the anchor, token by token
KEEP = 2.0  # the same where the token is part of what the base answers: there nothing is a matter of taste
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
    """Replies to one prompt with the odds they should have."""

    prompt: TokenIds
    replies: tuple[TokenIds, ...]
    answer: Answer
    anchor: Tensor  # (k,)
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
    rng = Random(settings.seed)
    per_iteration = settings.dpo_epochs * -(-min(PROMPTS, len(asked)) // GROUPS_PER_STEP)
    steps = (ITERATIONS + 1) * per_iteration
    progress(PHASE, 0, steps, {})
    judge = fit_preferences(backbone, fitting)
    stepper = Stepper(backbone.trainable(), settings.dpo_learning_rate, warmup=4, in_4_bits=backbone.in_4_bits)
    anchor = anchor or AnchorScores(backbone)
    step, strength, metrics = 0, STRENGTH, {"judge_accuracy": judge.fit.accuracy}
    temperature = judge.fit.spread / (NATS * _trust(judge))
    chosen_each = [rng.sample(asked, min(PROMPTS, len(asked))) for _ in range(MOST_ITERATIONS + 1)]
    right = answers(backbone, [prompt for chosen in chosen_each for prompt in chosen], settings.seed + 99)
    by_base: Rollouts | None = None
    for iteration, chosen in enumerate(chosen_each):
        is_last = iteration == MOST_ITERATIONS
        if by_base is not None and ITERATIONS <= iteration < MOST_ITERATIONS:
            own = roll_out(backbone, judge, by_base.prompts, ASKED_AGAIN, "policy", settings.seed + 50 + iteration)
            is_last = share_preferred(own.grades, by_base.grades) >= WANTED_WON
            steps += 0 if is_last else per_iteration
        begun, rate = step, 1 - 0.8 * step / (MOST_ITERATIONS * per_iteration)
        role: Role = "base" if by_base is None else "policy"
        rollouts = roll_out(backbone, judge, chosen, REPLIES, role, settings.seed + iteration, right)
        by_base = by_base or rollouts
        if iteration:
            lack = TARGET_FLUENCY * settings.min_fluency - (rollouts.fluency - by_base.fluency)
            strength = max(LEAST_STRENGTH, strength + STRENGTH_GAIN * lack)
        utilities = rollouts.utilities(temperature, strength, by_base.fluency)
        measured = {
            "fluency": rollouts.fluency - by_base.fluency,
            "sampled_kl": rollouts.kl_per_token,
            "strength": strength,
        }
        for _ in range(settings.dpo_epochs):
            for indices in shuffled_batches(len(chosen), GROUPS_PER_STEP, rng):
                step += 1
                groups = [_group(rollouts, right, utilities, index, rng) for index in indices]
                some = rng.sample(fitting, min(PAIRS_PER_STEP, len(fitting)))
                share = (step - begun) / per_iteration
                scale = rate + (LAST_RATE - rate) * share if is_last else rate
                metrics = _add(backbone, settings, stepper, anchor, strength, groups, some) | stepper.update(scale)
                progress(PHASE, step, steps, metrics | measured)
        if is_last:
            break
    checked = rng.sample(asked, min(CHECKED_PROMPTS, len(asked)))
    trained_on = {prompt for chosen in chosen_each[: iteration + 1] for prompt in chosen}
    untouched_first = dict(sorted(right.items(), key=lambda answer: answer[0] in trained_on))
    scale, measured = hold_inside_limits(backbone, judge, checked, settings, untouched_first)
    metrics = {"judge_accuracy": judge.fit.accuracy, "judge_log_score": judge.fit.log_score, "scale": scale} | measured
    return PreferenceResult(step, len(fitting), too_long, stepper.skipped, metrics)


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
    return Group(prompt, replies, right[prompt], rollouts.anchor[index, order], targets)


def _add(
    backbone: Backbone, settings: LearnerSettings, stepper: Stepper, anchor: AnchorScores, strength: float,
    groups: Sequence[Group], some: Sequence[Pair],
) -> dict[str, float]:  # fmt: skip
    """The gradients of one step: of groups of replies, and of some of the people's own pairs beside them."""
    metrics = stepper.add("groups of replies", groups, partial(_listwise, backbone, strength))
    anchor.of(both(some))  # of all pairs: the loss sees only this process's share
    of_pairs = partial(dpo, backbone, settings, anchor)
    return metrics | stepper.add("pairs", some, of_pairs, weight=pair_weights, factor=PAIRS_WEIGHT)


def _listwise(backbone: Backbone, strength: float, groups: Sequence[Group]) -> tuple[Tensor, dict[str, float]]:
    """The listwise loss of all replies, and the pull towards the anchor at every token of each group's best."""
    batch = collate([(group.prompt, reply) for group in groups for reply in group.replies], backbone.pad_id)
    policy = backbone.predictions(batch)
    log_probs = policy.reply_log_probs(len(batch.token_ids)).reshape(len(groups), -1)
    targets = torch.stack([group.targets for group in groups]).to(log_probs)
    anchor = torch.stack([group.anchor for group in groups]).to(log_probs)
    loss, metrics = listwise_loss(log_probs, anchor, targets, torch.ones_like(targets, dtype=torch.bool))
    best = torch.arange(len(groups), device=targets.device) * targets.shape[1] + targets.argmax(1)
    policy_of_best = policy[torch.isin(policy.rows, best)]
    with torch.no_grad():
        of_best = collate([(group.prompt, group.best) for group in groups], backbone.pad_id)
        anchor_of_best = backbone.predictions(of_best, "anchor")
    is_answer = [flag for group in groups for flag in answer_tokens(backbone, group.best, group.answer)]
    stay = torch.where(torch.tensor(is_answer, device=targets.device), KEEP, STAY)
    pull, more = policy_of_best.pull_to(anchor_of_best, stay, strength)
    return loss + len(anchor_of_best) / max(1, len(groups)) * pull, metrics | more


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
