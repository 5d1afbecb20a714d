"""What an engine tells of itself, read from what it answers: vLLM's `/version` and `/metrics`, and which routes it has.

vLLM tells its slots (`max_lora`) only once it has answered a request, and its largest rank never; the embedded engine
tells both at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from service.adapters.engine import EngineFacts

_VLLMS_SLOTS = re.compile(r'^vllm:lora_requests_info\{[^}]*max_lora="(\d+)"', re.MULTILINE)
_OUR_LIMITS = re.compile(r"^hone:max_(loras|lora_rank)\{[^}]*\} (\d+)", re.MULTILINE)


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


def _version(content: bytes) -> str | None:
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    version = said.get("version") if isinstance(said, dict) else None
    return version if isinstance(version, str) else None
