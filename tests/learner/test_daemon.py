from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from learner.daemon import Learner, make_clock, occasions
from learner.metrics import Metrics
from learner.run_folder import RunFolder
from learner.training_process import Training, cause_of_death, start_child
from service.settings import LearnerSettings, Settings
from service.store.queries import feedback, runs
from service.store.tables import Run
from service.wire import Label
from tests.fixtures.waiting import PATIENCE, until
from tests.learner.queued_runs import all_runs, lease, queue, the_run
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home

SLEEPS = "import time; time.sleep(60)"


def pretends(code: str, started: list[int] | None = None) -> Callable[[Settings, runs.Lease], Training]:
    """Instead of training, the child runs this code; `store`, `run_id`, `fence`, `runs` are there for it."""

    def start(settings: Settings, lease: runs.Lease) -> Training:
        folder = settings.runs_folder / lease.run_id
        folder.mkdir(parents=True, exist_ok=True)
        head = "import sys; from service.store.session import Store; from service.store.queries import runs; "
        head += f"store = Store.open({settings.store_url!r}); run_id = {lease.run_id!r}; fence = {lease.fence}\n"
        with (folder / "log.txt").open("ab") as output:
            command = [sys.executable, "-c", (head if "store" in code else "") + code]
            process = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=output, stderr=output)
        if started is not None:
            started.append(process.pid)
        return Training(lease, process, folder / "log.txt")

    return start


def drive(learner: Learner, home: Home, run_id: str, *states: str) -> Run:
    def there() -> bool:
        learner.work()
        return the_run(home, run_id).state in states

    until(there)
    return the_run(home, run_id)


def test_a_child_that_ends_its_run_leaves_it_as_it_is(home: Home) -> None:
    ends = "with store.begin() as tx: runs.finish_run(tx, run_id, fence, 'succeeded', 'done', 'v1')"
    learner = Learner(home.settings, home.store, pretends(ends))
    run = drive(learner, home, queue(home), "succeeded")
    assert (run.adapter, run.message, run.attempt) == ("v1", "done", 1)
    learner.stop()
    assert the_run(home, run.id).state == "succeeded"


def test_a_child_that_dies_is_tried_again_and_then_fails_with_the_reason(home: Home) -> None:
    started: list[int] = []
    learner = Learner(home.settings, home.store, pretends("raise ValueError('no such luck')", started))
    run = drive(learner, home, queue(home), "failed")
    assert len(started) == home.settings.learner.max_attempts == run.attempt
    assert "died 3 times" in run.message and "no such luck" in run.message


def test_a_run_that_got_further_when_it_was_killed_is_tried_once_more(tmp_path: Path) -> None:
    home = Home(tmp_path, max_attempts=2)
    further = """if True:
        import os, signal
        with store.begin() as tx:
            runs.progress(tx, run_id, fence, 'train', 0, 9, f'stage {fence}')
            if fence == 3: runs.finish_run(tx, run_id, fence, 'succeeded', 'done', 'v1')
        if fence < 3: os.kill(os.getpid(), signal.SIGKILL)
    """
    learner = Learner(home.settings, home.store, pretends(further))
    run = drive(learner, home, queue(home), "succeeded", "failed")
    learner.stop()
    assert (run.state, run.attempt) == ("succeeded", 3)
    home.store.close()


def test_a_child_that_was_killed_is_said_to_be_killed(home: Home) -> None:
    dies = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    run = drive(Learner(home.settings, home.store, pretends(dies)), home, queue(home), "failed")
    assert "killed (signal 9)" in run.message


def test_stopping_gives_the_run_back_at_once_and_costs_no_attempt(home: Home) -> None:
    started: list[int] = []
    learner = Learner(home.settings, home.store, pretends(SLEEPS, started))
    run_id = queue(home)
    drive(learner, home, run_id, "running")
    learner.stop()
    assert (the_run(home, run_id).state, the_run(home, run_id).attempt) == ("queued", 0)
    assert not Path(f"/proc/{started[0]}").exists()


