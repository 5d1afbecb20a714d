"""A store that can not write, or is killed while it does, loses nothing that was acknowledged."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from service.errors import StoreError
from service.store.clock import now
from service.store.identifiers import new_id
from service.store.queries import adapters, keys
from service.store.session import Store
from service.store.tables import Key
from tests.fixtures.waiting import PATIENCE


def test_a_full_database_says_so_and_goes_on_when_there_is_room(sqlite_store: Store) -> None:
    def fill() -> None:
        with sqlite_store.begin() as tx:
            for _ in range(200):
                tx.add(Key(prefix=new_id("k"), secret_hash="x" * 5000, role="user", name="a", created_at=now()))

    def limit_pages(most: int) -> None:
        with sqlite_store.begin() as tx:
            tx.execute(text(f"PRAGMA max_page_count={most}"))

    with sqlite_store.begin() as tx:
        keys.create_key(tx, "user", "ada")
        pages: int = tx.scalar(text("PRAGMA page_count")) or 0
    limit_pages(pages + 20)
    with pytest.raises(StoreError, match=r"is full.*Free some space"):
        fill()
    with sqlite_store.read() as tx:
        assert [key.name for key in keys.list_keys(tx)] == ["ada"]
    limit_pages(1 << 30)
    fill()


def test_a_disk_that_takes_no_more_bytes_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The limit on file sizes is the kernel's; the process that met it says so in one line and can be started again."""
    script = """
        import resource, sys
        from service.errors import StoreError
        from service.store.queries import adapters, serving
        from service.store.session import Store
        store = Store.open(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        try:
            while True:
                with store.begin() as tx:
                    adapters.note(tx, "base", "noted", "x" * 3000)
                print("acknowledged", flush=True)
        except StoreError as error:
            print(error)
    """
    url = f"sqlite:///{tmp_path / 'hone.db'}"
    done = _python(script, url)
    *acknowledged, last = done.stdout.splitlines()
    assert "The database" in last and "disk" in last.lower(), done.stderr
    store = Store.open(url)
    with store.read() as tx:
        assert len(adapters.events(tx, "base")) == len(acknowledged) > 0
    with store.begin() as tx:
        keys.create_key(tx, "user", "ada")
    store.close()


def test_a_read_only_home_says_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Store.open(f"sqlite:///{home / 'hone.db'}").close()
    script = """
        import sys
        from service.errors import StoreError
        from service.store.session import Store
        try:
            Store.open(sys.argv[1])
        except StoreError as error:
            print(error)
    """
    (home / "hone.db").chmod(0o444)
    home.chmod(0o555)
    try:
        done = _python(script, f"sqlite:///{home / 'hone.db'}", without_privileges=True)
    finally:
        home.chmod(0o755)
    assert "The database" in done.stdout and "user" in done.stdout, done.stdout + done.stderr
    assert "read" in done.stdout


def test_killed_while_writing_a_store_keeps_what_was_acknowledged_and_nothing_else(store_url: str) -> None:
    """Each transaction writes two keys; a SIGKILL at any moment must never leave one of two."""
    Store.open(store_url).close()
    acknowledged = 0
    for delay in (0.0, 0.003, 0.011, 0.029):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _write_pairs_for_ever(store_url, writer)
        os.close(writer)
        got = os.read(reader, 1)  # at least one pair is acknowledged
        threading.Event().wait(delay)
        os.kill(child, 9)
        os.waitpid(child, 0)
        while more := os.read(reader, 4096):
            got += more
        os.close(reader)
        acknowledged += len(got)
        store = Store.open(store_url)
        with store.read() as tx:
            names = [key.name for key in keys.list_keys(tx)]
        store.close()
        assert len(names) % 2 == 0 and names.count("first") == names.count("second")
        assert acknowledged <= len(names) // 2 <= acknowledged + 1
        acknowledged = len(names) // 2


def _write_pairs_for_ever(url: str, acknowledge: int) -> None:
    try:
        store = Store.open(url)
        while True:
            with store.begin() as tx:
                keys.create_key(tx, "user", "first")
                keys.create_key(tx, "user", "second")
            os.write(acknowledge, b".")
    finally:
        os._exit(1)


def _python(script: str, *arguments: str, without_privileges: bool = False) -> subprocess.CompletedProcess[str]:
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if without_privileges and os.geteuid() == 0 else []
    command = [*prefix, sys.executable, "-c", textwrap.dedent(script), *arguments]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=root)
