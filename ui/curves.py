"""The curves of a run, from the lines of its `metrics.jsonl`: one small chart for each metric, all over the steps.

What comes out is JSON that the page's script draws, so that the charts flow to the width of the screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

CHARTS = 6  # at most
NO_METRIC = {"step", "steps", "phase", "epoch", "time", "at", "seconds", "elapsed", "tokens", "examples", "batch"}
PHASES = {
    "sft": "corrections (SFT)",
    "dpo": "preferences (DPO)",
    "kto": "thumbs (KTO)",
    "reward": "reward model",
    "ppo": "reinforcement learning (PPO)",
    "reinforce": "reinforcement learning (REINFORCE)",
    "rloo": "reinforcement learning (RLOO)",
    "grpo": "reinforcement learning (GRPO)",
    "raft": "best of several replies (RAFT)",
    "sl-cai": "revisions by the constitution (SL-CAI)",
    "rl-cai": "preferences by the constitution (RL-CAI)",
    "sft again": "corrections once more",
}


class Known(NamedTuple):
    """What a metric is called on the page, and what it says."""

    label: str
    meaning: str


KNOWN = {
    "loss": Known("Loss", "What the steps lower. It may jump where a new round sets new goals."),
    "reward": Known("Reward", "What sampled replies earn, in standard deviations of the base's."),
    "reward_accuracy": Known("Pairs told apart", "Share of the step's pairs whose better reply gained more."),
    "reward_margin": Known("Lead of the better reply", "By how much it gained more than the worse one, in nats."),
    "good_reward": Known("Good replies gained", "By how much those of the step are likelier than at first, in β nats."),
    "bad_reward": Known("Bad replies gained", "The same of those called bad: it should fall."),
    "kl": Known("Moved from the anchor", "How far its wording moved: KL, in nats per token; PPO's is per reply."),
    "fluency": Known("Fluency", "How natural the base finds what it says; 0: as its own. The gate measures it anew."),
    "worst_correction": Known("Correction known least", "Its log-probability: the nearer to 0, the better known."),
    "retention_kl": Known("Moved elsewhere", "How far replies nobody corrected have moved: KL, in nats per token."),
    "nll": Known("Surprise at what it learns", "At its examples: the less, the better they are known; nats per token."),
    "listwise": Known("Distance to the goal", "Between the wanted shares of the replies and its own, in nats."),
    "surprise": Known("Surprise", "At the best replies, in nats per token."),
    "sampled_kl": Known(
        "Moved, by samples", "How far its own replies are from the anchor's: KL, nats per token, for chance."
    ),
    "gradient_norm": Known("Gradient", "The size of the step's gradient, before it is clipped."),
    "learning_rate": Known("Learning rate", "How large the steps are: it rises at first, then falls."),
}
"""The telling ones first: of more metrics than there is room for, these are shown."""


def curves(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A chart for each metric: its name, its meaning, and for each phase that has it a line of (step, value)."""
    phases = list(dict.fromkeys(str(line.get("phase", "")) for line in metrics))
    starts = _starts(metrics, phases)
    return [
        {
            "name": name,
            **(KNOWN.get(name) or Known(name.replace("_", " ").capitalize(), ""))._asdict(),
            "lines": [
                {"phase": phase, "label": PHASES.get(phase, phase), "points": points}
                for phase in phases
                if (points := [(starts[phase] + one["step"], one[name]) for one in metrics if _has(one, name, phase)])
            ],
        }
        for name in metric_names(metrics)
    ]


def _starts(metrics: Sequence[dict[str, Any]], phases: list[str]) -> dict[str, int]:
    """Where each phase begins on the common axis: phases count their steps from one, and follow one another."""
    starts, begin = {}, 0
    for phase in phases:
        starts[phase] = begin
        begin += max((line.get("step", 0) for line in metrics if str(line.get("phase", "")) == phase), default=0)
    return starts


def metric_names(metrics: Sequence[dict[str, Any]]) -> list[str]:
    """The numbers that the lines hold, the telling ones first."""
    found = dict.fromkeys(
        name for line in metrics if "step" in line for name, value in line.items() if _is_metric(name, value)
    )
    order = list(KNOWN)
    return sorted(found, key=lambda name: order.index(name) if name in KNOWN else len(order))[:CHARTS]


def _has(line: dict[str, Any], name: str, phase: str) -> bool:
    return str(line.get("phase", "")) == phase and "step" in line and _is_metric(name, line.get(name))


def _is_metric(name: str, value: Any) -> bool:
    return name not in NO_METRIC and isinstance(value, int | float) and not isinstance(value, bool)
