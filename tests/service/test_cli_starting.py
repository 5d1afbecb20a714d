"""What keeps `hone` from starting is one clear line, and what it says where it starts."""

import errno
import json
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from service.errors import PortInUse
from service.listening import listen
from tests.fixtures.serving import serve
from tests.fixtures.waiting import PATIENCE
from tests.service.command_line import Hone, publish, store_of
from tests.service.command_line import hone as hone
from tests.service.fake_engine import FakeEngine
from tests.source_modules import ROOT


def test_a_port_in_use_is_one_clear_line(hone: Hone) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for command in (("up",), ("serve", "--engine-url", "http://127.0.0.1:9"), ("ui",)):
            done = hone(*command, "--port", port)
            assert (done.code, done.err.count("\n")) == (10, 1), done.err
            assert f"127.0.0.1:{port}" in done.err and "--port" in done.err


def test_a_host_that_is_not_this_machines_is_one_clear_line(hone: Hone) -> None:
    done = hone("ui", "--api", "http://hone.internal", "--host", "192.0.2.1", "--port", "0")
    assert (done.code, done.err.count("\n")) == (10, 1), done.err
    assert "192.0.2.1:0" in done.err and "another --host" in done.err


@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
def test_the_pages_say_where_they_can_be_reached(
    hone: Hone, monkeypatch: pytest.MonkeyPatch, host: str, name: str
) -> None:
    try:
        listen(host, 0).close()
    except PortInUse:
        pytest.skip(f"this machine has no {host}")
    served: list[tuple[str, int]] = []
    monkeypatch.setattr("ui.app.serve", lambda api, listener: served.append(listener.getsockname()[:2]))
    done = hone("ui", "--api", "http://hone.internal", "--host", host, "--port", "0", "--json")
    ((served_at, port),) = served
    assert served_at == host and port > 0
    assert done.json == {"url": f"http://{name}:{port}"}


