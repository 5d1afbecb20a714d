"""An engine in memory that samples as the trainer does: what a training's HTTP requests meet when things go wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import torch

from learner.backbone import Backbone
from learner.batch import collate
from learner.engine_client import EngineClient
from learner.rollout_engines import Engines
from learner.sampling import sample


@dataclass
class PretendEngine:
    """`drift`: nats by which its log-probabilities differ. `fails`: called before each completion; it may break things.
    `refuses`: status and words of an answer to a load. `deadly`: prompts over which it dies, and comes back at once
    with nothing loaded; so it does at the requests, by number, of `dies_at`. `died_over`: what was under way then.
    `dies_loading`: how many loads it doesn't outlive; `is_slow`: it outlives them, but its answer comes too late.
    """

    backbone: Backbone
    slots: int = 8
    away: bool = False
    drift: float = 0.0
    idle: bool = False  # it loads adapters and answers with the base
    goes_silent: bool = False  # once: another engine takes its place, and a request that was under way never ends
    context: int = 64
    refuses: tuple[int, str] | None = None
    dies_loading: int = 0
    is_slow: bool = False
    tells_slots: int | None = None
    deadly: tuple[tuple[int, ...], ...] = ()
    dies_at: tuple[int, ...] = ()
    died_over: list[set[tuple[int, ...]]] = field(default_factory=list)
    under_way: list[tuple[int, ...]] = field(default_factory=list)
    requests: int = 0
    fails: Callable[[PretendEngine], None] = lambda engine: None
    speaks: bool = True  # with token ids
    held: dict[str, str] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def restart(self) -> None:
        self.held.clear()

    def client(self, url: str) -> EngineClient:
        return EngineClient(url, 5.0, httpx2.MockTransport(self._answer_or_not))

    async def _answer_or_not(self, request: httpx2.Request) -> httpx2.Response:
        if self.goes_silent and request.url.path == "/v1/completions":
            self.goes_silent = False
            self.restart()
            await asyncio.Event().wait()
        if request.url.path == "/v1/completions" and (self.deadly or self.dies_at):
            await self._outlive(request)
        return self.answer(request)

    async def _outlive(self, request: httpx2.Request) -> None:
        """Raises ReadError where the engine dies while this request is under way."""
        prompt, lives = tuple(json.loads(request.content)["prompt"]), len(self.died_over)
        self.requests += 1
        dies = prompt in self.deadly or self.requests in self.dies_at
        self.under_way.append(prompt)
        try:
            for _ in range(2 if dies else 5):  # so that others are under way, too
                await asyncio.sleep(0.002)
            if dies and len(self.died_over) == lives:  # another one under way may have been first
                self.died_over.append(set(self.under_way))
                self.restart()
            if len(self.died_over) > lives:
                raise httpx2.ReadError("", request=request)
        finally:
            self.under_way.remove(prompt)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        path, body = request.url.path, json.loads(request.content or b"{}")
        if path == "/v1/completions":
            self.fails(self)
        if self.away:
            raise httpx2.ConnectError("refused", request=request)
        match path:
            case "/health":
                return httpx2.Response(200)
            case "/version":
                return _error(404, "Not Found")
            case "/metrics":
                told = 'hone:max_loras{model_name="tiny"} %d\nhone:max_lora_rank{model_name="tiny"} 8\n'
                return httpx2.Response(200, text="" if self.tells_slots is None else told % self.tells_slots)
            case "/v1/models":
                base = {"id": "tiny", "root": "/tiny", "parent": None, "max_model_len": self.context}
                adapters = [{"id": name, "root": path, "parent": "tiny"} for name, path in self.held.items()]
                return httpx2.Response(200, json={"data": [base, *adapters]})
            case "/v1/load_lora_adapter" if request.method == "GET":
                return _error(405, "Method Not Allowed")
            case "/v1/load_lora_adapter":
                if self.dies_loading:
                    self.dies_loading -= 1
                    self.restart()
                    if self.is_slow:
                        self._load(body["lora_name"], body["lora_path"])
                    raise httpx2.ReadError("", request=request)
                return self._load(body["lora_name"], body["lora_path"])
            case "/v1/unload_lora_adapter":
                gone = self.held.pop(body["lora_name"], None) is None
                return _error(404, "not loaded") if gone else httpx2.Response(200, text="Success")
        if body["model"] not in self.held:
            return _error(404, f"The model {body['model']} is not loaded here.")
        self.asked.append(body)
        return httpx2.Response(200, json={"choices": self._choices(body)})

    def _load(self, name: str, path: str) -> httpx2.Response:
        if self.refuses is not None:
            return _error(*self.refuses)
        if len(self.held) >= self.slots:
            return _error(409, f"{self.slots} adapters are loaded (--max-loras); unload one first.")
        if name in self.held or not (Path(path) / "adapter_model.safetensors").exists():
            return _error(400, "taken, or no adapter")
        self.held[name] = path
        self.loads.append(name)
        return httpx2.Response(200, text="Success")

    @torch.no_grad()
    def _choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        prompt = tuple(body["prompt"])
        (row,) = sample(
            self.backbone,
            [prompt],
            per_prompt=body["n"],
            max_new_tokens=body["max_tokens"],
            seed=body["seed"],
            role="base" if self.idle else "policy",
        )
        choices = []
        for index, reply in enumerate(row):
            batch = collate([(prompt, reply.token_ids)], self.backbone.pad_id)
            log_probs = self.backbone.log_probs(batch, "base" if self.idle else "policy")[batch.reply_mask] + self.drift
            choice: dict[str, Any] = {"index": index, "finish_reason": "stop" if reply.ended else "length"}
            if self.speaks:
                choice |= {"token_ids": reply.token_ids, "logprobs": {"token_logprobs": log_probs.tolist()}}
            choices.append(choice)
        return choices[::-1]  # their index is their order


@dataclass(frozen=True)
class PretendEngines(Engines):
    """The engines of a test, by URL."""

    pretend: tuple[PretendEngine, ...] = ()

    def clients(self) -> list[EngineClient]:
        return [engine.client(url) for engine, url in zip(self.pretend, self.urls, strict=True)]


def _error(status: int, words: str) -> httpx2.Response:
    return httpx2.Response(status, json={"error": {"message": words}})
