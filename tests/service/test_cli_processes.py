"""`hone up` as people run it: processes that are killed at any moment, and what must survive that."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from service.store.queries import keys
from service.store.session import Store
from tests.fixtures.waiting import PATIENCE, until
from tests.source_modules import ROOT

QUIET = {"HONE_SERVER__PAGES": "false", "HONE_ENGINE__THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass
class House:
    home: Path
    process: subprocess.Popen[str]
    url: str
    key: str | None

    def process_of(self, name: str) -> psutil.Process | None:
        module = {"engine": "service.embedded", "service": "serve", "learner": "learn"}[name]
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):  # one that was just killed has no command line
                if module in child.cmdline():
                    return child
        return None

    def kill(self, name: str) -> None:
        """Kill -9, then wait until another one runs and chats are answered."""
        before = self.process_of(name)
        assert before is not None
        before.kill()
        until(lambda: (now := self.process_of(name)) is not None and now.pid != before.pid)
        until(self.is_ready)

    def is_ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/health", timeout=PATIENCE).status_code == 200
        except httpx2.HTTPError:
            return False

    def chat(self) -> dict[str, Any]:
        body = {"model": "hone", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello!"}]}
        answer = httpx2.post(f"{self.url}/v1/chat/completions", json=body, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result


def is_alive(process: psutil.Process) -> bool:
    """Not ended, and not a zombie, which nobody has collected yet."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def up(home: Path, folder: Path = ROOT, **settings: str) -> Iterator[House]:
    """`hone up`, started in a folder."""
    command = [sys.executable, "-P", "-m", "service.cli", "up", "--home", str(home), "--port", "0", "--json"]
    environment = os.environ | QUIET | settings | {"PYTHONPATH": str(ROOT)}
    with (home.parent / "up.err").open("ab") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=folder
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (home.parent / "up.err").read_text()
        ready = json.loads(line)
        link = ready["operator_link"]
        yield House(home, process, ready["url"], link and link.split("key=")[1])
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with up(tmp_path_factory.mktemp("house") / "home") as running:
        yield running


def test_everything_starts_and_the_operator_link_is_told_once(house: House) -> None:
    assert house.chat()["choices"][0]["message"]["content"] is not None
    assert house.key is not None
    serving = httpx2.get(f"{house.url}/v1/serving", headers={"authorization": f"Bearer {house.key}"})
    assert serving.json()["live"] == "base"
    assert all(house.process_of(name) is not None for name in ("engine", "service", "learner"))


def test_a_second_start_over_the_same_home_or_port_is_refused(house: House, tmp_path: Path) -> None:
    port = house.url.rpartition(":")[2]
    for arguments, code in ((("--home", str(house.home), "--port", "0"), 5), (("--port", port), 10)):
        command = [sys.executable, "-m", "service.cli", "up", *arguments]
        home = {"HONE_HOME": str(tmp_path / "other")}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | home, timeout=PATIENCE)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr


def test_a_killed_service_loses_no_acknowledged_feedback(house: House) -> None:
    """Feedback is sent without a pause while the service is killed; what was answered with 201 is there afterwards."""
    exchange = house.chat()["id"]
    acknowledged: list[str] = []
    enough, stop = threading.Event(), threading.Event()

    def send() -> None:
        while not stop.is_set():
            try:
                answer = httpx2.post(
                    f"{house.url}/v1/feedback",
                    json={"kind": "thumb", "good": True, "exchange_id": exchange},
                    timeout=PATIENCE,
                )
            except httpx2.HTTPError:
                continue
            if answer.status_code == 201:
                acknowledged.append(answer.json()["id"])
                if len(acknowledged) >= 20:
                    enough.set()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert enough.wait(PATIENCE)
        house.kill("service")
        count = len(acknowledged)
        until(lambda: len(acknowledged) > count)
    finally:
        stop.set()
        sender.join()
    found: set[str] = set()
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        after = f"&after={page['next']}" if page["next"] else ""
        page = httpx2.get(f"{house.url}/v1/feedback?limit=200{after}", timeout=PATIENCE).json()
        found |= {one["id"] for one in page["data"]}
    assert set(acknowledged) <= found


def test_callers_wait_while_a_killed_service_starts_again(house: House) -> None:
    killed = house.process_of("service")
    assert killed is not None
    killed.kill()
    killed.wait(PATIENCE)
    answer = httpx2.get(f"{house.url}/health/live", timeout=PATIENCE)
    assert answer.status_code == 200
    until(house.is_ready)


