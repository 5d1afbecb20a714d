"""A service of one's own: `hone up` on a free port in a temporary home, stopped and swept away afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from service.errors import EngineUnavailable
from service.listening import free_port
from service.settings import load_settings
from service.store.queries import keys
from service.store.session import Store

START_SECONDS = 120.0
STOP_SECONDS = 30.0
OWN = (
    "HONE_HOME",
    "HONE_SERVER__",
    "HONE_STORE__",
    "HONE_ADAPTERS__",
    "HONE_ENGINE__URL",
    "HONE_LEARNER__ANCHOR",
    "HONE_LEARNER__AUTO_PROMOTE",
)
"""What the environment may say for a real service alone: where its store, adapters and engines are, where it listens,
that its runs are held to an adapter of its own, and that an operator promotes, whom a simulation lacks. What it serves
and how it learns otherwise are handed on."""
QUIET = {"HONE_LEARNER__AFTER_FEEDBACK": "0", "HONE_LEARNER__EVERY_MINUTES": "0", "HONE_SERVER__PAGES": "false",
         "HONE_CONSTITUTION__SERVE": "asked"}  # fmt: skip
"""The learner begins when it is told to, nobody looks at the pages, and what is measured is what the adapters say
themselves."""


@dataclass(frozen=True)
class House:
    url: str
    operator_key: str
    home: Path
    process: subprocess.Popen[bytes]


@contextmanager
def own_house(settings: Mapping[str, str] | None = None, home: Path | None = None) -> Iterator[House]:
    """A running service; `settings` are environment variables for it. It ends with this process, however that ends.

    Raises EngineUnavailable, with the end of its log, when it doesn't start.
    """
    with tempfile.TemporaryDirectory(prefix="hone-simulate-", ignore_cleanup_errors=True) as temporary:
        place = home or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        house = _start(place, dict(settings or {}))
        try:
            _wait_until_healthy(house)
            yield house
        finally:
            _stop(house)


def _start(home: Path, settings: dict[str, str]) -> House:
    port = free_port()
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith(OWN)}
    environment = others | QUIET | settings
    environment |= {"HONE_HOME": str(home), "HONE_SERVER__PORT": str(port), "HONE_SERVER__HOST": "127.0.0.1"}
    store = Store.open(load_settings(home, environment=environment).store_url)
    with store.begin() as tx:
        key = keys.create_key(tx, "operator", "simulate")
    store.close()
    with (home / "up.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "service.lifeline", str(os.getpid()), "service.cli", "up"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return House(f"http://127.0.0.1:{port}", key, home, process)


def _wait_until_healthy(house: House) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and house.process.poll() is None:
        try:
            if httpx2.get(f"{house.url}/health", timeout=2.0, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
    said = (house.home / "up.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
    raise EngineUnavailable(f"The service of the simulation didn't start: {' / '.join(said)}", "Try `hone up`.")


def _stop(house: House) -> None:
    if house.process.poll() is None:
        house.process.terminate()
        try:
            house.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(house.process.pid, signal.SIGKILL)
            house.process.wait()
