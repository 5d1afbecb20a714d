"""`hone learn --once`, and the child process that it and the learner start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from sqlalchemy.orm import Session

from learner import child
from learner.batch import Pair, Snapshot
from learner.constitution.named_judge import check_judge
from learner.daemon import Learner
from learner.once import learn_once
from learner.trainer import settings_of, stages_of
from learner.training_process import start_child
from service.errors import BadInput, NotFound, Stopped, StoreError, TrainingFailed
from service.settings import ConstitutionSettings, PpoSettings
from service.store.queries import runs
from service.store.tables import Run
from tests.fixtures.waiting import until
from tests.learner.queued_runs import lease, queue
from tests.learner.store_fixtures import Home
from tests.learner.store_fixtures import home as home


def newest(home: Home) -> Run:
    with home.store.read() as tx:
        return runs.list_runs(tx)[0]


def test_one_run_is_worked_on_and_told(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert learn_once(home.settings, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["message"]) == ("nothing_to_learn", "There is no feedback to learn from.")
    assert (told["id"], told["trigger"], told["attempt"]) == (newest(home).id, "command", 1)


def test_a_run_that_waits_already_is_the_one_that_is_worked_on(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = queue(home)
    assert learn_once(home.settings, "sft", promote=False) == 0
    assert f"Run {waiting} was waiting already" in capsys.readouterr().err
    with home.store.read() as tx:
        (run,) = runs.list_runs(tx)
    assert (run.id, run.state, run.method, run.options) == (waiting, "nothing_to_learn", "sft", {"promote": False})


def test_a_run_that_waits_for_another_says_for_which(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = queue(home)
    with home.store.begin() as tx:
        lease = runs.lease_run(tx, "another", 60.0, 3)
        assert lease is not None
        runs.progress(tx, first, lease.fence, "train", 1, 9)
    looks = 0

    def the_other_ends_after_a_while(self: Learner) -> None:
        nonlocal looks
        looks += 1
        with home.store.begin() as tx:
            if looks == 3:
                runs.finish_run(tx, first, lease.fence, "succeeded", "Done.")
            elif looks == 4 and (next_one := runs.lease_run(tx, "another", 60.0, 3)):
                runs.finish_run(tx, next_one.run_id, next_one.fence, "succeeded", "Done.")

    monkeypatch.setattr(Learner, "work", the_other_ends_after_a_while)
    monkeypatch.setenv("COLUMNS", "200")
    assert learn_once(home.settings) == 0
    assert capsys.readouterr().err.count(f"Run {first} is under way") == 1


def test_a_run_that_fails_gives_an_exit_code(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def another_learner_takes_it(self: Learner) -> None:
        with home.store.begin() as tx:
            if lease := runs.lease_run(tx, "another", 60.0, 3):
                runs.finish_run(tx, lease.run_id, lease.fence, "failed", "It broke; see [learner].")

    monkeypatch.setattr(Learner, "work", another_learner_takes_it)
    assert learn_once(home.settings) == TrainingFailed.exit_code
    assert "It broke; see [learner]." in capsys.readouterr().out


def test_a_store_that_is_away_for_a_moment_does_not_end_the_run(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work, tries = Learner.work, []

    def work_at_the_second_try(self: Learner) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise StoreError("The database can't be reached.", "It may be starting.")
        work(self)

    def get_at_the_second_try(tx: Session, run_id: str) -> Run | None:
        tries.append(2)
        if tries.count(2) <= 3:
            raise StoreError("The database can't be reached.", "It may be starting.")
        return get_run(tx, run_id)

    get_run = runs.get_run
    monkeypatch.setattr(Learner, "work", work_at_the_second_try)
    monkeypatch.setattr("learner.once.runs.get_run", get_at_the_second_try)
    monkeypatch.setattr("learner.once.AWAY_SECONDS", 0.0)
    assert learn_once(home.settings) == 0
    assert "There is no feedback to learn from." in capsys.readouterr().out
    assert tries.count(1) > 1 and tries.count(2) > 3


def test_the_bar_is_full_when_the_run_is_over(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def another_learner_does_it(self: Learner) -> None:
        with home.store.begin() as tx:
            if lease := runs.lease_run(tx, "another", 60.0, 3):
                runs.progress(tx, lease.run_id, lease.fence, "publish", 0, 1)
                runs.finish_run(tx, lease.run_id, lease.fence, "succeeded", "v1 passed every gate.", adapter=None)

    monkeypatch.setattr(Learner, "work", another_learner_does_it)
    assert learn_once(home.settings) == 0
    drawn = capsys.readouterr().err
    assert "succeeded" in drawn and "1/1" in drawn and "0/1" not in drawn


@pytest.mark.parametrize("method", ["reinforce", "rloo", "grpo"])
def test_names_of_advantages_are_stages_that_go_by_the_settings_of_ppo(method: str, home: Home) -> None:
    train = Snapshot(pairs=(Pair((5,), (6,), (7,)),))
    assert stages_of(method, train) == (method,) and not stages_of(method, Snapshot())
    changed = settings_of(method, home.settings)
    assert changed.ppo == PpoSettings.model_validate({"advantages": method})
    assert changed.model_copy(update={"ppo": home.settings.ppo}) == home.settings
    assert settings_of("ppo", home.settings) is home.settings
    once = home.settings.model_copy(update={"ppo": PpoSettings(iterations=1)})
    assert settings_of(method, once).ppo == PpoSettings(iterations=1, advantages=method)
    with pytest.raises(BadInput, match=r"The method ppo .* raise iterations, or lower value_warmup"):
        settings_of("ppo", once)


def test_a_run_by_such_a_name_keeps_it_and_its_settings(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever learner goes on with it, and whatever `ppo.advantages` says."""
    assert learn_once(home.settings, "rloo", as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["method"]) == ("nothing_to_learn", "rloo")
    for file in ("settings.json", "recipe.json"):
        kept = json.loads((home.settings.runs_folder / told["id"] / file).read_text(encoding="utf-8"))
        assert kept["ppo"]["advantages"] == "rloo"


