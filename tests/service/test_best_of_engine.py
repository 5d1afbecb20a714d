"""Best-of-N on a real engine: a live adapter whose people like short replies answers shorter."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import httpx2

from service.adapters.judge import Judge
from service.adapters.manifest import JUDGE
from service.adapters.registry import Registry
from service.app import create_app
from service.settings import load_settings
from service.store.queries import serving
from service.store.session import Store
from tests.embedded.models import save_adapter, save_model
from tests.fixtures.engine_process import EngineProcess
from tests.fixtures.provenance import scored_provenance
from tests.fixtures.serving import serve
from tests.fixtures.waiting import PATIENCE, until

PROMPT, REPLY = [1, 20, 30, 40], [50, 60, 70, 80, 90]


def test_a_taste_for_short_replies_is_served_by_choosing(sqlite_store: Store, tmp_path: Path) -> None:
    model = save_model(tmp_path / "base")
    engine = EngineProcess(model)
    try:
        source = save_adapter(tmp_path / "trained", model, seed=1)
        told = scored_provenance(source, model, PROMPT, REPLY)
        short = {"comparisons": 20, "accuracy": 0.9, "weights": {"length": {"characters": -1.0}}}
        (source / JUDGE).write_bytes(Judge.model_validate(short).encoded())
        overrides: dict[str, dict[str, Any]] = {"server": {"pages": False}, "engine": {"model": str(model)}}
        settings = load_settings(tmp_path / "home", overrides, environment={})
        name = Registry(sqlite_store, settings.adapters_folder, model).publish(source, told, {}, "")
        with sqlite_store.begin() as tx:
            serving.request_live(tx, name, "name:op", "")
        engine.wait()
        app = create_app(settings, sqlite_store, [engine.url])
        with serve(app) as url, httpx2.Client(base_url=url, timeout=PATIENCE) as http:

            def live() -> bool:
                with sqlite_store.read() as tx:
                    return serving.desired_state(tx).live == name

            until(live)

            def chat(seed: int, **fields: Any) -> dict[str, Any]:
                said = {"messages": [{"role": "user", "content": f"the cat {seed}"}], "seed": seed, "max_tokens": 24}
                answer = http.post("/v1/chat/completions", json={"model": "hone", "temperature": 1.0, **said, **fields})
                assert answer.status_code == 200, answer.text
                found: dict[str, Any] = answer.json()
                return found

            def text(answer: dict[str, Any]) -> str:
                return str(answer["choices"][0]["message"]["content"])

            seeds = range(100, 700, 60)
            best = [chat(seed, best_of=4) for seed in seeds]
            assert {answer["system_fingerprint"] for answer in best} == {name}
            assert fmean(len(text(one)) for one in best) < fmean(len(text(chat(seed))) for seed in seeds) - 1
            every = chat(seeds[0], n=4)
            sampled = [choice["message"]["content"] for choice in every["choices"]]
            assert text(best[0]) == min((said for said in sampled if said.strip()), key=len)
            assert best[0]["usage"] == every["usage"]  # the prompt once, and all samples
            stored = http.get(f"/v1/exchanges/{best[0]['id']}").json()
            (reply,) = stored["replies"]
            assert stored["best_of"] == 4 and len(reply["token_ids"]) == len(reply["logprobs"]) > 0
    finally:
        engine.kill()