def test_cancelling_a_run_stops_its_child(home: Home) -> None:
    started: list[int] = []
    learner = Learner(home.settings, home.store, pretends(SLEEPS, started))
    run_id = queue(home)
    drive(learner, home, run_id, "running")
    with home.store.begin() as tx:
        runs.cancel_run(tx, run_id)
    learner.work()
    assert not Path(f"/proc/{started[0]}").exists()
    assert the_run(home, run_id).state == "cancelled"


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_run_that_fails_or_is_cancelled_while_it_trains_leaves_its_curves(home: Home, end: str) -> None:
    fails = "with store.begin() as tx: runs.finish_run(tx, run_id, fence, 'failed', 'The loss had no finite value.')"
    learner = Learner(home.settings, home.store, pretends(fails if end == "failed" else SLEEPS))
    run_id = queue(home)
    Metrics(RunFolder.of(home.settings, run_id).metrics).add("sft", 1, 3, {"loss": 2.0})
    learner.work()
    if end == "cancelled":
        with home.store.begin() as tx:
            runs.cancel_run(tx, run_id)
    drive(learner, home, run_id, end)
    curves = RunFolder.of(home.settings, run_id).curves

    def is_drawn() -> bool:
        learner.work()
        return curves.exists()

    until(is_drawn)
    assert curves.read_bytes().startswith(b"\x89PNG")


def test_a_learner_that_fell_silent_loses_the_run_and_can_not_write_any_more(tmp_path: Path) -> None:
    home = Home(tmp_path, lease_seconds=0.2)
    silent, awake = (Learner(home.settings, home.store, pretends(SLEEPS)) for _ in range(2))
    run_id = queue(home)
    drive(silent, home, run_id, "running")

    def taken_over() -> bool:
        awake.work()
        return the_run(home, run_id).fence == 2

    until(taken_over)
    silent.beat()  # hears that it lost, stops its child, and writes nothing
    silent.stop()
    assert (the_run(home, run_id).state, the_run(home, run_id).attempt) == ("running", 2)
    awake.stop()
    home.store.close()


def test_the_heartbeat_keeps_the_lease(tmp_path: Path) -> None:
    home = Home(tmp_path, lease_seconds=30.0)
    learner = Learner(home.settings, home.store, pretends(SLEEPS))
    run_id = queue(home)
    before = drive(learner, home, run_id, "running").leased_until
    learner.beat()
    after = the_run(home, run_id).leased_until
    assert before is not None and after is not None and after > before
    learner.stop()
    home.store.close()


def test_any_number_of_learners_start_one_run_a_time_slot(tmp_path: Path) -> None:
    home = Home(tmp_path, every_minutes=10.0)
    learners = [Learner(home.settings, home.store) for _ in range(3)]
    noon = datetime(2026, 11, 21, 12, 3, tzinfo=UTC)
    for learner in learners:
        learner.queue_by_time(noon)
    assert not all_runs(home)  # nothing new to learn from
    home.correct("a", "bb")
    for learner in learners:
        learner.queue_by_time(noon)
    assert [run.tick for run in all_runs(home)] == ["time:2026-11-21T12:00:00Z"]
    learners[0].queue_by_time(noon + timedelta(minutes=10))
    assert len(all_runs(home)) == 1  # the run that waits will see to it: slower runs than slots make no queue
    with home.store.begin() as tx:
        runs.cancel_run(tx, all_runs(home)[0].id)
    learners[0].queue_by_time(noon + timedelta(minutes=10))
    assert all_runs(home)[0].tick == "time:2026-11-21T12:10:00Z"
    home.store.close()


def test_a_time_slot_that_began_while_no_learner_ran_is_made_up_for(tmp_path: Path) -> None:
    home = Home(tmp_path, every_minutes=1e6)
    home.correct("a", "bb")
    ends = "with store.begin() as tx: runs.finish_run(tx, run_id, fence, 'nothing_to_learn', 'done')"
    learner = Learner(home.settings, home.store, pretends(ends))
    clock = make_clock(home.settings, learner)
    clock.start()
    until(lambda: [run.state for run in all_runs(home)] == ["nothing_to_learn"])
    clock.shutdown(wait=True)
    learner.stop()
    home.store.close()