def test_what_is_kept_beside_a_run_has_no_password_of_the_judge(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    judged = ConstitutionSettings(judge="http://ann:secret@127.0.0.1:1/v1")
    assert learn_once(home.settings.model_copy(update={"constitution": judged}), as_json=True) == 0
    folder = home.settings.runs_folder / json.loads(capsys.readouterr().out)["id"]
    for file in ("settings.json", "recipe.json"):
        kept = json.loads((folder / file).read_text(encoding="utf-8"))
        assert kept["constitution"]["judge"] == "http://127.0.0.1:1/v1"
    assert not [path for path in home.settings.home.rglob("*") if path.is_file() and b"secret@" in path.read_bytes()]


def test_settings_that_such_a_name_does_not_go_with_are_told_before_a_run_is_queued(home: Home) -> None:
    one_reply = home.settings.model_copy(update={"ppo": PpoSettings(replies=1)})
    with pytest.raises(BadInput, match=r"The method grpo .* settings \(ppo\): .* replies must be at least 2"):
        learn_once(one_reply, "grpo")
    with home.store.read() as tx:
        assert not runs.list_runs(tx)
    with home.store.begin() as tx:  # as a service does, which knows other settings
        run, _ = runs.ask_for_run(tx, "grpo")
    assert child.work(one_reply, home.store, run.id, lease(home).fence) == 0
    assert newest(home).state == "failed" and "replies must be at least 2" in newest(home).message


def test_what_does_not_exist_is_no_parent_and_no_run_is_queued(home: Home) -> None:
    with pytest.raises(NotFound, match="There is no adapter 'v7'"):
        learn_once(home.settings, parent="v7")
    with home.store.read() as tx:
        assert not runs.list_runs(tx)


@pytest.mark.parametrize("by_setting", [False, True])
def test_a_judge_that_does_not_exist_is_told_before_a_run_is_queued(home: Home, by_setting: bool) -> None:
    judged = home.settings.model_copy(update={"constitution": ConstitutionSettings(judge="v9")})
    if by_setting:
        judged = judged.model_copy(update={"learner": judged.learner.model_copy(update={"method": "rl-cai"})})
    with pytest.raises(NotFound, match=r"no adapter v9, which constitution\.judge names\. `hone adapters list`"):
        learn_once(judged, None if by_setting else "rl-cai")
    with home.store.read() as tx:
        assert not runs.list_runs(tx)
    check_judge(judged, home.store, "sl-cai")  # nobody judges there


def test_a_parent_is_a_wish_of_the_run(home: Home) -> None:
    assert learn_once(home.settings, parent="base", as_json=True) == 0
    assert newest(home).options == {"parent": "base"}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_gives_the_run_back_and_says_so(
    home: Home, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    def begin_and_be_told(self: Learner) -> None:
        work(self)
        if newest(home).state == "running":
            os.kill(os.getpid(), how)

    def nobody_listens(*_: object) -> None:
        raise AssertionError(f"{how.name} came through")

    work = Learner.work
    monkeypatch.setattr(Learner, "work", begin_and_be_told)
    before = signal.signal(how, nobody_listens)
    try:
        with pytest.raises(Stopped) as stopped:
            learn_once(home.settings, as_json=True)
        assert signal.getsignal(how) is nobody_listens
    finally:
        signal.signal(how, before)
    run = newest(home)
    assert (run.state, run.attempt, run.leased_by, run.leased_until) == ("queued", 0, None, None)
    assert str(stopped.value) == f"Stopped. Run {run.id} is given back: the next `hone learn` goes on with it."
    mine = psutil.Process().children(recursive=True)
    assert not [one for one in mine if run.id in one.cmdline()]


def test_told_to_end_while_another_learner_works_on_the_run_it_leaves_that_alone(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_learner_takes_it(self: Learner) -> None:
        with home.store.begin() as tx:
            assert runs.lease_run(tx, "another", 60.0, 3) is not None
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Learner, "work", another_learner_takes_it)
    with pytest.raises(Stopped, match="is running"):
        learn_once(home.settings, as_json=True)
    assert (newest(home).state, newest(home).leased_by) == ("running", "another")


def test_the_log_of_a_run_holds_nothing_that_its_reader_can_not_act_on() -> None:
    says = """if True:
        import logging
        from learner.child import set_up_log
        set_up_log()
        logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load CPU gemm_4bit_forward")
        logging.getLogger("httpx2").info("HTTP Request: POST http://127.0.0.1:9/v1/completions")
        logging.getLogger("hone.learner").info("Phase train.")"""
    log = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=True).stderr
    assert "Phase train." in log and "gemm_4bit_forward" not in log and "HTTP Request" not in log


def test_a_training_steps_back_and_is_bounded_in_threads(tmp_path: Path) -> None:
    home = Home(tmp_path, niceness=13, threads=1)
    run_id = queue(home)
    with home.store.begin() as tx:
        lease = runs.lease_run(tx, "test", 60.0, 3)
    assert lease is not None and lease.run_id == run_id
    training = start_child(home.settings, lease)
    seen = psutil.Process(training.process.pid)
    stepped_back = min(19, psutil.Process().nice() + 13)
    until(lambda: seen.status() == psutil.STATUS_ZOMBIE or seen.nice() == stepped_back)
    assert seen.nice() == stepped_back
    if seen.status() != psutil.STATUS_ZOMBIE:
        assert {seen.environ().get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} <= {"1"}
    training.stop()
    home.store.close()
