"""`hone adapters`: listed, asked for, waited for, refused, carried from home to home."""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from service.commands.report import report_lines
from service.store.queries import serving
from tests.service.command_line import Hone, publish, store_of
from tests.service.command_line import hone as hone


def test_adapters_are_listed_shown_and_requested(hone: Hone, tmp_path: Path) -> None:
    name = publish(tmp_path)
    listed = hone("adapters", "list", "--json").json
    assert listed["serving"]["live"] == "base"
    assert [(row["name"], row["state"]) for row in listed["adapters"]] == [(name, "candidate")]
    shown = hone("adapters", "show", name, "--json").json
    assert shown["report"] == {"fluency": 0.1} and shown["history"][0]["action"] == "published"
    assert "live: base" in hone("adapters", "list").out and name in hone("adapters", "show", name).out
    assert hone("adapters", "list").out.splitlines()[2].split()[:3] == [name, "candidate", "base"]

    promoted = hone("adapters", "promote", name, "--wait", "0", "--reason", "Better.")
    assert promoted.code == 0 and "as soon as the service runs" in promoted.out
    assert hone("adapters", "list", "--json").json["serving"]["requested"] == name
    assert hone("adapters", "canary", name, "--share", "0.2", "--json").json["canary"] == name
    assert hone("adapters", "canary", "--json").json["canary"] is None
    assert hone("adapters", "reject", name, "--reason", "Rude.").out == f"{name} is rejected.\n"
    again = hone("adapters", "reject", name, "--reason", "Dull.")
    assert (again.code, again.err) == (5, f"hone: {name} was rejected already: Rude.\n")
    assert hone("adapters", "promote", name, "--wait", "0").code == 5


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "-1"])
def test_what_is_no_time_to_wait_is_refused_and_nothing_is_asked_for(hone: Hone, tmp_path: Path, seconds: str) -> None:
    name = publish(tmp_path)
    refused = hone("adapters", "promote", name, "--wait", seconds)
    assert refused.code == 2 and f"--wait is a number of seconds, from 0 on, not {seconds}." in refused.err
    assert hone("engines", "remove", "http://127.0.0.1:1", "--wait", seconds).code == 2
    assert hone("adapters", "list", "--json").json["serving"]["requested"] is None


def test_a_promotion_waits_for_the_service_and_tells_why_it_failed(hone: Hone, tmp_path: Path) -> None:
    """The service's part is played by whoever changes the store while the command waits."""
    first, second = publish(tmp_path), publish(tmp_path)
    store = store_of(tmp_path)

    def rollout_does(act: Callable[[Any], Any]) -> Callable[[float], None]:
        def once(_seconds: float) -> None:
            with store.begin() as tx:
                act(tx)

        return once

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "service.commands.adapters.time.sleep", rollout_does(lambda tx: serving.fulfil_request(tx, first, ""))
        )
        assert hone("adapters", "promote", first).out == f"{first} is live.\n"
        reject = rollout_does(lambda tx: serving.set_state(tx, second, "rejected", "rollout", "It is broken."))
        patch.setattr("service.commands.adapters.time.sleep", reject)
        failed = hone("adapters", "promote", second)
        with store.begin() as tx:
            serving.flip_live(tx, "base", "test", "")
        aside = rollout_does(lambda tx: serving.put_aside(tx, first, "Its folder is missing."))
        patch.setattr("service.commands.adapters.time.sleep", aside)
        again = hone("adapters", "promote", first)
    assert (failed.code, "It is broken." in failed.err) == (6, True)
    assert (again.code, again.err) == (6, f"hone: {first} did not go live: Its folder is missing.\n")
    store.close()


def test_a_rollback_to_what_broke_on_the_disk_is_refused_before_anything_is_asked_for(
    hone: Hone, tmp_path: Path
) -> None:
    first, second = publish(tmp_path), publish(tmp_path)
    store = store_of(tmp_path)
    for name in (first, second):
        with store.begin() as tx:
            serving.flip_live(tx, name, "test", "")
    (tmp_path / "home" / "adapters" / first / "adapter_model.safetensors").unlink()
    for command in (("rollback",), ("rollback", first), ("promote", first)):
        done = hone("adapters", *command, "--wait", "0")
        assert (done.code, done.out, done.err.count("\n")) == (6, "", 1)
        assert f"Adapter {first}: adapter_model.safetensors is missing. Put the folder back" in done.err
    with store.read() as tx:
        desired = serving.desired_state(tx)
        assert (desired.live, desired.requested) == (second, None)
    store.close()
    assert hone("adapters", "rollback", "base", "--wait", "0").code == 0


