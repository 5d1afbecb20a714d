"""`hone learn --once` where a run was broken off: one that would learn the same goes on when it is asked for again."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from learner import once
from learner.daemon import Learner
from learner.once import learn_once
from learner.parents import Parents
from service.constitution import parse
from service.constitution.versions import built_in_version
from service.store.queries import constitutions, feedback, runs
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


def begun(home: Home, method: str, learner: str = "another", **options: object) -> runs.Lease:
    """A run that has frozen what it learns from."""
    with home.store.begin() as tx:
        runs.queue_run(tx, f"command-{method}", "command", method, dict(options))
        lease = runs.lease_run(tx, learner, 60.0, 3)
        assert lease is not None
        runs.set_snapshot(tx, lease.run_id, lease.fence, "abc", feedback.last_position(tx), [], None)
    return lease


def its_process_ended() -> str:
    """The name of a learner of this machine that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"{socket.gethostname()}:{process.pid}"


def all_end_at_once(self: Learner) -> None:
    with self._store.begin() as tx:
        for run in runs.list_runs(tx):
            run.state = "succeeded" if run.state in ("queued", "running") else run.state


@pytest.mark.parametrize("method", ["sl-cai", "sft"])
@pytest.mark.parametrize("killed", [False, True])
def test_a_run_that_was_broken_off_is_gone_on_with_by_who_asks_for_it_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], killed: bool, method: str
) -> None:
    """Given back, or its learner was killed and its lease is not over yet."""
    lease = begun(home, method, its_process_ended(), promote=False)
    if not killed:
        with home.store.begin() as tx:
            runs.release_run(tx, lease.run_id, lease.fence)
    monkeypatch.setattr(Learner, "work", all_end_at_once)
    assert learn_once(home.settings, method, promote=False) == 0
    when = " once its lease is over, within 5 seconds" if killed else ""
    assert f"Run {lease.run_id} goes on{when}: it was broken off, and nobody works on it." in capsys.readouterr().err
    with home.store.read() as tx:
        assert [run.id for run in runs.list_runs(tx)] == [lease.run_id]


@pytest.mark.parametrize(
    "what", ["worked on", "another stage", "another wish", "feedback", "a constitution", "a parent"]
)
def test_another_run_is_asked_for_where_it_would_learn_something_else(
    home: Home, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    method = "sl-cai"
    lease = begun(home, method)
    with home.store.begin() as tx:
        if what != "worked on":
            runs.release_run(tx, lease.run_id, lease.fence)
        if what == "a constitution":
            text = built_in_version().text.replace("Helpful, honest", "Honest, helpful")
            constitutions.put_in_effect(tx, text, parse(text).sha256, "ann", "", built_in_version().constitution.sha256)
    if what == "feedback":
        home.correct("no", "yes")
    if what == "a parent":
        monkeypatch.setattr(Parents, "choose", lambda *_: "v1")
    monkeypatch.setattr(Learner, "work", all_end_at_once)
    asked = "rl-cai" if what == "another stage" else method
    assert learn_once(home.settings, asked, promote=False if what == "another wish" else None, as_json=True) == 0
    with home.store.read() as tx:
        assert len(runs.list_runs(tx)) == 2


def test_a_run_that_nobody_works_on_is_not_called_under_way(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lease = begun(home, "kto", its_process_ended())
    looks: list[Learner] = []

    def end_at_the_second_look(self: Learner) -> None:
        looks.append(self)
        if len(looks) == 2:
            all_end_at_once(self)

    monkeypatch.setattr(Learner, "work", end_at_the_second_look)
    monkeypatch.setenv("COLUMNS", "200")
    assert learn_once(home.settings, "sft") == 0
    told = capsys.readouterr().err
    assert f"Run {lease.run_id} was broken off and goes on first: this one" in told and "under way" not in told


def test_a_run_that_this_process_goes_on_with_is_not_called_under_way_and_the_bar_shows_it(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, looks = begun(home, "kto"), []
    with home.store.begin() as tx:
        runs.release_run(tx, first.run_id, first.fence)

    def train_it_here_and_end(self: Learner) -> None:
        looks.append(1)
        if len(looks) == 1:
            with home.store.begin() as tx:
                lease = runs.lease_run(tx, self.name, 60.0, 3)
                assert lease is not None and lease.run_id == first.run_id
                runs.progress(tx, lease.run_id, lease.fence, "train: kto", 3, 9)
        elif len(looks) == 9:
            all_end_at_once(self)

    monkeypatch.setattr(Learner, "work", train_it_here_and_end)
    monkeypatch.setenv("COLUMNS", "200")
    assert learn_once(home.settings, "sft") == 0
    told = capsys.readouterr().err
    assert f"Run {first.run_id} was broken off and goes on first: this one" in told and "under way" not in told


def test_what_becomes_of_a_run_that_is_over_is_said_with_its_message(home: Home) -> None:
    lease = begun(home, "sft")
    with home.store.begin() as tx:
        runs.finish_run(tx, lease.run_id, lease.fence, "nothing_to_learn", "There is no feedback.")
    said = once._what_becomes_of(home.store, lease.run_id)
    assert said == f"Run {lease.run_id} is over (nothing to learn): There is no feedback."
