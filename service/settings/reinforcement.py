"""The settings of the methods that follow a reward."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.settings.section import Section

Advantages = Literal["gae", "reinforce", "rloo", "grpo"]
BY_ADVANTAGES = ("reinforce", "rloo", "grpo")
"""Methods that are `ppo` with the advantages of their name, whatever `ppo.advantages` says."""


class PpoSettings(Section):
    """Reinforcement learning on a reward: the method `ppo`."""

    advantages: Advantages = Field(
        "gae",
        description="How a reply's reward becomes its tokens' advantages: by a value function (PPO), less the running "
        "mean (REINFORCE), less the mean of the other replies to its prompt (RLOO), or in their standard deviations "
        "(GRPO).",
    )
    iterations: int = Field(12, ge=1, description="How often replies are sampled and learned from.")
    value_warmup: int = Field(
        2,
        ge=0,
        description="In how many of these, the first ones, the value function alone learns (`gae`): a policy that "
        "follows a random one forgets first.",
    )
    prompts: int = Field(32, ge=1, description="Prompts in an iteration.")
    replies: int = Field(4, ge=1, description="Replies to each prompt; `rloo` and `grpo` need two.")
    epochs: int = Field(2, ge=1, description="Passes over the replies of an iteration.")
    minibatch: int = Field(
        32,
        ge=1,
        description="Replies in an optimizer step, at most; those to one prompt stay together where so many do.",
    )
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of the policy.")
    value_learning_rate: float = Field(2e-3, gt=0, description="Learning rate of the value function.")
    kl_coefficient: float = Field(
        0.1, ge=0, description="β: what a nat of KL to the anchor costs, in units of the reward."
    )
    kl_estimator: Literal["k1", "k3"] = Field(
        "k1",
        description="The estimate of KL at a token: `k1`, the log-ratio of policy and anchor, with which anchor · "
        "exp(reward / β) is the best policy, or `k3`, which is never negative and varies less, but whose slope is "
        "biased.",
    )
    target_kl: float | None = Field(
        None,
        gt=0,
        description="KL to the anchor per reply, in nats, that β is adapted to by factors, from `kl_coefficient`, "
        "which must be above 0 then; none: β is fixed.",
    )
    kl_horizon: int = Field(1000, ge=1, description="Replies over which an adaptive β moves.")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount of later rewards.")
    lam: float = Field(0.95, ge=0, le=1, description="λ of generalised advantage estimation.")
    clip: float = Field(0.2, gt=0, description="How far a step may move a token's probability: ratios of 1 ± so much.")
    importance_cap: float = Field(
        2.0,
        ge=1,
        description="Largest weight of a token that the engine sampled (`learner.rollouts`): how many times likelier "
        "the trainer finds it, up to so much.",
    )
    value_clip: float = Field(0.2, gt=0, description="How far a step may move a value.")
    entropy_coefficient: float = Field(0.0, ge=0, description="Weight of the entropy bonus.")
    normalise_rewards: bool = Field(
        True, description="Take their running mean off rewards, and divide them by their running standard deviation."
    )
    clip_rewards: float | None = Field(5.0, gt=0, description="Largest reward either way, after that; none: any.")
    whiten_rewards: bool = Field(
        False,
        description="Give each iteration's rewards of tokens, what KL costs included, variance 1 before advantages are "
        "estimated, and leave their mean (`gae`; as TRL's PPO does).",
    )
    whiten_advantages: bool = Field(
        True,
        description="Give each iteration's advantages mean 0 and variance 1 (`gae` and `reinforce`; those of `rloo` "
        "and `grpo` stay as the comparison with their group gives them).",
    )
    grpo_scale: bool = Field(
        True,
        description="Divide the advantages of `grpo` by their group's standard deviation; false: not (Dr. GRPO, arXiv "
        "2503.20783), so that prompts whose replies hardly differ weigh no more.",
    )
    per_sequence: bool = Field(
        False,
        description="Average the policy's loss over each reply's tokens and then over replies, as GRPO's authors do; "
        "false: over all tokens, so that each weighs the same.",
    )
    missing_eos_penalty: float = Field(
        1.0, ge=0, description="What a reply that was cut at the length limit loses, in units of the reward."
    )
    stop_kl: float = Field(
        0.1, gt=0, description="KL per token to the policy that sampled, from which an iteration's passes end early."
    )
    pretraining_coefficient: float = Field(
        0.2, ge=0, description="Weight of the likelihood of the base's own replies, mixed in at every step (PPO-ptx)."
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest reply that is sampled.")

    @property
    def unsuitable(self) -> str:
        """Why these settings don't go together; empty where they do. To be asked of what a run goes by: its method's
        name may choose other advantages than the file does."""
        if self.advantages in ("rloo", "grpo") and self.replies < 2:
            return f"{self.advantages} compares replies to one prompt: replies must be at least 2"
        if self.advantages == "gae" and self.iterations <= self.value_warmup:
            return (
                f"in the first {self.value_warmup} iterations the value function alone learns, so in {self.iterations} "
                "the policy would not: raise iterations, or lower value_warmup"
            )
        if self.target_kl is not None and not self.kl_coefficient:
            return "target_kl adapts kl_coefficient by factors, so that from 0 it never moves: set it above 0"
        return ""


class RaftSettings(Section):
    """Rejection-sampling fine-tuning on a reward: the method `raft`."""

    iterations: int = Field(5, ge=1, description="How often replies are sampled and the best learned.")
    prompts: int = Field(64, ge=1, description="Prompts in an iteration.")
    replies: int = Field(8, ge=2, description="Replies to each prompt, of which the best is learned.")
    epochs: int = Field(2, ge=1, description="Passes over the best replies so far, in each iteration.")
    minibatch: int = Field(16, ge=1, description="Replies in an optimizer step.")
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of the policy.")
    kl_coefficient: float = Field(
        0.1,
        ge=0,
        description="β: what a nat of KL to the anchor costs in the choice of the best, in units of the reward.",
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest reply that is sampled.")