@pytest.mark.parametrize(
    "command", [("up",), ("learn",), ("serve", "--engine-url", "http://127.0.0.1:9"), ("keys", "create", "--name", "a")]
)
def test_a_home_that_cannot_be_written_is_one_clear_line(hone: Hone, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    done = hone(*command, "--home", str(tmp_path / "file" / "home"))
    assert done.code in (2, 7) and done.err.count("\n") == 1 and "--home" in done.err


def test_a_lock_that_cannot_be_made_is_one_clear_line(hone: Hone, tmp_path: Path) -> None:
    (tmp_path / "home" / "up.lock").mkdir(parents=True)
    done = hone("up", "--no-learner", "--engine-url", "http://127.0.0.1:9", "--port", "0")
    assert (done.code, done.out, done.err.count("\n")) == (7, "", 1)
    assert f"Can't read or write {tmp_path / 'home' / 'up.lock'}: Is a directory." in done.err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. Free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: Permission denied. Give Hone's user the"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory"), "No usable temporary directory."),
    ],
)
def test_a_place_that_cannot_be_written_is_one_clear_line(
    hone: Hone, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("learner.simulate.simulate", fail)
    done = hone("simulate", "--taste", "short")
    assert (done.code, done.out, done.err.count("\n")) == (7, "", 1)
    assert words in done.err
    as_json = hone("simulate", "--taste", "short", "--json")
    assert (as_json.code, as_json.err, as_json.json["error"]["code"]) == (7, "", "store_unavailable")


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    """No file may have a byte: the lock is the first that gets one."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); from service.cli import main; main()"
    command = ["up", "--no-learner", "--engine-url", "http://127.0.0.1:9", "--port", "0"]
    (tmp_path / "secret").write_bytes(bytes(32))
    done = subprocess.run(
        [sys.executable, "-c", limit, *command],
        env=os.environ | {"HONE_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (7, "", 1), done.stderr
    assert "File too large. Free some space" in done.stderr


def test_adapters_that_cannot_be_cleared_up_are_one_clear_line(hone: Hone, tmp_path: Path) -> None:
    store_of(tmp_path).close()
    (tmp_path / "home" / "adapters").write_text("")
    done = hone("serve", "--engine-url", "http://127.0.0.1:9", "--port", "0")
    assert (done.code, done.out, done.err.count("\n")) == (7, "", 1)
    assert str(tmp_path / "home" / "adapters") in done.err


def test_a_database_of_a_newer_version_is_refused(hone: Hone, tmp_path: Path) -> None:
    store_of(tmp_path).close()
    with sqlite3.connect(tmp_path / "home" / "hone.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'from-the-future'")
    database.close()
    for command in (("adapters", "list"), ("serve", "--engine-url", "http://127.0.0.1:9", "--port", "0")):
        done = hone(*command)
        assert (done.code, done.err.count("\n")) == (7, 1)
        assert "newer" in done.err


def test_a_misspelt_setting_is_refused_by_name(hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "hone.toml").write_text("[server]\nprot = 1\n")
    done = hone("keys", "list")
    assert done.code == 2 and "server.prot" in done.err and done.err.count("\n") == 1
    (tmp_path / "home" / "hone.toml").write_text("[server\n")
    assert "hone.toml" in hone("keys", "list").err
    (tmp_path / "home" / "hone.toml").unlink()
    monkeypatch.setenv("HONE_LEARNER__RNAK", "4")
    assert "learner.rnak" in hone("keys", "list").err


def test_a_rank_above_the_engines_keeps_a_learner_from_starting_and_nothing_else(
    hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home may hold such settings from before they were looked at: what is live must still be in somebody's hand."""
    name = publish(tmp_path)
    monkeypatch.setenv("HONE_LEARNER__RANK", "33")
    monkeypatch.setenv("HONE_SERVER__PORT", "0")
    for command in (("learn",), ("learn", "--once"), ("up",)):
        done = hone(*command)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert "learner.rank is 33, above engine.max_lora_rank (32)" in done.err
    assert hone("adapters", "promote", name, "--wait", "0").code == 0
    assert hone("keys", "list").code == 0
    (rank,) = (finding for finding in hone("doctor", "--json").json if finding["check"] == "rank")
    assert (rank["ok"], rank["advice"]) == (False, "Lower learner.rank, or set engine.max_lora_rank = 33.")


def test_engines_follow_one_flag_and_nothing_else(hone: Hone) -> None:
    done = hone("serve", "http://127.0.0.1:9")
    assert (done.code, done.err.count("\n")) == (2, 1) and "--engine-url" in done.err
    done = hone("serve", "--engine-url", "http://127.0.0.1:9", "http://127.0.0.1:9/v1")
    assert (done.code, done.err.count("\n")) == (2, 1) and "named twice" in done.err


@pytest.mark.parametrize("kind", ["vllm", "embedded"])
@pytest.mark.parametrize("said_in", ["file", "environment", "flag"])
def test_an_engine_to_start_beside_engines_elsewhere_is_refused(
    hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said_in: str
) -> None:
    """None would be started, although somebody asked for one."""
    engine = ["--engine-url", "http://127.0.0.1:9"] if said_in == "flag" else []
    if said_in == "file":
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "hone.toml").write_text("[engine]\nurls = ['http://127.0.0.1:9']\n")
    elif said_in == "environment":
        monkeypatch.setenv("HONE_ENGINE__URLS", "http://127.0.0.1:9")
    monkeypatch.setattr("service.stack.Stack.start", lambda self: pytest.fail("something is started"))
    done = hone("up", "--engine", kind, *engine, "--port", "0")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "engine.urls" in done.err and "leave out --engine" in done.err


@pytest.mark.parametrize("has_pages", [True, False])
def test_a_service_alone_is_ready_once_its_pages_have_settled(tmp_path: Path, has_pages: bool) -> None:
    if not has_pages:
        (tmp_path / "gradio.py").write_text("raise ImportError('no pages today')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with serve(FakeEngine().app) as engine:
        command = [sys.executable, "-m", "service.cli", "serve", "--engine-url", engine, "--port", "0", "--json"]
        environment = os.environ | {"HONE_HOME": str(tmp_path / "home"), "PYTHONPATH": path}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                assert process.stdout is not None
                ready = json.loads(process.stdout.readline())
                pages = httpx2.get(f"{ready['url']}/health", timeout=PATIENCE).json()["pages"]
            finally:
                process.terminate()
    if has_pages:
        assert (pages, ready["pages_problem"]) == ("ok", None)
    else:
        assert "no pages today" in pages and ready["pages_problem"] == pages