def test_doctor_names_a_live_adapter_that_is_damaged(hone: Hone, tmp_path: Path) -> None:
    def found() -> list[tuple[Any, str]]:
        return [(one["ok"], one["found"]) for one in hone("doctor", "--json").json if one["check"] == "adapters"]

    name = publish(tmp_path)
    with closing(store_of(tmp_path)) as store, store.begin() as tx:
        serving.flip_live(tx, name, "test", "")
    assert found() == []
    weights = tmp_path / "home" / "adapters" / name / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    ((ok, said),) = found()
    assert ok is False and said.startswith(f"Adapter {name}: adapter_model.safetensors ") and said.endswith("(live)")


def test_a_report_is_told_in_lines() -> None:
    report = {
        "share_won": {"value": 0.7142857, "low": 0.6, "high": None, "decided": 14},
        "judge_accuracy": None,
        "feedback": {"judgements": {"correction": 3, "thumb": 1}, "people": 1, "set_aside": {}},
        "gates": [{"name": "fluent", "passed": False, "reason": "Fluency is -0.5."}],
    }
    assert dict(report_lines(report)) == {
        "share won": "value 0.7143, low 0.6, decided 14",
        "feedback": "judgements (correction 3, thumb 1), people 1",
        "gate: fluent": "stopped it. Fluency is -0.5.",
    }


def test_what_is_printed_for_people_fits_a_terminal_of_80_columns(
    hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name, why = publish(tmp_path), "The replies to questions about capitals were wrong more often than those before."
    hone("keys", "create", "--name", "a person with a rather long name, who signs with all of it, every time")
    hone("adapters", "reject", name, "--reason", why)
    for command in (("adapters", "list"), ("adapters", "show", name), ("keys", "list")):
        lines = hone(*command).out.splitlines()
        assert max(map(len, lines)) <= 80, command
    listed = hone("adapters", "list").out.splitlines()
    assert listed[1].split() == ["name", "state", "parent", "created", "at", "reason"]
    begins = listed[1].index("reason")
    assert listed[2].startswith(f"{name}    rejected") and {line[:begins].strip() for line in listed[3:]} == {""}
    assert " ".join(line[begins:].strip() for line in listed[2:]) == why
    monkeypatch.setenv("COLUMNS", "200")
    assert len(hone("adapters", "list").out.splitlines()) == 3


def test_an_exported_adapter_comes_back_under_a_new_name(hone: Hone, tmp_path: Path) -> None:
    name = publish(tmp_path)
    archive = str(tmp_path / "one.tar")
    assert hone("adapters", "export", name, archive, "--json").json["archive"] == archive
    assert hone("adapters", "export", name, archive).code != 0  # nothing is overwritten
    imported = hone("adapters", "import", archive, "--json").json["name"]
    assert imported != name
    Path(archive).write_bytes(Path(archive).read_bytes()[:2000])
    broken = hone("adapters", "import", archive)
    assert broken.code in (2, 6) and broken.err.count("\n") == 1


def test_an_adapter_is_carried_by_url(hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = publish(tmp_path)
    url = f"file://{tmp_path}/shared/gift"
    assert hone("adapters", "export", name, url).out == f"{name} is in {url}.\n"
    assert hone("adapters", "export", name, url).code == 5
    imported = hone("adapters", "import", url, "--json").json["name"]
    assert imported != name
    weights = tmp_path / "shared" / "gift" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    broken = hone("adapters", "import", url)
    assert (broken.code, broken.err.count("\n")) == (7, 1) and "is truncated" in broken.err
    monkeypatch.setitem(sys.modules, "s3fs", None)
    missing = hone("adapters", "export", name, "s3://bucket/gift")
    assert (missing.code, missing.err.count("\n")) == (2, 1) and "pip install s3fs" in missing.err
