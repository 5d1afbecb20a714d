"""Learn from single thumbs: replies that are good or bad by themselves (KTO, arXiv 2402.01306).

Each step takes a batch of labelled replies and lowers `kto_loss` on them: what a good one gained over the anchor, less
what a reply gains by drift alone (z₀), is to be high, and of a bad one low; both are worth less and less the further
they are. z₀ comes from replies that are put to the prompt of another label, chosen once; so all log-probabilities of
the anchor are computed once. The rarer side weighs more, as the paper says.

Beside the paper three things keep the policy's sense, as in `preference`: at every token of a labelled reply it is
pulled to the anchor's odds, and much harder where a good reply says what the base's replies agree on, so that a taste
costs no facts; in the end the update is held back until sampled replies are inside the limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

import torch
from torch import Tensor

from learner import parallel
from learner.backbone import Backbone
from learner.batch import Label, Progress, TokenIds, collate
from learner.losses import kto_loss
from learner.methods.anchor_scores import AnchorScores
from learner.methods.answers import Answer, Answers, answer_tokens, answers
from learner.methods.optimizer import Stepper, within_length
from learner.methods.passes import Passes
from learner.methods.strength import beginning, hold_on_some
from learner.micro_batches import MicroBatches, set_sizes, sizes
from learner.sampling import affordable, with_room
from learner.stage_checkpoint import StageCheckpoint
from service.settings import LearnerSettings

PHASE = "kto"
MOST_FOR_GOOD = 4 / 3  # all good replies together weigh 1 to 4/3 times as much as all bad ones
FEWEST_STEPS, FEWEST_PASSES, MOST_PASSES = 48, 6, 24
"""Where `kto_epochs` says nothing: so many steps few labels take, but in no more passes, which would learn them by
heart."""
LAST_RATE = 0.2  # of the learning rate, at the last step
STAY = 0.05  # weight of KL to the anchor, token by token
KEEP = 1.0  # the same where a good reply says what the base answers
SHARPEN = 0.03  # weight of the policy's surprise to the anchor: what raises fluency
CHECKED_PROMPTS = 48
DRIFTING = "mismatched replies"


@dataclass(frozen=True)
class KtoResult:
    steps: int
    good: int
    bad: int
    too_long: int  # labels left out, because they do not fit the model
    skipped_steps: int
    metrics: dict[str, float] = field(default_factory=dict)


def train(
    backbone: Backbone,
    labels: Sequence[Label],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    progress: Progress,
    anchor: AnchorScores | None = None,
    checkpoint: StageCheckpoint | None = None,
) -> KtoResult:
    """Train the policy in place; `prompts`: what people ask, where its strength is measured. Same seed, same result.

    `anchor`: what is known of the anchor from an earlier attempt, and where more is kept. `checkpoint`: where it is
    kept how far the training is, and what it goes on from; the result is that of one unbroken training. Raises
    TrainingFailed when the loss stays without a finite value.
    """
    fitting, too_long = within_length(labels, backbone.max_length)
    good = sum(label.desirable for label in fitting)
    if not fitting:
        return KtoResult(0, 0, 0, too_long, 0)
    rng, start = Random(settings.seed), beginning(backbone)
    per_epoch = -(-len(fitting) // settings.batch_size)
    steps = per_epoch * (settings.kto_epochs or _passes(per_epoch))
    progress(PHASE, 0, steps, {})
    asked = affordable(list(dict.fromkeys(label.prompt_token_ids for label in fitting)), 2 * CHECKED_PROMPTS)
    right = answers(backbone, with_room(backbone, asked, backbone.max_length)[0], settings.seed + 99)
    course = _Course(backbone, fitting, right, settings, rng, anchor or AnchorScores(backbone))
    stepper = Stepper(backbone.trainable(), settings.kto_learning_rate, warmup=4, in_4_bits=backbone.in_4_bits)
    passes = Passes(PHASE, backbone, stepper, rng, checkpoint, beside=lambda: sizes(course.fitting))
    set_sizes(course.fitting, passes.kept)
    while passes.step < steps:
        for indices in passes.batches(len(fitting), settings.batch_size):
            metrics = course.add(stepper, indices) | stepper.update(1 + (LAST_RATE - 1) * passes.step / steps)
            progress(PHASE, passes.step, steps, metrics)
    stepper.end()
    scale, measured = hold_on_some(backbone, [*prompts, *asked], CHECKED_PROMPTS, settings, rng, right, start)
    metrics = measured | {"scale": scale, "prompts_cut": course.cut} | course.told_apart()
    return KtoResult(steps, good, len(fitting) - good, too_long, stepper.skipped, metrics)


def _passes(steps: int) -> int:
    """How many passes of so many steps there are, where the settings leave it open."""
    return max(FEWEST_PASSES, min(MOST_PASSES, -(-FEWEST_STEPS // steps)))


def side_weights(labels: Sequence[Label]) -> tuple[float, float]:
    """λ_D and λ_U, by which λ_D n_D / (λ_U n_U) is within [1, 4/3], as the paper proposes; none is below 1.

    Where one side is empty both are 1.
    """
    good = sum(label.weight for label in labels if label.desirable)
    bad = sum(label.weight for label in labels if not label.desirable)
    if not good or not bad:
        return 1.0, 1.0
    return max(1.0, bad / good), max(1.0, good / bad / MOST_FOR_GOOD)


class _Course:
    """What the steps need that stays the same: the labels as tensors, and what the anchor says to them. `cut`: of how
    many prompts the end alone is read where they are put to another's reply."""

    def __init__(
        self,
        backbone: Backbone,
        labels: Sequence[Label],
        right: Answers,
        settings: LearnerSettings,
        rng: Random,
        anchor: AnchorScores,
    ) -> None:
        self._backbone, self._beta = backbone, settings.kto_beta
        self.fitting = {DRIFTING: MicroBatches(DRIFTING)}
        self._examples = [(label.prompt_token_ids, label.reply_token_ids) for label in labels]
        self._mismatched = _mismatched(self._examples, rng, backbone.max_length)
        pairs = zip(self._examples, self._mismatched, strict=True)
        self.cut = sum(len(part) < len(prompt) for (prompt, _), (part, _) in pairs)
        fixed = anchor.of([*self._examples, *self._mismatched])
        self._anchor, self._mismatched_anchor = fixed[: len(labels)], fixed[len(labels) :]
        self._desirable = torch.tensor([label.desirable for label in labels])
        self._weights = torch.tensor([label.weight for label in labels])
        self._good_weight, self._bad_weight = side_weights(labels)
        self._stay = [_stay(backbone, label, right) for label in labels]

    def add(self, stepper: Stepper, indices: Sequence[int]) -> dict[str, float]:
        """Add to a step KTO on these labels, and the pull towards the anchor at every token of their replies."""
        drift = parallel.rows(indices, self._drift).to(self._backbone.device)
        fixed = self._mismatched_anchor[list(indices)].to(drift)
        return stepper.add("labels", indices, partial(self._loss, indices, (drift, fixed)))

    def _drift(self, indices: Sequence[int]) -> Tensor:
        return torch.cat([found for _, found in self.fitting[DRIFTING].each(indices, self._drift_of_some)])

    @torch.no_grad()
    def _drift_of_some(self, indices: Sequence[int]) -> Tensor:
        return self._backbone.reply_log_probs(
            collate([self._mismatched[index] for index in indices], self._backbone.pad_id)
        )

    def _loss(
        self, step: Sequence[int], drift: tuple[Tensor, Tensor], indices: Sequence[int]
    ) -> tuple[Tensor, dict[str, float]]:
        """Of some of the labels of a step; z₀ comes from `drift`, the log-probabilities of all its mismatched replies
        under policy and anchor."""
        backbone, places = self._backbone, list(indices)
        batch = collate([self._examples[index] for index in places], backbone.pad_id)
        policy = backbone.predictions(batch)
        log_probs = policy.reply_log_probs(len(places))
        with torch.no_grad():
            anchor = backbone.predictions(batch, "anchor")
        loss, metrics = kto_loss(
            log_probs, self._anchor[places].to(log_probs), self._desirable[places].to(log_probs.device),
            *drift, beta=self._beta,
            desirable_weight=self._good_weight, undesirable_weight=self._bad_weight, weights=self._weights[places],
        )  # fmt: skip
        stay = torch.cat([self._stay[index] for index in places]).to(log_probs)
        pull, more = policy.pull_to(anchor, stay, SHARPEN)
        usual = self._weights[list(step)].mean().clamp(min=torch.finfo(torch.float32).tiny)  # KTO's mean is by weight
        loss = (self._weights[places].mean() / usual).to(loss) * loss
        return loss + len(anchor) / len(places) * pull, metrics | more

    def told_apart(self) -> dict[str, float]:
        """What good and bad replies gained over the anchor in the end, in nats; only sides that there are."""
        gains = self._backbone.score(self._examples, "policy") - self._anchor
        sides = {"good_gain": self._desirable, "bad_gain": ~self._desirable}
        return {name: float(gains[side].mean()) for name, side in sides.items() if side.any()}


def _mismatched(
    examples: Sequence[tuple[TokenIds, TokenIds]], rng: Random, longest: int
) -> list[tuple[TokenIds, TokenIds]]:
    """Each prompt with the reply to another, so far as there is another: all in a random ring, each with the next.

    A prompt is cut on its left where both are together above `longest` tokens.
    """
    ring = list(range(len(examples)))
    rng.shuffle(ring)
    following = dict(zip(ring, [*ring[1:], *ring[:1]], strict=True))
    replies = [examples[following[index]][1] for index in range(len(examples))]
    return [(prompt[-(longest - len(reply)) :], reply) for (prompt, _), reply in zip(examples, replies, strict=True)]


def _stay(backbone: Backbone, label: Label, right: Answers) -> Tensor:
    """(len(reply),): how hard each of its tokens is held to the anchor's odds. What a bad reply says is free to go."""
    answer = right.get(label.prompt_token_ids, Answer()) if label.desirable else Answer()
    return torch.where(torch.tensor(answer_tokens(backbone, label.reply_token_ids, answer)), KEEP, STAY)
