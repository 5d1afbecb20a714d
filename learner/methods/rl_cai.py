"""The AI-feedback stage of Constitutional AI (Bai et al., arXiv 2212.08073, section 4), by DPO: learn a judge's odds.

The policy's own pairs carry soft labels, the odds that a judge gave under the principles; people's pairs go beside them
in a set mixture: helpfulness is theirs to say, harmlessness the constitution's. A pair costs -p log σ(z) - (1 - p) log
σ(-z), z as in DPO (arXiv 2305.18290), so that there is an optimum: odds of p, and no endless push. At harmless prompts
the policy is held to the odds that it had (`learner.methods.beside_kept`). A reward model and PPO, or RAFT, take
the same mixture (`learner.preferences`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random

from learner.backbone import Backbone
from learner.batch import Example, Pair, Progress, TokenIds, thinned
from learner.constitution.judging import decided
from learner.methods.anchor_scores import AnchorScores
from learner.methods.beside_kept import Learned, Lesson, learn
from learner.methods.optimizer import within_length
from learner.methods.preference import both, dpo, pair_weights
from learner.stage_checkpoint import StageCheckpoint
from service.settings import LearnerSettings

PHASE = "rl-cai"
EPOCHS = 3
RATE = 0.75
"""Times the learning rate of comparisons: clear pairs are few, and say all that there is to learn soon."""
KEPT_WEIGHT = 10.0


def mixed(ai_pairs: Sequence[Pair], human: Sequence[Pair], human_share: float) -> list[Pair]:
    """Both, weighted so that people's make up `human_share` of all weight; the AI's alone where there are no others."""
    theirs = sum(pair.weight for pair in human)
    of_ai = sum(pair.weight for pair in ai_pairs)
    if not theirs or not of_ai:
        return [*ai_pairs, *human]
    for_ai = (1 - human_share) * (of_ai + theirs) / of_ai
    for_human = human_share * (of_ai + theirs) / theirs
    return [
        *(replace(pair, weight=for_ai * pair.weight) for pair in ai_pairs),
        *(replace(pair, weight=for_human * pair.weight) for pair in human),
    ]


def mixed_for_reward(
    ai_pairs: Sequence[Pair], human: Sequence[Pair], alone: int, human_share: float
) -> tuple[list[Pair], float]:
    """The same for a reward model, which learns from what people said of so many replies by themselves, too (`alone`:
    thumbs, labels of harm, scores): with the pairs comes what one of these counts against a pair, so that pairs and
    these, which keep their proportion, make up people's share together."""
    groups = len({pair.group or number for number, pair in enumerate(human)})  # a ranking counts as one
    if not alone or not ai_pairs:
        return mixed(ai_pairs, human, human_share), 1.0
    for_one = human_share * (len(ai_pairs) + groups) / (groups + alone * (1 - human_share))
    return mixed(ai_pairs, human, for_one * groups / (len(ai_pairs) + groups)), for_one


def told_apart(pairs: Sequence[Pair], rng: Random, reasoned: bool = False) -> list[Pair]:
    """Those that the judge tells apart, and no more others than these: both replies of most pairs are as good, and what
    they teach, to stay where one is, is learned from few. `reasoned`: as in `judging.decided`."""
    return thinned(pairs, lambda pair: pair.tie or pair.certainty >= decided(reasoned), rng)


def where_they_belong(
    pairs: Sequence[Pair], kept: Sequence[Example], rng: Random, reasoned: bool = False
) -> list[Pair]:
    """For a reward model, which from replies to requests for harm alone learns that every refusal is good: to a
    harmless prompt, what the policy said there is better than what the judge preferred elsewhere. As many as `pairs` at
    most. `reasoned`: as in `judging.decided`."""
    preferred = [pair.chosen for pair in pairs if not pair.tie and pair.certainty >= decided(reasoned)]
    if not preferred:
        return []
    drawn = [(prompt, reply, rng.choice(preferred)) for prompt, reply in rng.sample(kept, min(len(kept), len(pairs)))]
    return [Pair(prompt, reply, other) for prompt, reply, other in drawn if reply != other]


def train(
    backbone: Backbone,
    pairs: Sequence[Pair],
    kept: Sequence[Example],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    progress: Progress,
    anchor: AnchorScores | None = None,
    checkpoint: StageCheckpoint | None = None,
) -> Learned:
    """Train the policy in place, on a mixture of pairs. `prompts`: what people ask, where its strength is measured.

    Same seed, same result. `checkpoint`: as in `beside_kept.learn`. Raises TrainingFailed as that does.
    """
    fitting, too_long = within_length([pair for pair in pairs if pair.weight > 0], backbone.max_length)
    rng, anchor = Random(settings.seed), anchor or AnchorScores(backbone)
    if fitting:
        anchor.of(both(fitting))  # of all pairs: the loss sees only this process's share of a step
    lesson = Lesson(
        PHASE, fitting, partial(dpo, backbone, settings, anchor), pair_weights, EPOCHS,
        RATE * settings.dpo_learning_rate, KEPT_WEIGHT,
    )  # fmt: skip
    return learn(backbone, lesson, kept, prompts, settings, progress, rng, too_long, checkpoint)
