"""What an adapter depends on beside the feedback: another attempt at a run goes on only with the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learner.constitution.named_judge import told
from learner.snapshot import FORMAT_VERSION
from service.settings import ConstitutionSettings, Settings

WHEN_AND_HOW = ("method", "every_minutes", "after_feedback", "auto_promote", "max_attempts", "lease_seconds",
                "tick_seconds", "threads", "niceness", "trackers", "rollout_urls", "rollout_wait_seconds",
                "rollout_tolerance", "checkpoint_minutes")  # fmt: skip
"""Settings of the learner that change nothing about the adapter."""
HOW_TO_SERVE_AND_ASK = ("serve", "principles", "rounds", "budget_seconds", "judge_key_variable",
                        "judge_timeout_seconds", "judge_retries")  # fmt: skip
"""The same of the constitution."""


def recipe_of(settings: Settings, base_sha256: str | None, anchor: str) -> dict[str, Any]:
    """`base_sha256`: the fingerprint of the base model; None while it isn't on this machine. `anchor`: what
    `learner.anchor` comes to."""
    learner = settings.learner.model_dump(mode="json", exclude=set(WHEN_AND_HOW))
    by_reward = {name: getattr(settings, name).model_dump(mode="json") for name in ("ppo", "raft")}
    recipe = {"base_sha256": base_sha256, "learner": learner, "anchor": anchor, "snapshot_format": FORMAT_VERSION}
    recipe["constitution"] = what_it_decides(settings.constitution)
    return recipe | by_reward


def what_it_decides(settings: ConstitutionSettings) -> dict[str, Any]:
    """The constitution's settings, as far as something that is learned depends on them. The judge is named without the
    user and the password of its address, which are no more of a recipe than its key is."""
    plain = settings.model_dump(mode="json", exclude=set(HOW_TO_SERVE_AND_ASK))
    return plain | {"judge": told(settings.judge)}


def differ(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether an earlier attempt had another recipe. A base model that wasn't here yet had no hash: no difference."""
    if before is None:
        return False
    names = set(before) | set(now)
    if None in (before.get("base_sha256"), now.get("base_sha256")):
        names.discard("base_sha256")
    return any(before.get(name) != now.get(name) for name in names)
