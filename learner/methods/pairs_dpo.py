"""DPO as its authors have it (arXiv 2305.18290): on pairs as people judged them, and on nothing else.

Each step takes a batch of pairs and raises the policy's odds of the better reply over the worse one, against the
anchor's, by β: with margins and ties, and for people who err conservative or robust label smoothing (`dpo_loss`). What
the anchor says of all pairs is computed once. Where pairs are many, and their replies near to what the policy says,
that is all it takes. Where they are few it moves what nobody judged, which is why `preference` samples.

Beside the paper the rate falls to a fifth, and in the end the update is held back until sampled replies are inside the
limits, as with the other methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

from learner.backbone import Backbone
from learner.batch import Pair, Progress, TokenIds
from learner.methods.anchor_scores import AnchorScores
from learner.methods.answers import answers
from learner.methods.optimizer import Stepper, within_length
from learner.methods.passes import Passes
from learner.methods.preference import PHASE, PreferenceResult, both, dpo, pair_weights
from learner.methods.strength import beginning, hold_on_some
from learner.sampling import affordable, with_room
from learner.stage_checkpoint import StageCheckpoint
from service.settings import LearnerSettings

LAST_RATE = 0.2  # of the learning rate, at the last step
CHECKED_PROMPTS = 48


def train(
    backbone: Backbone,
    pairs: Sequence[Pair],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    progress: Progress,
    anchor: AnchorScores | None = None,
    checkpoint: StageCheckpoint | None = None,
) -> PreferenceResult:
    """Train the policy in place; `prompts`: what people ask, where its strength is measured. Same seed, same result.

    Ties alone, which ask for nothing to be preferred, train nothing. `anchor`: what is known of the anchor from an
    earlier attempt, and where more is kept. `checkpoint`: where it is kept how far the training is, and what it goes on
    from; the result is that of one unbroken training. Raises TrainingFailed when the loss stays without a finite value.
    """
    fitting, too_long = within_length(pairs, backbone.max_length)
    if all(pair.tie for pair in fitting):
        return PreferenceResult(0, len(fitting), too_long, 0)
    rng, start, anchor = Random(settings.seed), beginning(backbone), anchor or AnchorScores(backbone)
    steps = settings.dpo_epochs * -(-len(fitting) // settings.batch_size)
    progress(PHASE, 0, steps, {})
    anchor.of(both(fitting))  # of all pairs: the loss sees only this process's share
    asked = affordable(list(dict.fromkeys(pair.prompt_token_ids for pair in fitting)), 2 * CHECKED_PROMPTS)
    right = answers(backbone, with_room(backbone, asked, backbone.max_length)[0], settings.seed + 99)
    stepper = Stepper(backbone.trainable(), settings.dpo_learning_rate, warmup=4, in_4_bits=backbone.in_4_bits)
    loss, passes = partial(dpo, backbone, settings, anchor), Passes(PHASE, backbone, stepper, rng, checkpoint)
    while passes.step < steps:
        for indices in passes.batches(len(fitting), settings.batch_size):
            metrics = stepper.add("pairs", [fitting[index] for index in indices], loss, weight=pair_weights)
            metrics |= stepper.update(1 + (LAST_RATE - 1) * passes.step / steps)
            progress(PHASE, passes.step, steps, metrics)
    stepper.end()
    scale, measured = hold_on_some(backbone, [*prompts, *asked], CHECKED_PROMPTS, settings, rng, right, start)
    metrics = measured | {"scale": scale, "odds_gained": _odds_gained(backbone, fitting, anchor)}
    return PreferenceResult(steps, len(fitting), too_long, stepper.skipped, metrics)


def _odds_gained(backbone: Backbone, pairs: Sequence[Pair], anchor: AnchorScores) -> float:
    """By how many nats better replies gained on worse ones over the anchor in the end: the mean over pairs."""
    decided = [pair for pair in pairs if not pair.tie]
    better, worse = (backbone.score(both(decided), "policy") - anchor.of(both(decided))).chunk(2)
    return float((better - worse).mean())