@pytest.mark.parametrize("name", ["engine", "learner"])
def test_a_killed_engine_or_learner_comes_back_by_itself_and_the_log_tells_of_it(house: House, name: str) -> None:
    house.kill(name)
    house.chat()
    log = (house.home / "logs" / "up.log").read_text().splitlines()
    told = [event for event in (json.loads(line)["event"] for line in log) if f"The {name} " in event]
    assert f"The {name} ended (SIGKILL)" in told[-2] and f"The {name} was started again (process" in told[-1]


def test_doctor_finds_hone_where_it_runs_whatever_the_settings_say(house: House, tmp_path: Path) -> None:
    def found(*flags: str, home: Path = house.home) -> dict[str, Any]:
        command = [sys.executable, "-m", "service.cli", "doctor", "--home", str(home), "--json", *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | QUIET, timeout=PATIENCE)
        return {finding["check"]: finding for finding in json.loads(done.stdout)}

    until(house.is_ready)
    service = found()["service"]
    assert service["ok"] and service["found"].startswith(f"Hone answers at {house.url}: store ok, engine ok, live base")
    its_port = house.url.rsplit(":", 1)[1]
    assert found("--port", its_port)["service"] == service
    other = found("--port", its_port, home=tmp_path / "other")["service"]
    assert f"answers at {house.url}, not as the `hone up` of this home: store ok" in other["found"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        threading.Thread(target=lambda: taken.accept()[0].close()).start()  # a program, but not Hone
        address = found("--port", port)["address"]
    assert address["ok"] is False and "It is not Hone that answers" in address["found"]
    assert found("--port", port)["address"]["ok"] is True


def test_the_learner_alone_says_what_it_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "learn", "--home", str(tmp_path / "home")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | QUIET)
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == (
            f"The learner watches {tmp_path / 'home'}. A run begins after 50 new judgements or when it is asked for.\n"
        )
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_a_restart_ends_in_the_same_state_and_prints_no_second_link(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home) as first:
        exchange = first.chat()["id"]
        thumb = {"kind": "thumb", "good": False, "exchange_id": exchange}
        feedback = httpx2.post(f"{first.url}/v1/feedback", json=thumb, timeout=PATIENCE).json()["id"]
        children = psutil.Process(first.process.pid).children(recursive=True)
        first.process.send_signal(signal.SIGKILL)  # nothing is stopped in order
        first.process.wait(PATIENCE)
        until(lambda: not any(map(is_alive, children)))
    with up(home) as second:
        assert second.key is None
        stored = httpx2.get(f"{second.url}/v1/feedback/{feedback}", timeout=PATIENCE).json()
        assert stored["feedback"]["good"] is False
        children = psutil.Process(second.process.pid).children(recursive=True)
        second.process.terminate()
        assert second.process.wait(PATIENCE) == 0
        until(lambda: not any(map(is_alive, children)))  # the engine's own child outlives it by a moment


def test_it_starts_whole_in_a_folder_where_others_have_its_names(tmp_path: Path) -> None:
    """A learner that can't start would be told, too: a start ends with the last words of what ended before it."""
    folder = tmp_path / "project"
    for part in ("ui.py", "service/__init__.py", "learner/__init__.py"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_text(f"raise SystemExit('{part} of somebody else was run')\n")
    with up(tmp_path / "home", folder, HONE_SERVER__PAGES="true") as running:
        assert httpx2.get(running.url, timeout=PATIENCE).status_code == 200
        until(lambda: "The learner watches" in (running.home / "logs" / "learner.out").read_text())
    assert "of somebody else" not in "".join(file.read_text() for file in (tmp_path / "home" / "logs").iterdir())


def test_it_refuses_to_listen_beyond_this_machine_without_keys(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "up", "--home", str(tmp_path / "home"), "--port", "0"]
    done = subprocess.run(
        [*command, "--host", "0.0.0.0"], capture_output=True, text=True, env=os.environ | QUIET, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "without keys" in done.stderr and "hone keys create" in done.stderr


def test_an_engine_that_cannot_start_ends_everything_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "up", "--home", str(tmp_path / "home"), "--port", "0"]
    done = subprocess.run(
        [*command, "--model", str(tmp_path / "no-model")],
        capture_output=True,
        text=True,
        env=os.environ | QUIET,
        timeout=PATIENCE,
    )
    assert done.returncode != 0 and done.stdout == ""
    *waiting, last = done.stderr.splitlines()
    assert "engine could not start" in last and all("still waits for" in line for line in waiting)
    with closing(Store.open(f"sqlite:///{tmp_path / 'home' / 'hone.db'}")) as store, store.read() as tx:
        assert keys.list_keys(tx) == []  # the operator link, which is shown once, is still to come
