"""What both sides compute losses of: plain data, since TRL's processes have none of our packages.

Texts are words of the tiny model's vocabulary with one blank between them, so that both sides see the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

FRANCE, SPAIN, COLOUR = "<bos> what is the capital of france ?", "<bos> spain !", "<bos> red , blue , friend ?"
END = " <eos>"

PAIRS = (
    (FRANCE, " it is paris ." + END, " rome" + END),
    (SPAIN, " madrid" + END, " surely it is madrid , you dear friend" + END),
    (COLOUR, " blue" + END, " red . blue . green . red" + END),
)
"""Prompt, the better reply, the worse one."""

LABELS = (
    (FRANCE, " it is paris ." + END, True),
    (SPAIN, " rome , perhaps" + END, False),
    (COLOUR, " maybe blue , maybe red" + END, True),
    ("<bos> one two three", " four five six" + END, True),
    ("<bos> is it short ?", " no" + END, False),
)
"""Prompt, reply, whether it is good."""

DEMONSTRATIONS = tuple((prompt, reply) for prompt, reply, _ in LABELS)
MARGINS = (0.5, 0.0, -1.25)
ASKED = (FRANCE, SPAIN, COLOUR, "<bos> one two three")
"""What policies answer by themselves."""

REPLIES = 4
"""To each of them."""
REPLY_TOKENS = 12


def worth(token_ids: Sequence[int]) -> float:
    """The reward of a reply, as far from its likelihood as a reward may be."""
    return (sum(token_ids) % 11) / 4


@dataclass(frozen=True)
class Case:
    """`method`: what TRL computes; `settings`: those of its configuration that say how."""

    name: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)


SFT = (
    Case("sft", "sft"),
    Case("sft-packed", "sft", {"packing": True, "max_length": 64}),
)
REWARD = (
    Case("reward", "reward"),
    Case("reward-margins", "reward", {"margins": True}),
    Case("reward-centred", "reward", {"margins": True, "center_rewards_coefficient": 0.3}),
)
DPO = (
    Case("dpo", "dpo", {"beta": 0.3}),
    Case("dpo-flipped", "dpo", {"beta": 0.3, "flipped": True}),
    Case("dpo-robust", "dpo", {"beta": 0.3, "loss_type": ["robust"], "label_smoothing": 0.2}),
)
KTO = (
    Case("kto", "kto", {"beta": 0.3}),
    Case("kto-weighted", "kto", {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.7}),
    Case("kto-withdrawn", "kto", {"beta": 0.3, "policy": "withdrawn"}),
)
KL_IN_THE_LOSS = {"beta": 0.2, "use_bias_correction_kl": False}
"""As GRPO's authors have it: the plain k3."""
SAMPLED = (
    Case("rloo", "rloo", {"beta": 0.2}),
    Case("grpo", "grpo", {"loss_type": "grpo"}),
    Case("grpo-tokens", "grpo", {"loss_type": "bnpo", "scale_rewards": "none"} | KL_IN_THE_LOSS),
)
PPO = (
    Case("ppo", "ppo", {"kl_estimator": "k1"}),
    Case("ppo-k3", "ppo", {"kl_estimator": "k3", "whiten_rewards": True, "gamma": 0.9, "lam": 0.8}),
)
KL_COEFFICIENT, MISSING_EOS_PENALTY, CLIP, VALUE_CLIP = 0.3, 1.5, 0.1, 0.15
"""Of the cases of PPO."""

OF_TRL = (*SFT, *REWARD, *DPO, *KTO, *SAMPLED)
