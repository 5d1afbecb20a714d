"""The processes of the gateway's benchmarks, each by itself: the mock engine, the service, LiteLLM's proxy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.listening import free_port
from tests.bench.harness import CannotMeasure

ROOT = Path(__file__).resolve().parents[2]
LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"
START_SECONDS = 120.0


@contextmanager
def mock_engine(tokens: int, gap_seconds: float = 0.0) -> Iterator[str]:
    """Its URL. `gap_seconds`: between two tokens of a stream."""
    port = free_port()
    options = {"--port": port, "--tokens": tokens, "--gap-ms": 1000 * gap_seconds}
    flags = [str(part) for option in options.items() for part in option]
    command = [sys.executable, "-m", "tests.bench.mock_engine", *flags]
    with _running(command, {}, f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def service(engine_urls: Sequence[str], home: Path | None = None) -> Iterator[str]:
    """The URL of the service alone, over engines, with a SQLite store on the disk: that of `home`, or a fresh one."""
    port = free_port()
    flags = ["--port", str(port), "--no-pages", "--engine-url", *engine_urls]
    with tempfile.TemporaryDirectory(prefix="hone-bench-") as fresh:
        command = [sys.executable, "-m", "service.cli", "serve", "--home", str(home or fresh), *flags]
        with _running(command, {}, f"http://127.0.0.1:{port}/health"):
            yield f"http://127.0.0.1:{port}"


@contextmanager
def litellm(engine_url: str) -> Iterator[str]:
    """The URL of LiteLLM's proxy over the same engine, with `durable_log` for its log; one process, as the service."""
    if not LITELLM.exists():
        raise CannotMeasure("LiteLLM is not installed in .venv-litellm: run `make litellm`")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hone-bench-") as temporary:
        folder = Path(temporary)
        shutil.copy(ROOT / "tests" / "bench" / "litellm_proxy" / "durable_log.py", folder)
        engine = {"model": "openai/mock", "api_base": f"{engine_url}/v1", "api_key": "none"}
        configuration = {
            "model_list": [{"model_name": "hone", "litellm_params": engine}],
            "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},  # no key, like ours on loopback
            "litellm_settings": {"callbacks": "durable_log.log", "telemetry": False},
        }
        (folder / "config.yaml").write_text(json.dumps(configuration))  # JSON is YAML
        command = [str(LITELLM), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        environment = {"DURABLE_LOG": str(folder / "requests.jsonl"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        environment |= {"LITELLM_LOG": "ERROR"}
        with _running(command, environment, f"http://127.0.0.1:{port}/health/liveliness", folder):
            yield f"http://127.0.0.1:{port}"
            if not (folder / "requests.jsonl").stat().st_size:
                raise RuntimeError("LiteLLM logged nothing")


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], health: str, folder: Path | None = None
) -> Iterator[None]:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder, env={**os.environ, **environment})
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _is_well(health):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise RuntimeError(f"{command[0]} did not start: {said.read().decode()[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)


def _is_well(health: str) -> bool:
    try:
        with urllib.request.urlopen(health, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
