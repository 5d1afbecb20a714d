"""Engines that come and go while the service runs, as `hone engines` says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from service.errors import Conflict, NotFound
from service.store.queries import engines
from service.store.session import Store
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
        return {one["url"]: one["healthy"] for one in self.service.get("/health").json()["replicas"]}

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
    assert hone("engines", "remove", first, "--json").json == {"url": first, "done": True}
    assert list(town.healthy()) == [second]
    assert hone("engines", "remove", second).code == 5
    late = hone("engines", "add", "http://127.0.0.1:9", "--wait", "0.5")
    assert late.code != 0 and "waits" in late.err
    assert hone("engines", "add", "nowhere").code == 2
    monkeypatch.setenv("HONE_SERVER__PORT", "1")
    monkeypatch.setenv("HONE_ENGINE__URLS", first)
    assert "the next start" in hone("engines", "remove", "http://127.0.0.1:9").out
