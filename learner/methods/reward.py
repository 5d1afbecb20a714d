"""Fit a reward model: how much people like a reply, from comparisons, rankings and thumbs.

Bradley-Terry on pairs (InstructGPT, arXiv 2203.02155, eq. 1), a ranking's pairs together in one step and as one group;
thumbs as labels of the same reward (good where it is above 0). The model is an adapter on the frozen backbone with
several heads. Each head learns from a bootstrap sample of its own (bagging, Breiman 1996), so where the feedback leaves
open which reply is better, the heads disagree. Some prompts are kept apart: they say when to stop, how often the reward
is right (a little flattered, as it was chosen by them), and by how much it has to be divided to be the log-odds of
being preferred (arXiv 1706.04599).

    model = reward.fit(backbone, pairs, labels, settings.learner, progress)
    graded = model.grade([(prompt, reply), …])
    graded.mean, graded.disagreement
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from learner.backbone import Backbone
from learner.batch import Example, Label, Pair, Progress, TokenIds, by_length, collate
from learner.methods.optimizer import Stepper, within_length
from learner.micro_batches import MicroBatches
from learner.reward_losses import binary_reward_loss, ensemble, fit_temperature, pairwise_reward_loss
from service.errors import TrainingFailed
from service.settings import LearnerSettings

PHASE = "reward"
MEMBERS = 4
"""Heads. A few tell doubt from certainty; each more costs next to nothing, and says little new."""
KEPT_APART = 5
"""One prompt in so many, where there are at least FEWEST_KEPT of them; fewer tell nothing, and all are learned from."""
FEWEST_KEPT = 8
PATIENCE = 3
"""Passes without a better log-likelihood of what is kept apart, after which training stops."""
CENTRING = 0.01
"""Weight of the mean reward's square, which no comparison pins down."""
LAST_RATE = 0.1
SCORED_AT_ONCE = 64


@dataclass(frozen=True)
class RewardFit:
    """How well the reward model foretells judgements that it did not learn from (`kept`: of how many prompts)."""

    pairs: int
    labels: int
    too_long: int  # judgements left out, because they do not fit the model
    steps: int
    skipped_steps: int
    kept: int
    accuracy: float | None  # of the decided pairs, then of the labels, that were kept apart
    label_accuracy: float | None
    log_likelihood: float | None  # per pair, in nats, calibrated; -log 2 = -0.693 is knowing nothing
    temperature: float  # the raw reward divided by this is the log-odds of being preferred


@dataclass(frozen=True)
class Graded:
    """Rewards of N replies, as log-odds; comparable between replies to one prompt."""

    mean: Tensor  # (N,) over the heads
    disagreement: Tensor  # (N,) standard deviation over the heads


class RewardModel:
    """The backbone in its role as reward, with what it takes to read its numbers."""

    def __init__(self, backbone: Backbone, fit: RewardFit) -> None:
        self._backbone, self.fit = backbone, fit

    def grade(self, examples: Sequence[Example]) -> Graded:
        """Of whole replies, EOS included. Replies without a token have the lowest reward that there is among them."""
        said = torch.tensor([bool(reply) for _, reply in examples])
        raw = torch.zeros(len(examples), MEMBERS)
        raw[said] = _score(self._backbone, [example for example in examples if example[1]])
        if said.any():
            raw[~said] = raw[said].amin(0)
        return Graded(*ensemble((raw / self.fit.temperature).T))

    def score(self, examples: Sequence[Example]) -> Tensor:
        """(len(examples),): the mean rewards."""
        return self.grade(examples).mean


def fit(
    backbone: Backbone,
    pairs: Sequence[Pair],
    labels: Sequence[Label],
    settings: LearnerSettings,
    progress: Progress,
) -> RewardModel:
    """Train the backbone's reward role, from nothing. Same seed, same result.

    Raises TrainingFailed when there is neither a decided pair nor labels of both kinds, or when the loss stays without
    a finite value.
    """
    fitting, too_long = within_length(pairs, backbone.max_length)
    called, more = within_length(labels, backbone.max_length)
    decided = any(not pair.tie for pair in fitting)
    if not decided and len({label.desirable for label in called}) < 2:
        raise TrainingFailed(
            "There is nothing to fit a reward model to.",
            "It needs comparisons with a better reply, or thumbs up and thumbs down.",
        )
    backbone.add_head("reward", MEMBERS, settings.seed)
    rng = Random(settings.seed)
    apart = _kept_apart([*fitting, *called], rng)
    taught = _Lessons(backbone, [one for one in fitting if one.prompt_token_ids not in apart],
                      [one for one in called if one.prompt_token_ids not in apart], settings.seed)  # fmt: skip
    kept = _Lessons(backbone, [one for one in fitting if one.prompt_token_ids in apart],
                    [one for one in called if one.prompt_token_ids in apart])  # fmt: skip
    stepper = Stepper(backbone.trainable("reward"), settings.reward_learning_rate, warmup=4)
    steps = settings.reward_epochs * len(list(taught.batches(settings.batch_size, Random(0))))
    step, since, best = 0, 0, math.inf
    best_state = backbone.adapter_state("reward")
    progress(PHASE, 0, steps, {})
    while step < steps and since < PATIENCE:
        for pairs_of_step, labels_of_step in taught.batches(settings.batch_size, rng):
            step += 1
            metrics = taught.add(stepper, pairs_of_step, labels_of_step, settings.reward_label_smoothing)
            metrics |= stepper.update(1 + (LAST_RATE - 1) * step / steps)
            progress(PHASE, step, steps, metrics)
        if apart:
            lost = kept.log_loss()
            since = since + 1 if lost >= best else 0
            if lost < best:
                best, best_state = lost, backbone.adapter_state("reward")
    if apart:
        backbone.load_adapter_state(best_state, "reward")
    counts = {"pairs": len(fitting), "labels": len(called), "too_long": too_long + more, "kept": len(apart)}
    return RewardModel(backbone, RewardFit(**counts, steps=step, skipped_steps=stepper.skipped, **kept.figures()))


