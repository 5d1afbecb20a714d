"""The settings of what learns: the learner, and the methods with a section of their own."""

from __future__ import annotations

import os
import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from service.settings.addresses import engine_addresses
from service.settings.section import Section

HIGHEST_SEED = 2**63 - 1
"""torch takes twice as much, and there is room above for the seeds that a run counts up from its own."""
MOST_TRAINING_THREADS = 4  # unless told: more of them wait for each other, and for chat

Method = Literal[
    "auto", "sft", "dpo", "kto", "ppo", "reinforce", "rloo", "grpo", "raft", "sl-cai", "rl-cai"
]  # fmt: skip
"""What a run learns from, and how; "auto": by what feedback there is. `sl-cai` and `rl-cai`, the supervised stage of
Constitutional AI and that of AI feedback, need none."""

TrackerName = Literal["mlflow", "wandb"]


class LearnerSettings(Section):
    """When the learner runs, what it trains and how it may change what is live."""

    method: Method = Field(
        "auto", description="What a run trains for which nobody named a method; `auto`: whatever there is feedback for."
    )
    preferences: Literal["dpo", "ppo", "raft"] = Field(
        "dpo",
        description="How the method `auto` learns what people like. `dpo`, the quicker: from comparisons, or by KTO "
        "from thumbs where there are many more of them. `ppo`: a reward model of both, and of scores, and "
        "reinforcement learning. `raft`: the same model, and fine-tuning on the best of several replies.",
    )
    every_minutes: float = Field(
        0.0, ge=0, description="Start a run every so many minutes if there is new feedback; 0: never by time."
    )
    after_feedback: int = Field(
        50, ge=0, description="Start a run after so much new feedback that a method learns from; 0: never by count."
    )
    auto_promote: bool = Field(
        True, description="Promote a candidate that passed every gate; otherwise it waits for an operator."
    )
    max_attempts: int = Field(
        3,
        ge=1,
        description="How often a run is tried whose process dies, the first time included; a time that it got further "
        "than ever before does not count.",
    )
    lease_seconds: float = Field(
        30.0, gt=0, description="A run whose learner has not been heard of for so long is taken over."
    )
    tick_seconds: float = Field(1.0, gt=0, description="How often the learner looks for work, in seconds.")
    threads: int = Field(
        0,
        ge=0,
        description="CPU threads of a training; 0: one for each core, 4 at most. Chat comes first by `niceness`.",
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes that share a training, each with the base model in its own memory (see `sharding`) and, "
        "on GPUs, a GPU of its own, so there must be as many; on a CPU they share `threads`, and gain little.",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="`full`: each of the `learner.processes` keeps a share of the base's layers, and gets the rest of "
        "a layer from the others while it computes with it (FSDP), for a base that doesn't fit one GPU. It takes more "
        "time, most of all in sampling, and weights that aren't quantised.",
    )
    niceness: int = Field(
        15, ge=0, le=19, description="How far a training steps back for other processes (POSIX niceness)."
    )
    held_out_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of conversations kept out of training, for evaluation. A larger one measures, for a while, "
        "on conversations that adapters before have learned from.",
    )
    max_per_person: int = Field(
        1000,
        ge=1,
        description="Most judgements, and most served revisions, of one person that a run learns from: the newest.",
    )
    max_examples: int = Field(
        4000,
        ge=1,
        description="Most pairs, most corrections and most single thumbs in a run: the newest and a random draw of "
        "older ones.",
    )
    seed: int = Field(0, ge=0, le=HIGHEST_SEED, description="Seed of every random choice in a run.")
    quantise: Literal["none", "nf4"] = Field(
        "none",
        description="`nf4`: train against the base in 4 bits (QLoRA), which takes a quarter of the memory. The engine "
        "must then serve what `hone base dequantise` writes.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep of each layer only what goes in, and run it again for the backward pass: a fraction of the "
        "memory that a step takes, for about a third more time.",
    )
    rollouts: Literal["trainer", "engine"] = Field(
        "trainer",
        description="What samples the replies that `ppo` and `raft` learn from: the trainer itself, or the engine, "
        "into which the policy is loaded under a passing name for each round.",
    )
    rollout_urls: tuple[str, ...] = Field(
        (),
        description="URLs of the engines that sample for `learner.rollouts`, with the same base model; the first that "
        "is well is taken. None: those of `engine.urls`, or the one that `hone up` started.",
    )
    rollout_wait_seconds: float = Field(
        900.0,
        gt=0,
        description="Seconds that a training waits, at one stretch, for an engine that has gone away; then the attempt "
        "ends, and the run is tried again as if its process had died.",
    )
    rollout_tolerance: float = Field(
        0.2,
        gt=0,
        description="Largest mean gap between the log-probabilities of trainer and engine, in nats per token of what "
        "the engine sampled. Above it the engine answers with something else than the policy, and the run fails.",
    )
    checkpoint_minutes: float = Field(
        1.0,
        ge=0,
        description="Minutes between two checkpoints inside a stage, at least: so much may be repeated after a kill. "
        "Each takes three times the policy's weights on the disk, with `ppo` and `raft` some seven times. 0: at each "
        "step; with these two at each step of fitting the reward model, and then after each iteration.",
    )
    anchor: str = Field(
        "base",
        description="What KL is measured from, so what a policy is held to: `base`; `parent`, what the run starts "
        "from; or a version such as `v1` that this comes from, or is.",
    )
    rank: int = Field(16, ge=1, description="LoRA rank, of what starts from the base; else the parent's is kept.")
    alpha: float = Field(
        32.0, gt=0,
        description="LoRA alpha: the update is scaled by alpha / rank. Like the rank, for what starts from the base.",
    )  # fmt: skip
    sft_learning_rate: float = Field(
        1.5e-3, gt=0, description="Learning rate of supervised fine-tuning on corrections."
    )
    sft_epochs: int | None = Field(
        None,
        ge=1,
        description="Passes over the corrections until they are learned, at most; left out: 12, and as many as make "
        "240 steps where there are few. In the passes after these, at a falling rate, what was moved beside is put "
        "back.",
    )
    dpo_on: Literal["samples", "pairs"] = Field(
        "samples",
        description="What `dpo` trains on. `samples`: replies of the policy, graded by a model of what people prefer, "
        "with their own pairs beside. `pairs`: people's own pairs alone, as DPO's authors have it.",
    )
    dpo_learning_rate: float = Field(2e-3, gt=0, description="Learning rate of learning from comparisons.")
    dpo_epochs: int = Field(
        1, ge=1, description="Passes over what DPO trains on: the replies of each round, or people's pairs."
    )
    dpo_beta: float = Field(
        0.2, gt=0, description="DPO's β on people's own pairs: how strongly the policy is held to the anchor."
    )
    dpo_label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of people's comparisons that DPO takes to be mistaken."
    )
    dpo_robust: bool = Field(
        False,
        description="What DPO does about that share: robust DPO weighs pairs so that mistakes cancel out on average; "
        "otherwise (conservative DPO) it stops short of certainty.",
    )
    trackers: tuple[TrackerName, ...] = Field(
        (),
        description="Experiment trackers that hear every step's metrics beside the run's own files, if installed here: "
        "`mlflow`, `wandb`. Where they send them is set by their own variables, such as MLFLOW_TRACKING_URI.",
    )
    kto_learning_rate: float = Field(1e-3, gt=0, description="Learning rate of learning from single thumbs.")
    kto_epochs: int | None = Field(
        None, ge=1, description="Passes over the thumbs; left out: 6, and up to 24 where there are few."
    )
    kto_beta: float = Field(
        0.5, gt=0, description="KTO's β: how soon a reply that gained, or lost, is taken to have done so enough."
    )
    reward_learning_rate: float = Field(1e-3, gt=0, description="Learning rate of fitting a reward model.")
    reward_epochs: int = Field(
        12,
        ge=1,
        description="Passes over the judgements that a reward model is fitted to, at most: it stops when what "
        "is kept apart is foretold no better.",
    )
    reward_label_smoothing: float = Field(
        0.05, ge=0, lt=0.5, description="Share of judgements that a reward model takes to be mistaken."
    )
    reward_centring: float = Field(
        0.01,
        ge=0,
        description="Weight of the square of a pair's summed rewards, which keeps rewards around 0: comparisons alone "
        "leave open where they lie.",
    )
    reward_members: int = Field(
        4,
        ge=1,
        description="Heads of a reward model, each fitted to a sample of the judgements of its own. A few tell doubt "
        "from certainty; each more costs next to nothing, and says little new.",
    )
    reward_disagreement: float = Field(
        0.0,
        ge=0,
        description="How many standard deviations over its heads a reward is lowered by where `ppo` and `raft` follow "
        "it, so that they keep away from replies that nobody judged the like of; 0: none.",
    )
    batch_size: int = Field(
        16, ge=1, description="Corrections, thumbs, pairs, and replies that are to stay, per optimizer step."
    )
    max_kl_per_token: float = Field(1.0, gt=0, description="Gate: largest KL to the anchor per token, in nats.")
    min_fluency: float = Field(
        -0.25,
        description="Gate: least fluency: log-probability per token of replies under the base, less that of its own.",
    )
    max_empty_share: float = Field(0.0, ge=0, le=1, description="Gate: largest share of empty replies.")
    min_share_won: float = Field(
        0.5, ge=0, le=1, description="Gate: least share of held-out comparisons won against the parent."
    )

    @field_validator("anchor")
    @classmethod
    def _names_an_anchor(cls, anchor: str) -> str:
        if anchor not in ("base", "parent") and not re.fullmatch("v[1-9][0-9]{0,8}", anchor):
            raise ValueError(f"{anchor!r} is no anchor: base, parent, or a version such as v1")
        return anchor

    @field_validator("rollout_urls")
    @classmethod
    def _are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return engine_addresses(urls)

    @model_validator(mode="after")
    def _has_what_sharding_takes(self) -> LearnerSettings:
        if self.sharding != "none" and self.processes < 2:
            raise ValueError(
                "sharding shares the base out over several processes: set processes to 2 or more, or sharding to none"
            )
        if self.sharding != "none" and self.quantise != "none":
            raise ValueError("sharding can't share out weights in NF4: set quantise to none, or sharding to none")
        return self

    @model_validator(mode="after")
    def _has_who_disagrees(self) -> LearnerSettings:
        if self.reward_disagreement and self.reward_members < 2:
            raise ValueError("a reward model of one head never disagrees: set reward_members to 2 or more")
        return self

    @property
    def training_threads(self) -> int:
        """CPU threads of each of a training's processes."""
        return max(1, (self.threads or min(available_cores(), MOST_TRAINING_THREADS)) // self.processes)


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
