"""What a cycle needs of whatever trains (`learner.backbone_trainer` does), and which stages a run has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from learner.batch import Label, Pair, Progress, Snapshot
from learner.curate import Curated
from service.errors import BadInput
from service.settings import Settings

Stage = Literal["sft", "dpo", "kto", "ppo", "reinforce", "rloo", "grpo", "raft", "sl-cai", "rl-cai"]
BY_REWARD: tuple[Stage, ...] = ("ppo", "reinforce", "rloo", "grpo", "raft")
"""Those that follow a reward model, which is fitted to pairs, single thumbs, labels and single scores alike."""

CONSTITUTIONAL = ("sl-cai", "rl-cai")
"""The methods that learn from what the model writes by a constitution (arXiv 2212.08073): they need no feedback."""

LEAST_THUMBS = 4
"""Replies called good, and as many called bad, from which on single thumbs start learning by themselves. A reward model
starts from as many scored above, and below, what is usual with those who scored them."""
THUMBS_TO_A_PAIR = 4
"""Where there are so many single thumbs to each judged pair, both are learned from as replies by themselves."""

OTHER_SIDE = {"good": "bad", "bad": "good"}

Keep = Literal["policy", "base"]
"""Whose replies to other prompts corrections must not move: the starting policy's, or the base's."""


class Trainer(Protocol):
    """What a cycle needs of the thing that trains; tests hand in one that only pretends.

    `write`: the lessons with what the model is to write of them, revisions and preferences, kept in the run's folder.
    """

    def write(self, method: str, lessons: Curated, folder: Path, progress: Progress) -> Curated: ...

    def train(self, stages: tuple[Stage, ...], lessons: Curated, checkpoint: Path, progress: Progress) -> None: ...

    def save(self, folder: Path, lessons: Curated) -> None: ...

    def restore(self, folder: Path) -> None: ...

    def evaluate(self, stages: tuple[Stage, ...], lessons: Curated, progress: Progress) -> dict[str, Any]: ...

    def probes(self, lessons: Curated) -> list[dict[str, Any]]: ...


MakeTrainer = Callable[[Path | None, Keep, Path | None], Trainer]
"""From the parent adapter's folder (None: the bare base), whose replies are kept, and the folder of the adapter that KL
is measured from (None: the base), to a trainer."""


def judgements_of_taste(part: Snapshot, *others: Snapshot) -> list[Pair]:
    """Pairs with a better reply that nobody wrote as a correction, here or in the `others`."""
    demonstrations = [one for snapshot in (part, *others) for one in snapshot.demonstrations]
    corrections = {(one.prompt_token_ids, one.reply_token_ids) for one in demonstrations}
    return [pair for pair in part.pairs if not pair.tie and (pair.prompt_token_ids, pair.chosen) not in corrections]


def pairs_to_reward(train: Snapshot) -> list[Pair]:
    """What a reward model learns from of the pairs as people judged them: judgements of taste, and ties. No tie is a
    correction's own pair, which prefers what was written. The pairs of a group, which are a ranking's or those of a
    person's scores of one prompt, weigh together as one comparison: how many there are tells only of how many replies.
    """
    taste = set(judgements_of_taste(train))
    found = [pair for pair in train.pairs if pair.tie or pair in taste]
    of_group: defaultdict[str, float] = defaultdict(float)
    for pair in found:
        of_group[pair.group] += pair.weight
    return [replace(pair, weight=pair.weight / of_group[pair.group]) if pair.group else pair for pair in found]


def pairs_to_learn(stages: tuple[Stage, ...], train: Snapshot) -> list[Pair]:
    """The pairs as people judged them that these stages learn from."""
    if "dpo" in stages:
        return list(train.pairs)
    if any(stage in BY_REWARD for stage in stages):
        return pairs_to_reward(train)
    return judgements_of_taste(train) if from_pairs(stages) or from_thumbs(stages) else []


def as_labels(train: Snapshot) -> tuple[Label, ...]:
    """Single thumbs and labels of harm, and of each judged pair the better reply as a good and the other as a bad one
    (as KTO's authors take pairs, arXiv 2402.01306)."""
    found = {(one.prompt_token_ids, one.reply_token_ids, one.desirable): one for one in train.labels}
    for pair in judgements_of_taste(train):
        for reply, is_good in ((pair.chosen, True), (pair.rejected, False)):
            label = Label(
                pair.prompt_token_ids, reply, is_good, pair.conversation_id, pair.feedback_ids, weight=pair.weight
            )
            found.setdefault((pair.prompt_token_ids, reply, is_good), label)
    return tuple(found.values())


def one_side(train: Snapshot) -> str:
    """ "good" or "bad" where KTO would have replies of that side alone; empty where it has both, or none."""
    sides = {label.desirable for label in as_labels(train)}
    return "" if len(sides) != 1 or train.criticised else "good" if True in sides else "bad"


def settings_of(method: str, settings: Settings) -> Settings:
    """What a run of this method goes by. Raises BadInput where the other settings don't suit it."""
    ppo = settings.ppo_of(method)
    if ppo is not None and ppo.unsuitable:
        raise BadInput(f"The method {method} doesn't go with the settings (ppo): {ppo.unsuitable}.")
    return settings if ppo in (None, settings.ppo) else settings.model_copy(update={"ppo": ppo})


def learn_taste(stages: tuple[Stage, ...]) -> bool:
    """Whether these move what the model says in general, and not only to what was corrected."""
    return any(stage != "sft" for stage in stages)


def from_pairs(stages: tuple[Stage, ...]) -> bool:
    """Whether these learn from pairs as people judged them."""
    return any(stage in ("dpo", "rl-cai", *BY_REWARD) for stage in stages)


def from_thumbs(stages: tuple[Stage, ...]) -> bool:
    """Whether these learn from single thumbs, and from labels of harm."""
    return any(stage in ("kto", *BY_REWARD) for stage in stages)


def from_scores(stages: tuple[Stage, ...]) -> bool:
    """Whether these learn from single scores."""
    return any(stage in BY_REWARD for stage in stages)


def stages_of(method: str, train: Snapshot, preferences: Literal["dpo", "ppo", "raft"] = "dpo") -> tuple[Stage, ...]:
    """The stages of a run that have something to learn from; empty when none has.

    A correction's own pair says nothing about taste that its demonstration doesn't say better, so by itself it starts
    preference learning only where that was asked for by name. Single thumbs say less than pairs do, and start it where
    there are at least LEAST_THUMBS of each kind and THUMBS_TO_A_PAIR times as many as judged pairs; these are then
    learned from with them, as `as_labels` says. By name both are learned from whatever there is of them, but for KTO
    of one side alone, which leave open what tells them apart (`one_side`). Labels of harm
    are learned from beside thumbs, and start no more than a reward model, or what was asked for by name.

    A critique is a pair as soon as the model has revised the reply by it. `preferences`: what `auto` does with
    comparisons and thumbs, and `rl-cai` with those of its judge. A reward model takes both, and single scores,
    whichever there are.
    """
    if method == "rl-cai" and preferences != "dpo":
        return (preferences,)
    if method in CONSTITUTIONAL:
        return ("sl-cai",) if method == "sl-cai" else ("rl-cai",)
    decided = [pair for pair in train.pairs if not pair.tie]
    judged = [*judgements_of_taste(train), *train.criticised]
    found: list[Stage] = []
    if train.demonstrations and method in ("auto", "sft"):
        found.append("sft")
    thumbs = [label for label in train.labels if label.by_thumb]
    by_thumbs = _enough(thumbs) and len(thumbs) >= THUMBS_TO_A_PAIR * len(judged)
    wanted = preferences if method == "auto" else method
    above, below = (sum(sign * one.points > 0 for one in train.scored) for sign in (1, -1))
    rewarded = judged or _enough(train.labels) or min(above, below) >= LEAST_THUMBS
    for stage in BY_REWARD:
        if wanted == stage:
            return (*found, stage) if rewarded else tuple(found)
    if (method == "auto" and judged and not by_thumbs) or (method == "dpo" and (decided or train.criticised)):
        found.append("dpo")
    if (method == "auto" and by_thumbs) or (method == "kto" and (judged or (train.labels and not one_side(train)))):
        found.append("kto")
    return tuple(found)


def _enough(labels: Sequence[Label]) -> bool:
    """Whether there are LEAST_THUMBS of each kind."""
    good = sum(label.desirable for label in labels)
    return min(good, len(labels) - good) >= LEAST_THUMBS