class _Lessons:
    """Judgements to learn the reward from, or to measure it on. With a `seed` each head gets a bootstrap sample."""

    def __init__(
        self, backbone: Backbone, pairs: Sequence[Pair], labels: Sequence[Label], seed: int | None = None
    ) -> None:
        self._backbone, self._pairs, self._labels = backbone, pairs, labels
        names = [pair.group or f"pair {index}" for index, pair in enumerate(pairs)]
        self._groups = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self._group = torch.tensor([self._groups[name] for name in names], dtype=torch.long)
        drawn = torch.ones(len(self._groups) + len(labels), MEMBERS)
        if seed is not None:  # how often each of n is among n draws from them, nearly
            drawn = torch.poisson(drawn, torch.Generator().manual_seed(seed))
        self._pairs_drawn, self._labels_drawn = drawn[: len(self._groups)][self._group], drawn[len(self._groups) :]

    def batches(self, size: int, rng: Random) -> Iterator[tuple[list[int], list[int]]]:
        """Indices of pairs and of labels, in random order, about `size` in all; a ranking's pairs stay together."""
        members: defaultdict[int, list[int]] = defaultdict(list)
        for index, group in enumerate(self._group.tolist()):
            members[group].append(index)
        units = [(group, list[int]()) for group in members.values()]
        units += [(list[int](), [index]) for index in range(len(self._labels))]
        rng.shuffle(units)
        pairs, labels = list[int](), list[int]()
        for some_pairs, some_labels in units:
            pairs += some_pairs
            labels += some_labels
            if len(pairs) + len(labels) >= size:
                yield pairs, labels
                pairs, labels = [], []
        if pairs or labels:
            yield pairs, labels

    def add(self, stepper: Stepper, pairs: Sequence[int], labels: Sequence[int], smoothing: float) -> dict[str, float]:
        """Add the loss of these to a step, a ranking's pairs together as one. Metrics: of the last head."""
        groups = self._group[list(pairs)].tolist()
        sizes = Counter(groups)
        of_pairs = torch.zeros(len(self._pairs), MEMBERS)
        of_pairs[list(pairs)] = self._weights(self._pairs, pairs, self._pairs_drawn)
        of_pairs[list(pairs)] /= torch.tensor([sizes[group] for group in groups]).unsqueeze(1)
        of_labels = torch.zeros(len(self._labels), MEMBERS)
        of_labels[list(labels)] = self._weights(self._labels, labels, self._labels_drawn)
        loss = partial(self._loss, (of_pairs, of_labels), (len(pairs), len(labels)), smoothing)
        return stepper.add("judgements", [*((0, index) for index in pairs), *((1, index) for index in labels)], loss)

    def _loss(
        self,
        weights: tuple[Tensor, Tensor],
        counts: tuple[int, int],
        smoothing: float,
        part: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean over the heads, each on its own sample; a label counts as much as a pair.

        weights: (all pairs, MEMBERS) and (all labels, MEMBERS), 0 for what isn't of the step; counts: of the step;
        part: some of it, pairs as (0, index) and labels as (1, index).
        """
        pairs, labels = ([index for kind, index in part if kind == wanted] for wanted in (0, 1))
        chosen, rejected, called = self._rewards(pairs, labels)
        device, losses, metrics = chosen.device, list[Tensor](), dict[str, float]()
        of_pairs, of_labels = weights[0][pairs].to(device), weights[1][labels].to(device)
        scales = [
            count * some.sum(0) / of_all.sum(0).to(device).clamp(min=1e-30) / len(part)
            for count, some, of_all in zip(counts, (of_pairs, of_labels), weights, strict=True)
        ]
        for head in range(MEMBERS):
            lost, metrics = pairwise_reward_loss(
                chosen[:, head], rejected[:, head], label_smoothing=smoothing, centring=CENTRING,
                margins=torch.tensor([self._pairs[index].margin for index in pairs]).clamp(min=1e-6).log().to(device),
                ties=torch.tensor([self._pairs[index].tie for index in pairs], dtype=torch.bool, device=device),
                weights=of_pairs[:, head],
            )  # fmt: skip
            good = torch.tensor([self._labels[index].desirable for index in labels], dtype=torch.bool, device=device)
            also, more = binary_reward_loss(
                called[:, head], good, weights=of_labels[:, head], label_smoothing=smoothing
            )  # fmt: skip
            metrics = (metrics if len(pairs) else {}) | (more if len(labels) else {})
            losses.append(scales[0][head] * lost + scales[1][head] * also)
        return torch.stack(losses).mean(), metrics

    def log_loss(self) -> float:
        """Negative log-likelihood per judgement under the mean of the heads, calibrated, in nats."""
        logits, targets = self._logits()
        return float(binary_cross_entropy_with_logits(logits / fit_temperature(logits, targets), targets))

    def figures(self) -> dict[str, Any]:
        """What `RewardFit` says of judgements that were kept apart; of none, nothing."""
        if not self._pairs and not self._labels:
            return {"accuracy": None, "label_accuracy": None, "log_likelihood": None, "temperature": 1.0}
        logits, targets = self._logits()
        temperature = fit_temperature(logits, targets)
        right = ((logits > 0) == (targets > 0.5)).float()
        is_pair = torch.arange(len(targets)) < len(self._pairs)
        return {
            "accuracy": _mean(right[is_pair & (targets != 0.5)]),
            "label_accuracy": _mean(right[~is_pair]),
            "log_likelihood": -float(binary_cross_entropy_with_logits(logits / temperature, targets)),
            "temperature": temperature,
        }

    def _logits(self) -> tuple[Tensor, Tensor]:
        """Log-odds that the first of a pair is better, then that a labelled reply is good; and what people said."""
        rewards = _score(self._backbone, _replies(self._pairs, self._labels)).mean(1)
        chosen, rejected, called = rewards.split([len(self._pairs), len(self._pairs), len(self._labels)])
        said = [0.5 if pair.tie else 1.0 for pair in self._pairs] + [float(one.desirable) for one in self._labels]
        return torch.cat([chosen - rejected, called]), torch.tensor(said)

    def _rewards(self, pairs: Sequence[int], labels: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Of chosen, rejected and labelled replies, (…, MEMBERS) each; the prompt of a pair is computed once."""
        two, one = [self._pairs[index] for index in pairs], [self._labels[index] for index in labels]
        rewards = self._backbone.rewards(collate(_replies(two, one), self._backbone.pad_id))
        first, second, third = rewards.split([len(two), len(two), len(one)])
        return first, second, third

    @staticmethod
    def _weights(judgements: Sequence[Pair] | Sequence[Label], indices: Sequence[int], drawn: Tensor) -> Tensor:
        """(len(indices), MEMBERS)"""
        return drawn[list(indices)] * torch.tensor([judgements[index].weight for index in indices]).unsqueeze(1)


def _replies(pairs: Sequence[Pair], labels: Sequence[Label]) -> list[Example]:
    """The chosen ones, then the rejected, then the labelled."""
    return [
        *((pair.prompt_token_ids, pair.chosen) for pair in pairs),
        *((pair.prompt_token_ids, pair.rejected) for pair in pairs),
        *((label.prompt_token_ids, label.reply_token_ids) for label in labels),
    ]


@torch.no_grad()
def _score(backbone: Backbone, examples: Sequence[Example]) -> Tensor:
    """What each head says of each reply: (len(examples), MEMBERS), on the CPU."""
    raw, fitting = torch.zeros(len(examples), MEMBERS), MicroBatches("graded replies")

    def rewards(indices: Sequence[int]) -> Tensor:
        return backbone.rewards(collate([examples[index] for index in indices], backbone.pad_id)).cpu()

    for indices in by_length([len(prompt) + len(reply) for prompt, reply in examples], SCORED_AT_ONCE):
        for part, found in fitting.each(indices, rewards):
            raw[list(part)] = found
    return raw


def _kept_apart(judgements: Sequence[Pair | Label], rng: Random) -> frozenset[TokenIds]:
    """Prompts that only measure: all that people said about one is either learned from or not."""
    prompts = list(dict.fromkeys(one.prompt_token_ids for one in judgements))
    count = len(prompts) // KEPT_APART
    return frozenset(rng.sample(prompts, count)) if count >= FEWEST_KEPT else frozenset()


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None
