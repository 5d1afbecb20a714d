"""`hone up --engine vllm`: started with the right options, put right after a crash, stopped with all it started."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from service.adapters.registry import Registry
from service.settings import SPROUT
from service.store.queries import serving
from service.store.session import Store
from tests.embedded.models import save_adapter
from tests.embedded.serving import eventually
from tests.engine_contract.asking import PROMPT, REPLY, gap, scores, true_scores
from tests.fixtures.engines import OFFLINE, ServedEngine, why_vllm_cannot_run
from tests.fixtures.provenance import scored_provenance
from tests.fixtures.waiting import PATIENCE

pytestmark = [pytest.mark.vllm, pytest.mark.loop, pytest.mark.xdist_group("vllm"), pytest.mark.timeout(3600)]

SETTINGS = OFFLINE | {
    "HONE_SERVER__PAGES": "false",
    "HONE_ENGINE__VLLM_OPTIONS": "--enforce-eager",
    "HONE_ENGINE__MAX_MODEL_LEN": "256",
    "HONE_CHAT__MAX_TOKENS": "128",
    "HONE_ENGINE__MAX_LORAS": "3",
    "HONE_ENGINE__MAX_LORA_RANK": "12",
}


@contextmanager
def up(home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "service.cli", "up", "--engine", "vllm", "--no-learner", "--port", "0", "--json"]
    with (home.parent / "up.err").open("ab") as errors:
        process = subprocess.Popen(
            [*command, "--home", str(home)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | SETTINGS,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (home.parent / "up.err").read_text()
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)
        process.stdout.close()


def engine_family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """vLLM's server, and what it started."""
    family = psutil.Process(process.pid).children(recursive=True)
    server = next(one for one in family if "vllm.entrypoints.openai.api_server" in one.cmdline()[:3])
    return [server, *server.children(recursive=True)]


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def who_answers(url: str) -> str | None:
    """The adapter of a reply to a chat, or `base`; None when nobody answers."""
    body = {"model": "hone", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello!"}]}
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=PATIENCE)
    return str(answer.json()["system_fingerprint"]) if answer.status_code == 200 else None


def promote(home: Path, trained: Path) -> str:
    """Publish an adapter and ask for it to go live; returns its name."""
    with closing(Store.open(f"sqlite:///{home / 'hone.db'}", checkpoints=False)) as store:
        registry = Registry(store, home / "adapters", SPROUT)
        name = registry.publish(trained, scored_provenance(trained, SPROUT, PROMPT, REPLY), {}, "")
        with store.begin() as tx:
            serving.request_live(tx, name, "name:op", "")
    return name


def test_vllm_is_started_put_right_after_a_crash_and_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    """After the crash what was live is put back and proven, and no reply before that is anybody else's."""
    if (reason := why_vllm_cannot_run()) is not None:
        pytest.skip(reason)
    trained = save_adapter(tmp_path / "trained", SPROUT, seed=1)
    with (
        up(tmp_path / "home") as (process, ready),
        httpx2.Client(base_url=ready["engine_urls"][0], timeout=PATIENCE) as http,
    ):
        url, engine = ready["url"], ServedEngine("vllm", ready["engine_urls"][0], http, close_to=0.05)
        assert who_answers(url) == "base"
        [base] = engine.models()
        assert (base["id"], base["owned_by"], base["max_model_len"]) == ("sprout", "vllm", 256)
        asked = " ".join(engine_family(process)[0].cmdline())
        assert "--max-loras 3 --max-lora-rank 16 " in asked and "--logprobs-mode raw_logprobs" in asked
        [told] = ready["engines"]  # what the start says that it checked
        facts, version = told["facts"], engine.http.get("/version").json()["version"]
        assert (facts["server"], facts["base"], facts["context"]) == (f"vLLM {version}", "sprout", 256)
        assert (facts["has_lora"], facts["loads_adapters"], facts["slots"], facts["rank"]) == (True, True, 3, 16)
        assert (facts["raw_logprobs"], facts["sees_adapters"]) == (True, None)  # the rank is known from the options
        assert (told["url"], told["shortcomings"], told["untold"]) == (ready["engine_urls"][0], [], None)

        adapter = promote(tmp_path / "home", trained)
        eventually(lambda: who_answers(url) == adapter)

        def times_found_own() -> int:
            log = (tmp_path / "home" / "logs" / "service.log").read_text()
            return log.count("log-probabilities the model's own")

        eventually(lambda: times_found_own() == 1)

        def is_back() -> bool:
            answerer = who_answers(url)
            assert answerer in (None, adapter)
            return answerer is not None

        before = engine_family(process)
        assert len(before) >= 3
        before[0].kill()
        eventually(lambda: all(map(is_gone, before)))
        eventually(is_back)
        [replica] = httpx2.get(f"{url}/health", timeout=PATIENCE).json()["replicas"]
        assert (replica["healthy"], replica["adapters"]) == (True, [adapter])
        assert [model["id"] for model in engine.models()] == ["sprout", adapter]
        eventually(lambda: times_found_own() == 2)
        tokens = [*PROMPT, *REPLY]
        assert gap(scores(engine, adapter, tokens), true_scores(tokens, trained)) < engine.close_to

        again = engine_family(process)
        process.terminate()
        assert process.wait(PATIENCE) == 0
        eventually(lambda: all(map(is_gone, again)))


def test_killing_hone_up_leaves_nothing_of_vllm_behind(tmp_path: Path) -> None:
    """Also while it starts; a worker that lived on would keep the GPU's memory."""
    if (reason := why_vllm_cannot_run()) is not None:
        pytest.skip(reason)
    command = [sys.executable, "-m", "service.cli", "up", "--engine", "vllm", "--no-learner", "--port", "0"]
    with (tmp_path / "up.err").open("ab") as output:
        process = subprocess.Popen(
            [*command, "--home", str(tmp_path / "home")], stdout=output, stderr=output, env=os.environ | SETTINGS
        )
    top = psutil.Process(process.pid)
    family: list[psutil.Process] = []

    def has_started_children() -> bool:
        with contextlib.suppress(psutil.Error):  # one that has just ended
            family[:] = top.children(recursive=True)
            return any("multiprocessing" in " ".join(one.cmdline()) or "VLLM::" in one.name() for one in family)
        return False

    try:
        eventually(has_started_children)
    finally:
        process.kill()
        process.wait(PATIENCE)
    eventually(lambda: all(map(is_gone, family)))
