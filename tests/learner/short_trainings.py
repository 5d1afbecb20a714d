"""A short training by each method, to be ended after a few updates."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from learner.backbone import Backbone
from learner.batch import Demonstration, Label, Pair
from learner.methods import kto, pairs_dpo, ppo, preference, raft, reward, rl_cai, sft, sl_cai
from service.settings import PpoSettings, RaftSettings
from tests.learner.colours import asked, comparisons, said
from tests.learner.progress import Heard
from tests.learner.tiny_backbone import SETTINGS
from tests.learner.tiny_model import ids
from tests.learner.toy_rewards import Counting

PROMPTS = [ids(f"<bos> {a} {b} ?") for a in ("one", "two", "three", "four") for b in ("blue", "red", "green", "paris")]
REPLIES = [ids(words, end=True) for words in ("yes", "no , it is perhaps no .", "it is paris .", "perhaps")]
KEPT = [(prompt, REPLIES[place % 4]) for place, prompt in enumerate(PROMPTS)]
SMALL_BATCHES = SETTINGS.model_copy(update={"batch_size": 4})


class Enough(Exception):
    """Ends a training whose first steps were all that is wanted."""


def taught(count: int) -> list[Demonstration]:
    return [Demonstration(prompt, reply, weight=1.0 + place / 8) for place, (prompt, reply) in enumerate(KEPT[:count])]


def pairs(count: int) -> list[Pair]:
    return [
        Pair(prompt, one, REPLIES[(place + 1) % 4], margin=1.0 + place, tie=place == 2, weight=1 / 3 + place)
        for place, (prompt, one) in enumerate(KEPT[:count])
    ]


def by_sft(backbone: Backbone) -> None:
    sft.train(backbone, taught(12), PROMPTS[12:], SETTINGS, Heard())


def by_dpo(backbone: Backbone) -> None:
    preference.train(backbone, pairs(4), PROMPTS, SETTINGS, Heard())


def by_pairs_dpo(backbone: Backbone) -> None:
    pairs_dpo.train(backbone, pairs(12), PROMPTS, SMALL_BATCHES, Heard())


def by_sl_cai(backbone: Backbone) -> None:
    sl_cai.train(backbone, taught(6), KEPT[6:], PROMPTS, SMALL_BATCHES, Heard())


def by_rl_cai(backbone: Backbone) -> None:
    judged = [replace(pair, certainty=0.6 + place / 20) for place, pair in enumerate(pairs(6))]
    rl_cai.train(backbone, judged, KEPT[6:], PROMPTS, SMALL_BATCHES, Heard())


def by_kto(backbone: Backbone) -> None:
    labels = [Label(*one, place % 3 == 0, weight=1 / 3 + place) for place, one in enumerate(KEPT)]
    kto.train(backbone, labels, PROMPTS, SETTINGS, Heard())


def by_reward(backbone: Backbone) -> None:
    rng = Random(3)
    replies = [said(colour, rng) for colour in ("red", "blue", "green", "red")]
    ranking = [
        Pair(asked(70), replies[a], replies[b], margin=1.0 + b, group="ranking", weight=1 / 3)
        for a in range(4)
        for b in range(a + 1, 4)
    ]
    single = [Pair(asked(80), replies[0], replies[1], tie=True), *(replace(p, weight=0.7) for p in comparisons(3))]
    labels = [Label(asked(90 + n), said("green", rng), n % 2 == 0, weight=0.5 + n) for n in range(5)]
    reward.fit(backbone, [*ranking, *single], labels, SETTINGS, Heard())


def by_ppo(backbone: Backbone) -> None:
    settings = PpoSettings(
        iterations=1, value_warmup=0, prompts=4, replies=3, minibatch=8, max_new_tokens=8, stop_kl=10.0
    )
    ppo.train(backbone, Counting(), PROMPTS, settings, Heard(), pretraining=KEPT)


def by_raft(backbone: Backbone) -> None:
    settings = RaftSettings(iterations=1, prompts=16, replies=8, minibatch=16, max_new_tokens=8)
    raft.train(backbone, Counting(), PROMPTS, settings, Heard())


METHODS = {
    "sft": by_sft, "dpo": by_dpo, "pairs_dpo": by_pairs_dpo, "kto": by_kto, "reward": by_reward, "ppo": by_ppo,
    "raft": by_raft, "sl-cai": by_sl_cai, "rl-cai": by_rl_cai,
}  # fmt: skip
