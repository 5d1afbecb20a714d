"""What the API shows of runs, adapters, constitutions and replies by principles, made up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

REPLIES = ("It is a **fine** day, and `2 + 2` makes 4.", "A rather different answer, in *other* words:\n\n- one\n- two")
OPERATOR = "the-operator"
AS_IT_COMES = "title = 'As it comes'"
STAGES: tuple[dict[str, Any], ...] = (
    {"stage": "draft", "round": 0, "principle": "", "text": "Take a "},
    {"stage": "draft", "round": 0, "principle": "", "text": "pin."},
    {"stage": "critique", "round": 1, "principle": "no-harm", "text": "It helps to do harm."},
    {"stage": "revision", "round": 1, "principle": "no-harm", "text": "It is a"},
    {"stage": "decided", "constitution": "c1", "revised": True, "ended": "revised"},
)
"""What a reply by principles tells of before it comes."""
REVISION: dict[str, Any] = {
    "round": 1,
    "constitution": "c1",
    "constitution_sha256": "0" * 64,
    "principle": "no-harm",
    "critique": "It helps to do harm.",
    "before": "Take a pin.",
    "after": None,
    "odds": None,
    "ended": "revised",
    "problem": "",
    "seconds": 0.5,
}


def now() -> str:
    return datetime.now(UTC).isoformat()


def fake_run(name: str, state: str, **fields: Any) -> dict[str, Any]:
    """A run as the API shows it."""
    return {
        "id": name,
        "state": state,
        "trigger": "command",
        "method": "auto",
        "attempt": 1,
        "created_at": now(),
        "started_at": now(),
        "finished_at": None if state == "running" else now(),
        "phase": "train: dpo",
        "step": 0,
        "steps": 20,
        "parent": None,
        "adapter": None,
        "snapshot_hash": None,
        "message": "",
        **fields,
    }


def fake_adapter(name: str, state: str, **fields: Any) -> dict[str, Any]:
    """An adapter as the API shows it."""
    event = {"at": now(), "adapter": name, "action": state, "actor": "rollout", "reason": f"Is {state} now."}
    return {
        "name": name,
        "state": state,
        "parent": None,
        "run_id": None,
        "created_at": now(),
        "requested": False,
        "loaded": state in ("live", "canary"),
        "reason": f"Is {state} now.",
        "report": {},
        "history": [event],
        **fields,
    }


def fake_constitution(name: str, text: str) -> dict[str, Any]:
    """A constitution as the API shows it."""
    principles = [
        {"name": name, "rule": f"Be {name}.", "tags": ["harmless"], "weight": 2.0} for name in ("no-harm", "true")
    ]
    about = {"name": name, "sha256": f"{name}-sha", "title": "Helpful, honest, harmless", "text": text}
    return {**about, "principles": principles, "serve": "asked", "is_new": name != "c0", "warnings": []}
