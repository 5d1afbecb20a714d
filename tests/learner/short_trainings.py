"""A short training by each method, to be ended after a few updates."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from learner.backbone import Backbone
from learner.batch import Demonstration, Label, Pair
from learner.methods import kto, ppo, preference, raft, reward, sft
from service.settings import PpoSettings, RaftSettings
from tests.learner.colours import asked, comparisons, said
from tests.learner.progress import Heard
from tests.learner.tiny_backbone import SETTINGS
from tests.learner.tiny_model import ids
from tests.learner.toy_rewards import Counting

PROMPTS = [ids(f"<bos> {a} {b} ?") for a in ("one", "two", "three", "four") for b in ("blue", "red", "green", "paris")]
REPLIES = [ids(words, end=True) for words in ("yes", "no , it is perhaps no .", "it is paris .", "perhaps")]


class Enough(Exception):
    """Ends a training whose first steps were all that is wanted."""


def by_sft(backbone: Backbone) -> None:
    taught = [
        Demonstration(prompt, REPLIES[place % 4], weight=1.0 + place / 8) for place, prompt in enumerate(PROMPTS[:12])
    ]
    sft.train(backbone, taught, PROMPTS[12:], SETTINGS, Heard())


def by_dpo(backbone: Backbone) -> None:
    pairs = [
        Pair(prompt, one, other, margin=1.0 + place, tie=place == 2, weight=1 / 3 + place)
        for place, (prompt, one, other) in enumerate(zip(PROMPTS[:4], REPLIES, REPLIES[1:] + REPLIES[:1], strict=True))
    ]
    preference.train(backbone, pairs, PROMPTS, SETTINGS, Heard())


def by_kto(backbone: Backbone) -> None:
    labels = [
        Label(prompt, REPLIES[place % 4], place % 3 == 0, weight=1 / 3 + place) for place, prompt in enumerate(PROMPTS)
    ]
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
    kept = [(prompt, REPLIES[place % 4]) for place, prompt in enumerate(PROMPTS)]
    ppo.train(backbone, Counting(), PROMPTS, settings, Heard(), pretraining=kept)


def by_raft(backbone: Backbone) -> None:
    settings = RaftSettings(iterations=1, prompts=16, replies=8, minibatch=16, max_new_tokens=8)
    raft.train(backbone, Counting(), PROMPTS, settings, Heard())


METHODS = {"sft": by_sft, "dpo": by_dpo, "kto": by_kto, "reward": by_reward, "ppo": by_ppo, "raft": by_raft}
