"""Three real engines under one service, one of them killed under load: nothing is lost that had not begun to stream.

The engines are embedded ones: three of vLLM, which imports torch in three processes each, are more than two cores can
start in a test's time. What the service does when an engine dies hangs on the HTTP that both speak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fixtures.engine_process import EngineProcess
from tests.fixtures.waiting import PATIENCE
from tests.loop.town import wait_until

pytestmark = [pytest.mark.loop, pytest.mark.timeout(3600)]

ENGINES, CALLERS, MOST_KILLS = 3, 9, 5
QUIET = {"OMP_NUM_THREADS": "1", "HONE_SERVER__PAGES": "false", "HONE_ROLLOUT__RECONCILE_SECONDS": "0.2"}


@dataclass
class Heard:
    """What the callers of one service got. An end is `[DONE]`, an error event, or what broke off."""

    statuses: list[int] = field(default_factory=list)
    ends: list[tuple[int, Any]] = field(default_factory=list)  # tokens that came before, and the end
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def broken(self) -> list[tuple[int, Any]]:
        """Of the ends, those of replies that did not come to theirs."""
        return [(tokens, end) for tokens, end in self.ends if end != "[DONE]"]

    def listen(self, url: str, name: str) -> None:
        with httpx2.Client(base_url=url, timeout=PATIENCE, trust_env=False) as http:
            turn = 0
            while not self.stop.is_set():
                turn += 1
                self._ask(http, {"conversation_id": f"{name}-{turn // 2}"})

    def _ask(self, http: httpx2.Client, hone: dict[str, str]) -> None:
        messages = [{"role": "user", "content": "Tell me about rivers."}]
        body = {"model": "hone", "messages": messages, "stream": True, "max_tokens": 60, "hone": hone}
        answer = http.post("/v1/chat/completions", json=body)
        self.statuses.append(answer.status_code)
        *shown, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line] or [""]
        tokens = sum(bool(json.loads(event)["choices"][0]["delta"].get("content")) for event in shown)
        self.ends.append((tokens, last if last == "[DONE]" else json.loads(last)))


@pytest.fixture
def engines() -> Iterator[list[EngineProcess]]:
    processes = [EngineProcess() for _ in range(ENGINES)]
    yield processes
    for one in processes:
        one.kill()


@pytest.fixture
def service(engines: list[EngineProcess], tmp_path: Path) -> Iterator[str]:
    """The URL of `hone serve` over the engines, once all of them get requests."""
    command = [sys.executable, "-m", "service.cli", "serve", "--home", str(tmp_path / "home"), "--port", "0", "--json"]
    urls = [one.url for one in engines]
    with ExitStack() as stack:
        errors = stack.enter_context((tmp_path / "serve.err").open("wb"))
        process = subprocess.Popen(
            [*command, "--engine-url", *urls], stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | QUIET
        )
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        line = process.stdout.readline()
        assert line, (tmp_path / "serve.err").read_text()
        ready = json.loads(line)
        assert [engine["url"] for engine in ready["engines"]] == urls
        url = str(ready["url"])
        wait_until(lambda: all(healthy(url)), "all engines ready")
        yield url


def healthy(url: str) -> list[bool]:
    replicas = httpx2.get(f"{url}/health", timeout=PATIENCE, trust_env=False).json()["replicas"]
    return [replica["healthy"] for replica in replicas]


def test_an_engine_killed_under_load_loses_nothing_that_had_not_begun(
    engines: list[EngineProcess], service: str
) -> None:
    """And what had begun ends with an error that says so: it is killed again if it was between two replies."""
    heard = Heard()
    callers = [threading.Thread(target=heard.listen, args=(service, f"talk-{n}")) for n in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        wait_until(lambda: len(heard.ends) >= 2 * CALLERS, "some replies")
        for _ in range(MOST_KILLS):
            kill_and_bring_back(engines, service, heard)
            if heard.broken:
                break
    finally:
        heard.stop.set()
        for caller in callers:
            caller.join()
    assert set(heard.statuses) == {200}
    assert heard.broken
    for tokens, end in heard.broken:
        assert tokens >= 1 and end["error"]["code"] == "engine_unavailable", (tokens, end)


def kill_and_bring_back(engines: list[EngineProcess], service: str, heard: Heard) -> None:
    """The second of three, waiting for two more replies to each caller after either."""
    engines[1].kill()
    count = len(heard.ends)
    wait_until(lambda: len(heard.ends) >= count + 2 * CALLERS, "replies without the one that was killed")
    assert healthy(service) == [True, False, True]
    engines[1].start()
    wait_until(lambda: all(healthy(service)), "the return of the one that was killed")
    count = len(heard.ends)
    wait_until(lambda: len(heard.ends) >= count + 2 * CALLERS, "replies of all three")
