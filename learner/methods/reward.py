"""Fit a reward model: how much people like a reply, from comparisons, rankings, thumbs and scores.

Bradley-Terry on pairs (InstructGPT, arXiv 2203.02155, eq. 1), a ranking's pairs together in one step and as one group;
thumbs as labels of the same reward (good where it is above 0); single scores by Huber's regression (`bagging`). Some
prompts are kept apart: they say when to stop, how often the reward is right (a little flattered, as it was chosen by
them), and by how much it has to be divided to be the log-odds of being preferred (arXiv 1706.04599).

    model = reward.fit(backbone, pairs, labels, settings.learner, progress)
    graded = model.grade([(prompt, reply), …])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from learner.backbone import Backbone
from learner.batch import Label, Pair, Progress, Scored, TokenIds
from learner.methods.bagging import BaggedJudgements
from learner.methods.optimizer import Stepper, within_length
from learner.methods.reward_model import MEMBERS, RewardFit, RewardModel
from service.errors import TrainingFailed
from service.settings import LearnerSettings

PHASE = "reward"
KEPT_APART = 5
"""One prompt in so many, where there are at least FEWEST_KEPT of them; fewer tell nothing, and all are learned from."""
FEWEST_KEPT = 8
PATIENCE = 3
"""Passes without a better log-likelihood of what is kept apart, after which training stops."""
LAST_RATE = 0.1


def fit(
    backbone: Backbone,
    pairs: Sequence[Pair],
    labels: Sequence[Label],
    settings: LearnerSettings,
    progress: Progress,
    scored: Sequence[Scored] = (),
) -> RewardModel:
    """Train the backbone's reward role, from nothing. Same seed, same result.

    Raises TrainingFailed when there is neither a decided pair nor labels of both kinds nor two different scores, or
    when the loss stays without a finite value.
    """
    fitting, too_long = within_length(pairs, backbone.max_length)
    called, more = within_length(labels, backbone.max_length)
    rated, even_more = within_length(scored, backbone.max_length)
    decided = any(not pair.tie for pair in fitting)
    if not decided and len({label.desirable for label in called}) < 2 and len({one.points for one in rated}) < 2:
        raise TrainingFailed(
            "There is nothing to fit a reward model to.",
            "It needs comparisons with a better reply, thumbs up and thumbs down, or different scores.",
        )
    backbone.add_head("reward", MEMBERS, settings.seed)
    rng = Random(settings.seed)
    apart = _kept_apart([*fitting, *called, *rated], rng)
    taught, kept = (
        BaggedJudgements(
            backbone,
            [one for one in fitting if (one.prompt_token_ids in apart) == is_kept],
            [one for one in called if (one.prompt_token_ids in apart) == is_kept],
            [one for one in rated if (one.prompt_token_ids in apart) == is_kept],
            None if is_kept else settings.seed,
        )
        for is_kept in (False, True)
    )
    own, rate = backbone.trainable("reward"), settings.reward_learning_rate
    stepper = Stepper(own, rate, warmup=4, in_4_bits=backbone.in_4_bits)
    steps = settings.reward_epochs * len(list(taught.batches(settings.batch_size, Random(0))))
    step, since, best = 0, 0, math.inf
    best_state = backbone.adapter_state("reward")
    progress(PHASE, 0, steps, {})
    while step < steps and since < PATIENCE:
        for of_step in taught.batches(settings.batch_size, rng):
            step += 1
            metrics = taught.add(stepper, of_step, settings.reward_label_smoothing)
            metrics |= stepper.update(1 + (LAST_RATE - 1) * step / steps)
            progress(PHASE, step, steps, metrics)
        if apart:
            lost = kept.log_loss()
            since = since + 1 if lost >= best else 0
            if lost < best:
                best, best_state = lost, backbone.adapter_state("reward")
    if apart:
        backbone.load_adapter_state(best_state, "reward")
    counts = {"pairs": len(fitting), "labels": len(called), "scores": len(rated), "kept": len(apart)}
    counts["too_long"] = too_long + more + even_more
    return RewardModel(backbone, RewardFit(**counts, steps=step, skipped_steps=stepper.skipped, **kept.figures()))


def _kept_apart(judgements: Sequence[Pair | Label | Scored], rng: Random) -> frozenset[TokenIds]:
    """Prompts that only measure: all that people said about one is either learned from or not."""
    prompts = list(dict.fromkeys(one.prompt_token_ids for one in judgements))
    count = len(prompts) // KEPT_APART
    return frozenset(rng.sample(prompts, count)) if count >= FEWEST_KEPT else frozenset()
