"""A running `hone up` in a temporary home, somebody who uses it over HTTP, and somebody who kills its processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil

from learner.simulate.house import House, own_house
from tests.fixtures.waiting import PATIENCE

SETTINGS = {
    "HONE_SERVER__PAGES": "false",
    "HONE_LEARNER__LEASE_SECONDS": "8",
    "HONE_LEARNER__TICK_SECONDS": "0.2",
    "HONE_LEARNER__NICENESS": "0",
    "HONE_ENGINE__THREADS": "1",
    "HONE_ROLLOUT__RECONCILE_SECONDS": "0.2",
    "OMP_NUM_THREADS": "1",
}
OVER = ("succeeded", "rejected", "nothing_to_learn", "failed", "cancelled")


def wait_until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The first true value of `condition`; what the service does not answer meanwhile is no answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except httpx2.HTTPError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen in {seconds:.0f} s")


class Town:
    def __init__(self, house: House) -> None:
        self.house = house
        self.home = house.home
        self.http = httpx2.Client(base_url=house.url, timeout=PATIENCE, trust_env=False)
        self._operator = {"authorization": f"Bearer {house.operator_key}"}

    def chat(self, text: str, model: str = "hone", user: str = "ann", **fields: Any) -> dict[str, Any]:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "user": user,
            "temperature": 0,
        } | fields
        answer = self.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def says(self, text: str, model: str = "hone", **fields: Any) -> str:
        return str(self.chat(text, model, **fields)["choices"][0]["message"]["content"])

    def feedback(self, body: dict[str, Any], user: str = "ann", key: str | None = None) -> dict[str, Any]:
        headers = {"x-hone-user": user} | ({"idempotency-key": key} if key else {})
        answer = self.http.post("/v1/feedback", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def correct(self, question: str, better: str, user: str = "ann") -> str:
        """Ask, and write what the reply should have been; returns the feedback's id."""
        exchange = self.chat(question, user=user, temperature=1)["id"]
        correction = {"kind": "correction", "exchange_id": exchange, "text": better}
        return str(self.feedback(correction, user)["id"])

    def feedback_ids(self, user: str = "ann") -> list[str]:
        """Every feedback of one person, by way of all pages."""
        found: list[str] = []
        after = None
        while True:
            parameters = {"limit": 50} | ({"after": after} if after else {})
            page = self.http.get("/v1/feedback", params=parameters, headers={"x-hone-user": user}).json()
            found += [one["id"] for one in page["data"]]
            if not (after := page["next"]):
                return found

    def get(self, path: str) -> Any:
        answer = self.http.get(path, headers=self._operator)
        answer.raise_for_status()
        return answer.json()

    def learn_now(self, **wishes: Any) -> str:
        answer = self.http.post("/v1/runs", json=wishes, headers=self._operator)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/runs/{run_id}")
        return found

    def until_phase(self, run_id: str, phase: str) -> None:
        def there() -> bool:
            run = self.run(run_id)
            assert run["state"] in ("queued", "running"), f"over before {phase}: {run['message']}"
            return bool(run["phase"] == phase)

        wait_until(there, f"phase {phase}")

    def until_over(self, run_id: str) -> dict[str, Any]:
        def over() -> dict[str, Any] | None:
            run = self.run(run_id)
            return run if run["state"] in OVER else None

        found: dict[str, Any] = wait_until(over, f"the end of run {run_id}")
        return found

    def until_live(self, adapter: str) -> None:
        def live() -> bool:
            serving = self.get("/v1/serving")
            if serving["live"] != adapter and serving["requested"] != adapter:
                raise AssertionError(f"{adapter} was given up: {self.get(f'/v1/adapters/{adapter}')['reason']}")
            return bool(serving["live"] == adapter)

        wait_until(live, f"{adapter} going live")

    def process(self, who: str) -> psutil.Process:
        """The engine, the service, the learner, or the training child."""
        marks = {
            "engine": "service.embedded",
            "service": "serve",
            "learner": "learn",
            "training": "learner.child",
        }
        family = psutil.Process(self.house.process.pid).children(recursive=True)
        commands = {one: command_line(one) for one in family}
        found = [one for one, command in commands.items() if marks[who] in command]
        assert found, f"no {who} among {list(commands.values())}"
        return found[0]

    def kill(self, who: str) -> None:
        """kill -9, and wait until it is gone."""
        process = self.process(who)
        process.kill()
        psutil.wait_procs([process], timeout=PATIENCE)

    def kill_everything(self) -> None:
        top = psutil.Process(self.house.process.pid)
        family = [top, *top.children(recursive=True)]
        for one in family:
            one.suspend()  # so that nobody starts anybody again meanwhile
        for one in family:
            one.kill()
        self.house.process.wait()
        psutil.wait_procs(family[1:], timeout=PATIENCE)

    def check_nothing_is_half_published(self) -> None:
        """Folders, rows and runs agree: every adapter is complete, and no run made two."""
        rows = self.get("/v1/adapters")
        assert "publishing" not in {row["state"] for row in rows}
        folder = self.home / "adapters"
        folders = {path.name for path in folder.iterdir() if path.is_dir()} if folder.exists() else set()
        made = [row for row in rows if row["report"]]
        assert folders == {row["name"] for row in made}
        by_run = [row["run_id"] for row in made]
        assert len(by_run) == len(set(by_run))


def command_line(process: psutil.Process) -> list[str]:
    """Empty for one that has just ended: the machine's processes come and go while they are listed."""
    try:
        words: list[str] = process.cmdline()
        return words
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


@contextmanager
def town(home: Path | None = None, **settings: str) -> Iterator[Town]:
    with own_house(SETTINGS | settings, home) as house:
        made = Town(house)
        try:
            yield made
        finally:
            made.http.close()
            _sweep(house)


def _sweep(house: House) -> None:
    """If `hone up` was killed, so are its children; nothing of a test goes on living."""
    if house.process.poll() is not None:
        for process in psutil.process_iter(["cmdline"]):
            if str(house.home) in " ".join(process.info["cmdline"] or ()):
                os.kill(process.pid, signal.SIGKILL)
