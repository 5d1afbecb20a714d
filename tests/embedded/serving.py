"""Start the engine as users do, as a process of its own, and talk to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import httpx2

from service.listening import free_port
from tests.fixtures.waiting import PATIENCE, until

GENERATED = "vllm:generation_tokens_total"


@dataclass
class Served:
    """A running engine."""

    process: subprocess.Popen[str]
    client: httpx2.Client
    port: int
    said: list[str]

    def post(self, path: str, body: Any) -> httpx2.Response:
        return self.client.post(path, json=body)

    def metric(self, name: str) -> float:
        return metric(self.client, name)

    def events(self, path: str, body: Any) -> list[Any]:
        """A whole stream's events; the last is the string "[DONE]"."""
        with self.client.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            return [parse_event(line) for line in response.iter_lines() if line.startswith("data: ")]


def parse_event(line: str) -> Any:
    content = line.removeprefix("data: ")
    return content if content == "[DONE]" else json.loads(content)


def metric(client: httpx2.Client, name: str) -> float:
    """What `/metrics` says of it, over all processes of the engine."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name + "{")]
    assert lines, f"there is no metric {name}"
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def tokens_until_hang_up(client: httpx2.Client, path: str, body: Mapping[str, Any]) -> float:
    """Ask, hang up at the first tokens; how many were generated in all, once the engine is idle."""
    before = metric(client, GENERATED)
    with closing(HTTPConnection(client.base_url.host, client.base_url.port or 80, timeout=PATIENCE)) as caller:
        caller.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        eventually(lambda: metric(client, GENERATED) > before)
    until_idle(client)
    return metric(client, GENERATED) - before


def until_idle(client: httpx2.Client) -> None:
    """Wait until nothing runs or waits, and no row of the cache is taken."""
    busy = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    eventually(lambda: not any(metric(client, name) for name in busy))


def start(*options: str, port: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "service.embedded", "--threads", "1", "--port", str(port or free_port()), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def serving(*options: str) -> Iterator[Served]:
    """An engine that answers, and is gone after the block."""
    port = free_port()
    process = start(*options, port=port)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.rstrip())
        if "Serving on" in line:
            break
    if process.poll() is not None or not said:
        raise AssertionError(f"the engine did not start: {process.communicate()}")
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
        eventually(lambda: client.get("/health").status_code == 200)
        try:
            yield Served(process, client, port, said)
        finally:
            process.kill() if process.poll() is None and _will_not_end(process) else None
            process.communicate()


def _will_not_end(process: subprocess.Popen[str]) -> bool:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return True
    return False


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; connection errors count as not yet."""

    def holds() -> bool:
        try:
            return condition()
        except httpx2.TransportError:
            return False

    until(holds)
