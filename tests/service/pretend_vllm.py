"""A fake engine that tells as much of itself as vLLM does, and as little: its slots once it was asked something, its
rank when it refuses a larger one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from tests.service.fake_engine import BASE, LOGPROB, FakeEngine

SURE = -0.01  # of a token sampled at a low temperature, as the modes `processed_…` tell it


class PretendVllm(FakeEngine):
    def __init__(self, slots: int = 8, rank: int = 16, mode: str = "raw_logprobs") -> None:
        super().__init__()
        self.slots, self.rank, self.mode = slots, rank, mode
        self.sees_folder = True
        self.refuses_to_unload = False
        self.asked_to_load: list[str] = []  # the names
        self.app.get("/version")(self.version)
        self.app.get("/metrics")(self.metrics)

    async def version(self) -> dict[str, str]:
        return {"version": "0.32.0"}

    async def metrics(self) -> Response:
        told = ["vllm:num_requests_running 0.0", "# TYPE vllm:lora_requests_info gauge"]
        if self.completions or self.bodies:
            told.append(f'vllm:lora_requests_info{{max_lora="{self.slots}"}} 1.7e+09')
        return PlainTextResponse("\n".join(told))

    async def load(self, request: Request) -> Response:
        body = await request.json()
        self.asked_to_load.append(body["lora_name"])
        config = Path(body["lora_path"]) / "adapter_config.json"
        if not self.sees_folder or not config.exists():
            return _error(404, f"No adapter found for {body['lora_path']}")
        if (asked := json.loads(config.read_text())["r"]) > self.rank:
            return _error(500, f"Call failed: LoRA rank {asked} is greater than max_lora_rank {self.rank}.")
        return await super().load(request)

    async def unload(self, request: Request) -> Response:
        return _error(400, "It stays.") if self.refuses_to_unload else await super().unload(request)

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        if "logprobs" not in body:
            return await super().complete(request)
        self.completions.append(body)
        tokens = [7] * body["max_tokens"]
        own = LOGPROB if body["model"] == BASE else self.logprob
        said = own if self.mode.startswith("raw") else SURE
        choice: dict[str, Any] = {
            "index": 0,
            "text": "!",
            "finish_reason": "length",
            "token_ids": tokens,
            "prompt_token_ids": [1, 2, 3],
            "logprobs": {"token_logprobs": [said] * len(tokens)},
        }
        return JSONResponse({"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice]})


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "Error", "code": status}}, status)
