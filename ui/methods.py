"""The methods that "Learn now" offers, by the names that the service and `--method` of `hone learn` know them by.

The pages import nothing of the service, so the names are written here, once; a test holds them against the service's.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

PEOPLE = "What people say"
REWARD = "A reward model of what people say"
CONSTITUTION = "What the constitution says"
FITTED = "First a reward model is fitted to comparisons, thumbs and scores"


class Method(NamedTuple):
    """`label` is what is chosen, `short` what a run is called by, `about` what the label doesn't say."""

    group: str
    label: str
    short: str
    about: str = ""


METHODS = {
    "auto": Method(PEOPLE, "All feedback that it can use (automatic)", ""),
    "sft": Method(PEOPLE, "Corrections only (SFT)", "corrections only"),
    "dpo": Method(PEOPLE, "Preferences only (DPO)", "preferences only"),
    "kto": Method(PEOPLE, "Thumbs, and pairs as such (KTO)", "thumbs, and pairs as such"),
    "ppo": Method(
        REWARD,
        "Reinforcement learning (PPO)",
        "reinforcement learning (PPO)",
        f"{FITTED}; then the model's own replies are rewarded by it. It takes longer, and costs less of what it knows.",
    ),
    "reinforce": Method(
        REWARD,
        "Without a value function (REINFORCE)",
        "reinforcement learning (REINFORCE)",
        f"{FITTED}. The plainest reinforcement learning, and the most restless.",
    ),
    "rloo": Method(
        REWARD,
        "Replies against each other (RLOO)",
        "reinforcement learning (RLOO)",
        f"{FITTED}. A reply counts by how much better it is than the others to its prompt.",
    ),
    "grpo": Method(
        REWARD,
        "Scaled against each other (GRPO)",
        "reinforcement learning (GRPO)",
        f"{FITTED}. As RLOO, and each prompt counts alike however much its rewards spread.",
    ),
    "raft": Method(
        REWARD,
        "Best of several replies (RAFT)",
        "best of several replies (RAFT)",
        f"{FITTED}; then the best of the model's own replies are learned like corrections.",
    ),
    "sl-cai": Method(
        CONSTITUTION,
        "1st stage: its own revisions (SL-CAI)",
        "constitution: own revisions",
        "It needs no feedback: the model answers red-team prompts, criticises its replies by the principles, and "
        "learns its own revisions.",
    ),
    "rl-cai": Method(
        CONSTITUTION,
        "2nd stage: AI feedback (RL-CAI)",
        "constitution: AI feedback",
        "It needs no feedback: a judge compares the model's replies by the principles, and the model learns to "
        "prefer what the judge does. Best after the first stage.",
    ),
}


def offered() -> list[dict[str, Any]]:
    """The methods in their groups, as the page's script draws them."""
    return [
        {
            "label": group,
            "by_constitution": group == CONSTITUTION,
            "methods": [{"name": name, **method._asdict()} for name, method in methods],
        }
        for group, methods in groupby(METHODS.items(), key=lambda one: one[1].group)
    ]