def test_a_child_that_can_not_be_started_fails_the_run_with_the_reason(home: Home) -> None:
    def start(settings: Settings, lease: runs.Lease) -> Training:
        raise OSError(28, "No space left on device", "log.txt")

    run = drive(Learner(home.settings, home.store, start), home, queue(home), "failed")
    assert run.attempt == home.settings.learner.max_attempts
    assert "could not be started" in run.message and "No space left on device" in run.message


def test_enough_feedback_starts_one_run_and_enough_more_the_next(tmp_path: Path) -> None:
    home = Home(tmp_path, after_feedback=3)
    learners = [Learner(home.settings, home.store) for _ in range(2)]

    def give(count: int) -> list[str]:
        for _ in range(count):
            home.correct("a", "bb")
            for learner in learners:
                learner.queue_by_count()
        return [run.tick for run in all_runs(home)]

    assert give(2) == []
    assert give(2) == ["count:3"]
    with home.store.begin() as tx:
        lease = runs.lease_run(tx, "test", 60, 3)
        assert lease is not None
        runs.set_snapshot(tx, lease.run_id, lease.fence, "hash", feedback.last_position(tx), [], None)
        runs.finish_run(tx, lease.run_id, lease.fence, "succeeded", "done")
    assert give(2) == ["count:3"]
    assert give(1) == ["count:6", "count:3"]
    home.store.close()


def test_what_no_method_learns_from_starts_no_run(tmp_path: Path) -> None:
    home = Home(tmp_path, after_feedback=2, every_minutes=1.0)
    learner = Learner(home.settings, home.store)
    for reply in ("a", "b"):
        home.judge(Label(exchange_id=home.chat(reply), labels=("wrong",)))
    learner.queue_by_count()
    learner.queue_by_time()
    assert all_runs(home) == []
    home.correct("a", "bb")
    learner.queue_by_count()
    assert all_runs(home) == []
    home.correct("a", "ccc")
    learner.queue_by_count()
    assert [run.trigger for run in all_runs(home)] == ["count"]
    home.store.close()


def test_the_clock_itself_starts_the_work(tmp_path: Path) -> None:
    home = Home(tmp_path, after_feedback=1)
    ends = "with store.begin() as tx: runs.finish_run(tx, run_id, fence, 'nothing_to_learn', 'done')"
    learner = Learner(home.settings, home.store, pretends(ends))
    clock = make_clock(home.settings, learner)
    clock.start()
    home.correct("a", "bb")
    until(lambda: [run.state for run in all_runs(home)][:1] == ["nothing_to_learn"])
    clock.shutdown(wait=True)
    learner.stop()
    home.store.close()


def test_a_real_child_ends_by_itself_when_its_daemon_dies(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "__init__.py").write_text("raise SystemExit('the learner of somebody else was run')")
    monkeypatch.chdir(tmp_path)  # what lies in the folder that the daemon was started in is not ours
    run_id, leased = queue(home), lease(home)
    assert leased.run_id == run_id
    training = start_child(home.settings, leased)
    assert training.process.stdin is not None
    training.process.stdin.close()  # what the kernel does when the daemon is killed
    assert training.process.wait(PATIENCE) != 0
    assert "of somebody else" not in training.log_path.read_text()


@pytest.mark.parametrize(
    ("code", "log", "said"), [(1, "Traceback\nMemoryError", "MemoryError"), (-11, "", "signal 11")]
)
def test_the_cause_of_death_is_told_in_plain_words(tmp_path: Path, code: int, log: str, said: str) -> None:
    (tmp_path / "log.txt").write_text(log)
    assert said in cause_of_death(code, tmp_path / "log.txt")


def test_a_learner_never_loads_torch() -> None:
    check = "import sys, learner.daemon, learner.once; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "False False", done.stderr


def test_when_a_run_begins_is_told_in_words() -> None:
    assert occasions(LearnerSettings(after_feedback=0)) == ["when it is asked for"]
    assert occasions(LearnerSettings(after_feedback=5, every_minutes=30)) == [
        "after 5 new judgements",
        "every 30 minutes if there are any",
        "when it is asked for",
    ]
