"""What an engine's answers mean, whoever asked it: vLLM's `/v1/models`, `/version` and `/metrics`, which routes it has,
and how it says that it won't, or that it is being stopped.

vLLM tells its slots (`max_lora`) only once it has answered a request, and its largest rank never; the embedded engine
tells both at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from service.adapters.engine import EngineFacts

_VLLMS_SLOTS = re.compile(r'^vllm:lora_requests_info\{[^}]*max_lora="(\d+)"', re.MULTILINE)
_OUR_LIMITS = re.compile(r"^hone:max_(loras|lora_rank)\{[^}]*\} (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class EngineModel:
    """A model that the engine holds now: the base (`parent` is None) or an adapter over it."""

    name: str
    path: str
    parent: str | None
    max_model_len: int | None


def read_models(cards: Iterable[Mapping[str, Any]]) -> tuple[EngineModel, ...]:
    """What `/v1/models` lists."""
    return tuple(
        EngineModel(card["id"], card.get("root") or card["id"], card.get("parent"), card.get("max_model_len"))
        for card in cards
    )


def read_refusal(content: bytes) -> tuple[str, str | None]:
    """What an error says, in JSON or, as some proxies answer, plain text; and which parameter it names, if any."""
    message, param = content.decode(errors="replace")[:500], None
    try:
        answer = orjson.loads(content)
        error = answer.get("error", answer)
        if isinstance(error, dict):
            message, param = str(error.get("message") or message), error.get("param")
    except (orjson.JSONDecodeError, AttributeError):
        pass
    return message, param


def is_going_away(refusal: str) -> bool:
    """Whether an engine that won't load an adapter is being stopped: that says nothing about the adapter."""
    return "shutting down" in refusal


def is_aborted(choice: Mapping[str, Any]) -> bool:
    """Whether a reply was given up by an engine that is being stopped, which ends it as if it were whole."""
    return choice.get("finish_reason") == "abort"


@dataclass(frozen=True)
class Answer:
    status: int
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace") if self.status == 200 else ""


def read_facts(
    base: str, root: str, context: int | None, version: Answer, metrics: Answer, loading: Answer
) -> EngineFacts:
    """`loading`: what a GET to the route that loads adapters answers, which takes a POST, where there is one."""
    number, limits = _version(version.content), dict(_OUR_LIMITS.findall(metrics.text))
    slots = _VLLMS_SLOTS.search(metrics.text)
    is_vllm = number is not None and "vllm:num_requests_running" in metrics.text
    is_ours = bool(limits)
    return EngineFacts(
        base=base,
        server="embedded engine" if is_ours else f"vLLM {number}" if number is not None else None,
        root=root,
        has_lora=True if is_ours else "vllm:lora_requests_info" in metrics.text if is_vllm else None,
        loads_adapters={405: True, 404: False}.get(loading.status),
        slots=int(limits["loras"]) if is_ours else int(slots[1]) if slots else None,
        rank=int(limits["lora_rank"]) if is_ours else None,
        context=context,
    )


def read_hones_health(content: bytes) -> dict[str, Any] | None:
    """What `/health` of a Hone service says, which is no engine; None for what another program answers there."""
    try:
        health = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return health if isinstance(health, dict) and {"status", "rollout"} <= health.keys() else None


def _version(content: bytes) -> str | None:
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    version = said.get("version") if isinstance(said, dict) else None
    return version if isinstance(version, str) else None
