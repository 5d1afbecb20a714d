"""Engines that come and go while the service runs, as `hone engines` says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI

from service.commands import options
from service.engine_checks import examine_engines
from service.errors import Conflict, NotFound
from service.settings import load_settings
from service.store.queries import engines
from service.store.session import Store
from service.store.tables import EngineChange
from tests.fixtures.serving import serve
from tests.fixtures.waiting import until
from tests.service.command_line import Hone
from tests.service.command_line import hone as hone
from tests.service.conftest import Service, service_over, settings_at
from tests.service.fake_engine import FakeEngine
from tests.service.fleet import Fleet, ask


class Town:
    """A service that was started with the first of two engines."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.settings = settings_at(home)
        self.store = stack.enter_context(closing(Store.open(self.settings.store_url)))
        self.engines = [FakeEngine(), FakeEngine()]
        self.urls = [stack.enter_context(serve(engine.app)) for engine in self.engines]
        self.service: Service = stack.enter_context(service_over(self.settings, self.store, self.urls[:1]))
        until(lambda: self.healthy() == {self.urls[0]: True})

    def healthy(self) -> dict[str, bool]:
        return {one["url"]: one["healthy"] for one in self.replicas()}

    def replicas(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.service.get("/health").json()["replicas"]
        return found

    def add(self, url: str) -> None:
        with self.store.begin() as tx:
            engines.add(tx, url, self.urls[:1], "name:op")

    def remove(self, url: str) -> None:
        with self.store.begin() as tx:
            engines.remove(tx, url, self.urls[:1], "name:op")

    def chat(self, conversation: str, said: str = "hi") -> httpx2.Response:
        return self.service.post("/v1/chat/completions", ask(conversation, said))


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with ExitStack() as stack:
        yield Town(tmp_path / "home", stack)


def test_an_engine_that_is_added_gets_requests_once_it_has_what_is_live(town: Town, source: Path) -> None:
    fleet = Fleet(**vars(town.service), engine=town.engines[0], engine_url=town.urls[0], engines=[], powers=[])
    live = fleet.go_live(source)
    joining = town.engines[1]
    joining.is_well = False
    town.add(town.urls[1])
    until(lambda: town.healthy() == {town.urls[0]: True, town.urls[1]: False})
    assert all(town.chat(f"c{number}").status_code == 200 for number in range(6)) and not joining.bodies
    joining.is_well = True
    until(lambda: all(town.healthy().values()))
    assert live in joining.adapters
    assert all(town.chat(f"d{number}").status_code == 200 for number in range(12)) and joining.bodies
    assert {body["model"] for body in joining.bodies} == {live}


def test_one_that_is_removed_ends_what_is_under_way_and_gets_nothing_more(town: Town) -> None:
    town.add(town.urls[1])
    until(lambda: town.healthy() == dict.fromkeys(town.urls, True))
    town.engines[0].is_well = False  # so that the second is asked
    until(lambda: town.healthy() == {town.urls[0]: False, town.urls[1]: True})
    leaving, answers = town.engines[1], list[int]()
    caller = threading.Thread(target=lambda: answers.append(town.chat("long", "!patient").status_code))
    caller.start()
    until(lambda: leaving.under_way == 1)
    town.engines[0].is_well = True
    until(lambda: all(town.healthy().values()))
    town.remove(town.urls[1])
    until(lambda: town.healthy() == {town.urls[0]: True, town.urls[1]: False})
    (state,) = (one for one in town.service.get("/health").json()["replicas"] if one["url"] == town.urls[1])
    assert state["under_way"] == 1 and "taken out" in state["problem"]
    assert all(town.chat(f"c{number}").status_code == 200 for number in range(6))
    assert len(leaving.bodies) == 1
    leaving.patience.set()
    caller.join()
    assert answers == [200]
    until(lambda: town.healthy() == {town.urls[0]: True})


def test_one_that_is_added_again_while_it_is_busy_is_the_same_one(town: Town) -> None:
    """Under another name of this machine, too: what is under way there goes on being counted."""
    first, second = town.urls
    town.add(second)
    until(lambda: town.healthy() == dict.fromkeys(town.urls, True))
    town.engines[0].is_well = False  # so that the second is asked
    until(lambda: town.healthy() == {first: False, second: True})
    answers = list[int]()
    caller = threading.Thread(target=lambda: answers.append(town.chat("long", "!patient").status_code))
    caller.start()
    until(lambda: town.engines[1].under_way == 1)
    town.remove(second)
    until(lambda: "taken out" in str(town.replicas()[-1]["problem"]))
    town.add(second.replace("127.0.0.1", "localhost"))
    until(lambda: town.healthy() == {first: False, second: True})
    assert [one["under_way"] for one in town.replicas()] == [0, 1]
    town.engines[1].patience.set()
    caller.join()
    assert answers == [200]
    until(lambda: [one["under_way"] for one in town.replicas()] == [0, 0])
    town.remove(second)
    until(lambda: town.healthy() == {first: False})
    town.add(second)  # it had gone for good: this is a new one
    until(lambda: town.healthy() == {first: False, second: True})
    assert town.chat("another").status_code == 200


def test_what_was_changed_is_so_after_a_restart(town: Town) -> None:
    town.add(town.urls[1])
    town.remove(town.urls[0])
    with service_over(town.settings, town.store, town.urls[:1]) as again:
        until(lambda: [one["healthy"] for one in again.get("/health").json()["replicas"]] == [True])
        (only,) = again.get("/health").json()["replicas"]
    assert only["url"] == town.urls[1]
    with pytest.raises(Conflict, match="the only engine"):
        town.remove(town.urls[1])


def test_the_list_is_that_of_the_settings_with_what_was_changed(store: Store) -> None:
    named = ("http://a", "http://b")
    with store.begin() as tx:
        assert engines.wanted(tx, named) == named
        engines.add(tx, "http://c", named, "name:op")
        engines.remove(tx, "http://a", named, "name:op")
        assert engines.wanted(tx, named) == ("http://b", "http://c")
        assert engines.wanted(tx, ("http://c", "http://d")) == ("http://c", "http://d")  # others are named by now
        with pytest.raises(Conflict, match="already"):
            engines.add(tx, "http://c", named, "name:op")
        with pytest.raises(NotFound, match="none of the engines"):
            engines.remove(tx, "http://a", named, "name:op")
        engines.add(tx, "http://a", named, "name:op")
        assert engines.wanted(tx, named) == ("http://a", "http://b", "http://c")


def test_one_engine_is_one_whatever_it_is_called(store: Store) -> None:
    named = ("http://127.0.0.1:8001",)
    with store.begin() as tx:
        for other in ("http://localhost:8001", "http://[::1]:8001"):
            with pytest.raises(Conflict, match=r"already, as http://127\.0\.0\.1:8001"):
                engines.add(tx, other, named, "name:op")
        engines.add(tx, "http://127.0.0.1:8002", named, "name:op")
        engines.remove(tx, "http://localhost:8002", named, "name:op")
        assert engines.wanted(tx, named) == named
        engines.add(tx, "http://localhost:8002", named, "name:op")  # by which it is reached, then
        assert engines.wanted(tx, named) == (*named, "http://localhost:8002")
        engines.remove(tx, "http://localhost:8001", named, "name:op")
        assert engines.wanted(tx, named) == ("http://localhost:8002",)


def test_what_was_kept_before_addresses_were_checked_is_told_without_a_password(store: Store) -> None:
    kept = ("http://ann:se/cret@HOST-A:1/v1", "http://host-a:1", "http://b:99999", "http://c?x=1")
    with store.begin() as tx:
        for minute, url in enumerate(kept):
            moment = datetime(2026, 1, 1, 0, minute, tzinfo=UTC)
            tx.add(EngineChange(url=url, is_wanted=True, changed_by="name:op", changed_at=moment))
        tx.flush()
        assert engines.wanted(tx, ()) == ("http://host-a:1",)


def test_operators_change_the_list_by_command_and_are_told_when_it_is_so(
    town: Town, hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_SERVER__PORT", str(urlsplit(town.service.url).port))
    monkeypatch.setenv("HONE_ENGINE__MODEL", "/models/fake")
    first, second = town.urls
    added = hone("engines", "add", f"{second}/v1")
    assert added.code == 0 and f"Engine {second} serves fake" in added.out and f"{second} serves." in added.out
    rows = {row["url"]: row for row in hone("engines", "list", "--json").json}
    assert rows[second]["wanted"] and rows[second]["healthy"] and rows[second]["under_way"] == 0
    assert first in hone("engines", "list").out
    assert hone("engines", "add", second.replace("127.0.0.1", "LOCALHOST") + "/").code == 5
    assert hone("engines", "remove", first, "--json").json == {"url": first, "done": True}
    assert list(town.healthy()) == [second]
    assert hone("engines", "remove", second).code == 5
    late = hone("engines", "add", "http://127.0.0.1:9", "--wait", "0.5")
    assert late.code != 0 and "waits" in late.err and "http://127.0.0.1:9 is added." in late.out
    assert "It gets requests once it answers; `hone engines remove http://127.0.0.1:9`" in late.out
    assert {row["url"]: row["healthy"] for row in hone("engines", "list", "--json").json}["http://127.0.0.1:9"] is False
    monkeypatch.setenv("HONE_SERVER__PORT", "1")
    monkeypatch.setenv("HONE_ENGINE__URLS", first)
    assert "the next start" in hone("engines", "remove", "http://127.0.0.1:9").out
    assert hone("engines", "add", "http://127.0.0.1:9", "--json").json == {
        "url": "http://127.0.0.1:9", "done": False, "answers": False,
    }  # fmt: skip


def test_hone_s_own_address_is_refused_whatever_it_is_called(
    town: Town, hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = urlsplit(town.service.url).port
    monkeypatch.setenv("HONE_SERVER__PORT", str(port))
    for address in (town.service.url, f"http://localhost:{port}/v1"):
        refused = hone("engines", "add", address)
        assert refused.code == 2 and "is a Hone service and no engine: it was not added" in refused.err
    assert [row["url"] for row in hone("engines", "list", "--json").json] == town.urls[:1]


def test_hone_s_own_address_that_was_kept_before_is_told_for_what_it_is(town: Town) -> None:
    """It gets no requests, which would go round in a circle."""
    town.add(town.service.url)
    until(lambda: "is a Hone service and no engine" in str(town.replicas()[-1]["problem"]))
    assert town.healthy() == {town.urls[0]: True, town.service.url: False}
    (report,) = examine_engines(
        load_settings(town.settings.home, {"engine": {"urls": [town.service.url]}}, environment={})
    )
    assert report.facts is None and "is a Hone service and no engine" in report.shortcomings[0].what


def test_whoever_waits_for_an_engine_is_told_how_long_and_why_and_may_stop(
    town: Town, hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_SERVER__PORT", str(urlsplit(town.service.url).port))
    monkeypatch.setattr("service.commands.engines.SETTLE_SECONDS", 0.0)
    monkeypatch.setattr("service.commands.engines.TELL_SECONDS", 0.0)
    away, told = "http://127.0.0.1:9", 0

    def say(line: str) -> None:
        nonlocal told
        told += line.startswith("After ") and "can't be reached" in line
        options.say(line)
        if told == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("service.commands.engines.say", say)
    stopped = hone("engines", "add", away, "--wait", "30")
    assert "Waiting until it serves, for 30 s at most (--wait); Ctrl-C ends the waiting alone." in stopped.out
    assert stopped.code == 130 and f"{away} stays added: only the waiting has ended." in stopped.err
    until(lambda: town.healthy() == {town.urls[0]: True, away: False})
    silent = hone("engines", "add", town.urls[1], "--json")
    assert json.loads(silent.out.splitlines()[-1]) == {"url": town.urls[1], "done": True, "answers": True}
    assert "After " not in silent.out and "Waiting" not in silent.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "'nowhere' is no address of an engine"),
        (("http://127.0.0.1:99999",), "'http://127.0.0.1:99999' is no address of an engine"),
        (("http://ann:secret@127.0.0.1:9",), "'http://127.0.0.1:9' is given with a user or a password"),
        (("http://127.0.0.1:9", "--wait", "-5"), "--wait"),
    ],
)
def test_what_no_engine_can_have_for_an_address_is_refused_and_not_kept(
    hone: Hone, sqlite_store: Store, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    for command in ("add", "remove"):
        refused = hone("engines", command, *arguments)
        assert refused.code == 2 and words in refused.err and "secret" not in refused.err
    assert hone("engines", "list").err.startswith("hone: Nothing is stored")


def test_the_list_fits_a_terminal(hone: Hone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    away, other = "http://engine-17.vllm.svc.cluster.local:8000", "http://10.0.0.11:8000"
    why = f"The engine at {away} can't be reached (All connection attempts failed). It may still be starting."
    states: list[dict[str, Any]] = [
        {"url": other, "healthy": True, "under_way": 12, "adapters": ["v1", "v2"], "problem": None},
        {"url": away, "healthy": False, "under_way": 0, "adapters": [], "problem": why},
        {"url": "http://a", "healthy": False, "under_way": 1, "adapters": [], "problem": "it was taken out"},
    ]
    app = FastAPI()
    app.get("/health")(lambda: {"status": "ok", "rollout": "ok", "replicas": states})
    settings = settings_at(tmp_path / "home")
    with closing(Store.open(settings.store_url)) as store, store.begin() as tx:
        engines.remove(tx, "http://a", [state["url"] for state in states], "name:op")
    with serve(app) as url:
        monkeypatch.setenv("HONE_SERVER__PORT", str(urlsplit(url).port))
        lines = hone("engines", "list").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[:4]] == [
        ["url", "state", "under", "way", "adapters"],
        [other, "serves", "12", "v1,", "v2"],
        [away, "waits", "0"],
        ["http://a", "leaves", "1"],
    ]
    assert " ".join(lines[4:]) == f"{why} http://a: it was taken out"
