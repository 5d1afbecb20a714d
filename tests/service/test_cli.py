"""The command line: results, errors in one line with an exit code, and the documentation that comes from the code."""

import json
import logging
import re
import shlex
import socket
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi import FastAPI
from typer.exceptions import TyperException

from service import cli, reference
from service.adapters.registry import Registry
from service.app import api_description
from service.commands.report import report_lines
from service.errors import PortInUse
from service.listening import listen
from service.settings import load_settings
from service.store.queries import serving
from service.store.session import Store
from tests.deploy.reading import parse_command
from tests.fixtures.adapters import provenance, write_source
from tests.fixtures.serving import serve
from tests.service.fake_engine import FakeEngine

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Hone = Callable[..., Done]


@pytest.fixture
def hone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hone:
    """`hone …` in this process, over a home of the test's own."""
    for name in ("HONE_HOME", "HONE_SERVER__PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HONE_ENGINE__MODEL", "/models/elsewhere")

    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*arguments: str) -> Done:
        monkeypatch.setattr("sys.argv", ["hone", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        for handler in set(root.handlers) - set(before[0]):
            handler.close()
        root.handlers[:], root.level = before
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run


def store_of(tmp_path: Path) -> Store:
    return Store.open(load_settings(tmp_path / "home", environment={}).store_url)


def publish(tmp_path: Path) -> str:
    store = store_of(tmp_path)
    source = write_source(tmp_path / "source")
    name = Registry(store, tmp_path / "home" / "adapters").publish(source, provenance(), {"fluency": 0.1}, "It passed.")
    store.close()
    return name


# -- keys, feedback, adapters -----------------------------------------------------------------------------------------


def test_keys_are_made_listed_and_revoked(hone: Hone) -> None:
    made = hone("keys", "create", "--name", "olga", "--role", "operator", "--json").json
    prefix = made["key"].split("_")[1]
    listed = hone("keys", "list", "--json").json
    assert [(key["prefix"], key["role"], key["name"], key["revoked_at"]) for key in listed] == [
        (prefix, "operator", "olga", None)
    ]
    assert made["key"] not in hone("keys", "list").out
    assert hone("keys", "revoke", prefix).code == 0
    assert hone("keys", "list", "--json").json[0]["revoked_at"] is not None
    assert hone("keys", "create", "--name", "ann").out.startswith("hone_")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("keys", "create", "--name", "ann", "--role", "king"), 2, "no role 'king'"),
        (("keys", "create", "--name", "name:ann"), 2, "no colon"),
        (("keys", "create", "--name", " "), 2, "needs a name"),
        (("keys", "create", "--name", "x" * 129), 2, "at most 128 characters"),
        (("keys", "create", "--name", "a\nb"), 2, "printable"),
        (("keys", "revoke", "nothing"), 4, "no key 'nothing'"),
        (("adapters", "show", "v7"), 4, "no adapter 'v7'"),
        (("adapters", "promote", "v7"), 4, "no adapter 'v7'"),
        (("adapters", "promote", "base"), 4, "what serves without one. `hone adapters rollback base`"),
        (("adapters", "export", "v7"), 4, "no adapter 'v7'"),
        (("adapters", "import", "nothing.tar"), 2, "nothing.tar"),
        (("adapters", "import", "/"), 2, "is a folder. An adapter's folder is named by its URL: file:///."),
        (("adapters", "rollback"), 5, "nothing to roll back"),
        (("adapters", "rollback", "v7"), 4, "no adapter 'v7'"),
        (("adapters", "canary", "v7", "--share", "1.5"), 2, "between 0 and 1"),
        (("learn", "--once", "--method", "magic"), 2, "no method 'magic'"),
        (("learn", "--method", "sft"), 2, "--method belongs to one run. Add --once"),
        (("learn", "--no-promote"), 2, "--promote belongs to one run. Add --once"),
        (("serve",), 2, "needs an engine"),
        (("ui", "--host", "0.0.0.0"), 2, "let everybody in"),
        (("ui", "--api", "nonsense"), 2, "'nonsense' is no URL of a service"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    hone: Hone, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    store_of(tmp_path).close()
    done = hone(*arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err and done.err.startswith("hone: ") and done.err.count("\n") == 1
    as_json = hone(*arguments, "--json")
    assert (as_json.code, as_json.err, as_json.out.count("\n")) == (code, "", 1)
    assert set(as_json.json["error"]) == {"message", "type", "param", "code"}
    assert words in as_json.json["error"]["message"]


@pytest.mark.parametrize(
    "command",
    [
        ("feedback", "stats"),
        ("keys", "list"),
        ("adapters", "list"),
        ("adapters", "rollback"),
        ("adapters", "export", "v1"),
    ],
)
def test_looking_up_what_was_never_stored_makes_no_home(hone: Hone, tmp_path: Path, command: tuple[str, ...]) -> None:
    done = hone(*command, "--home", str(tmp_path / "mistyped"))
    assert (done.code, done.out, done.err.count("\n")) == (4, "", 1)
    assert f"Nothing is stored under {tmp_path / 'mistyped'} yet" in done.err and "--home" in done.err
    assert not (tmp_path / "mistyped").exists()


def test_feedback_is_counted(hone: Hone, tmp_path: Path) -> None:
    store_of(tmp_path).close()
    assert hone("feedback", "stats", "--json").json["total"] == 0
    assert "0 judgements" in hone("feedback", "stats").out


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


def test_a_base_is_dequantised_by_command(hone: Hone, tmp_path: Path) -> None:
    out = tmp_path / "sprout-nf4"
    done = hone("base", "dequantise", "--model", "sprout", "--out", str(out), "--json").json
    assert done["folder"] == str(out) and done["dequantised"] == 42 < done["tensors"]
    assert (out / "model.safetensors").stat().st_size > done["bytes"]
    again = hone("base", "dequantise", "--model", "sprout", "--out", str(out))
    assert (again.code, again.err.count("\n")) == (5, 1) and "exists already" in again.err
    missing = hone("base", "dequantise", "--model", str(tmp_path), "--out", str(tmp_path / "other"))
    assert (missing.code, missing.err.count("\n")) == (2, 1) and "no model" in missing.err


# -- bad luck ---------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_clear_line(hone: Hone) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for command in (("up",), ("serve", "--engine-url", "http://127.0.0.1:9"), ("ui",)):
            done = hone(*command, "--port", port)
            assert (done.code, done.err.count("\n")) == (10, 1), done.err
            assert f"127.0.0.1:{port}" in done.err and "--port" in done.err


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


def test_doctor_says_what_to_do(hone: Hone, tmp_path: Path) -> None:
    done = hone("doctor", "--json")
    found = {finding["check"]: finding for finding in done.json}
    assert found["python"]["ok"] and found["torch"]["ok"] and found["home"]["ok"]
    assert found["model"]["ok"] is False and found["model"]["advice"]  # the fixture names a model that isn't there
    assert done.code == 1
    assert all(not finding["advice"] for finding in done.json if finding["ok"])
    assert "BAD  model" in hone("doctor").out


def test_doctor_knows_an_engine_and_a_package_when_it_sees_one(
    hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm.py").write_text("")  # a module that no distribution of its name brought
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HONE_SERVER__PORT", "0")
    monkeypatch.setenv("HONE_ENGINE__MODEL", "/models/fake")

    def found() -> Any:
        return {finding["check"]: finding for finding in hone("doctor", "--json").json}

    with serve(FakeEngine().app) as url:
        monkeypatch.setenv("HONE_ENGINE__URL", f"{url}/v1")
        assert (found()["engine"]["ok"], found()["vllm"]["found"]) == (True, "installed")
    nobody = found()["engine"]
    assert nobody["ok"] is False and nobody["advice"]
    with serve(FastAPI()) as url:
        monkeypatch.setenv("HONE_ENGINE__URL", url)
        assert found()["engine"]["ok"] is False


def test_doctor_knows_which_weights_adapters_of_four_bits_need(hone: Hone, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[Any]:
        return [one for one in hone("doctor", "--json").json if one["check"] == "weights"]

    monkeypatch.setenv("HONE_ENGINE__MODEL", "sprout")
    assert found() == []
    monkeypatch.setenv("HONE_LEARNER__QUANTISE", "nf4")
    assert [(one["ok"], "hone base dequantise" in one["advice"]) for one in found()] == [(False, True)]
    monkeypatch.setenv("HONE_ENGINE__WEIGHTS", "/models/sprout-nf4")
    assert found() == []


def test_doctor_misses_a_compiler_for_the_embedded_engine(hone: Hone, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[Any]:
        return [one for one in hone("doctor", "--json").json if one["check"] == "compiler"]

    monkeypatch.setattr("service.doctor.COMPILERS", ("sh",))
    assert found() == []
    monkeypatch.setattr("service.doctor.COMPILERS", ("no-such-compiler",))
    assert [one["ok"] for one in found()] == [None]
    monkeypatch.setenv("HONE_ENGINE__URL", "http://127.0.0.1:9")
    assert found() == []


def test_doctor_looks_at_the_place_that_adapters_are_shared_at(
    hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(url: str) -> Any:
        monkeypatch.setenv("HONE_ADAPTERS__URL", url)
        return next(one for one in hone("doctor", "--json").json if one["check"] == "adapters")

    assert found(f"file://{tmp_path}/shared")["ok"] is True
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "pip install s3fs" in found("s3://bucket/adapters")["advice"]


def test_engines_follow_one_flag_and_nothing_else(hone: Hone) -> None:
    done = hone("serve", "http://127.0.0.1:9")
    assert (done.code, done.err.count("\n")) == (2, 1) and "--engine-url" in done.err
    done = hone("serve", "--engine-url", "http://127.0.0.1:9", "http://127.0.0.1:9/v1")
    assert (done.code, done.err.count("\n")) == (2, 1) and "named twice" in done.err


def test_doctor_says_of_a_vllm_elsewhere_what_nobody_can_see_from_outside(
    hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    engine.app.get("/version")(lambda: {"version": "0.32.0"})
    monkeypatch.setenv("HONE_ENGINE__MODEL", "/models/fake")
    with serve(engine.app) as url:
        monkeypatch.setenv("HONE_ENGINE__URL", url)
        found = [one for one in hone("doctor", "--json").json if one["check"].startswith("engine")]
    assert [(one["check"], one["ok"]) for one in found] == [("engine", True), ("engine options", None)]
    assert "--logprobs-mode raw_logprobs" in found[1]["advice"]


def test_doctor_tells_of_every_engine(hone: Hone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_SERVER__PORT", "0")
    monkeypatch.setenv("HONE_ENGINE__MODEL", "/models/fake")
    with serve(FakeEngine().app) as url:
        monkeypatch.setenv("HONE_ENGINE__URLS", f"{url},http://127.0.0.1:9")
        found = [one for one in hone("doctor", "--json").json if one["check"] == "engine"]
    assert [one["ok"] for one in found] == [True, False]
    assert url in found[0]["found"] and "127.0.0.1:9" in found[1]["found"]


# -- the commands and their documentation -----------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    tree = typer.main.get_command(cli.app)
    return {" ".join(path): command for path, command in reference._leaves(tree, ())}


def test_every_command_of_the_design_is_there() -> None:
    alone = {"up", "serve", "learn", "ui", "simulate", "doctor", "feedback stats"}
    of_keys = {f"keys {verb}" for verb in ("create", "list", "revoke")}
    verbs = ("list", "show", "promote", "rollback", "canary", "reject", "import", "export")
    assert {f"hone {name}" for name in alone | of_keys | {f"adapters {verb}" for verb in verbs}} <= set(commands())


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_takes_home_and_json_and_explains_itself(name: str) -> None:
    command = commands()[name]
    options = {flag for parameter in command.params for flag in getattr(parameter, "opts", ())}
    assert {"--home", "--json"} <= options
    assert command.help and all(
        parameter.help for parameter in command.params if not getattr(parameter, "hidden", False)
    )


@pytest.mark.parametrize("page", ["settings.md", "api.md", "commands.md", "manifest.schema.json"])
def test_the_documentation_is_up_to_date(page: str, tmp_path: Path) -> None:
    reference.write(tmp_path, api_description(), typer.main.get_command(cli.app))
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == (tmp_path / page).read_text(encoding="utf-8"), "run `hone reference`"


def test_the_commands_page_says_what_may_be_left_out_and_what_then_holds() -> None:
    page = reference.commands_page(typer.main.get_command(cli.app)).splitlines()
    assert {
        "## `hone adapters export NAME [FILE_OR_URL]`",
        "## `hone serve [URL …]`",
        "- `NAME`: The version; without one, the canary ends.",
        "- `--name`: The caller that the key stands for: all who use it are one person. Required.",
        "- `--role`: user or operator. Default: `user`.",
        "- `--seed`: Seed of every random choice. Default: `0`.",
        "- `--learner`, `--no-learner`: Start the learner, too. Default: `--learner`.",
        "- `--once`: One run, now; then end.",
        "- `--reason`: Why; kept in the adapter's history.",
    } <= set(page)


def written_out(text: str) -> list[list[str]]:
    """The words after `hone` of every command that can be copied: on a line of its own, or with its flags in a text."""
    alone = re.findall(r"^ *(?:\.venv/bin/)?hone (.+)", text, re.MULTILINE)
    within = re.findall(r"`(?:\.venv/bin/)?hone ([a-z][^`\n]* --[^`\n]+)`", text)
    return [shlex.split(words, comments=True) for words in (*alone, *within)]


def test_every_command_that_is_written_out_can_be_copied() -> None:
    """In the documentation, and in what errors advise."""
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    code = (path for part in ("service", "learner", "ui") for path in (ROOT / part).rglob("*.py"))
    said = [(path, words) for path in (*pages, *code) for words in written_out(path.read_text(encoding="utf-8"))]
    assert len(said) > 20
    for path, words in said:
        try:
            parse_command(words)
        except TyperException as error:
            pytest.fail(f"{path.relative_to(ROOT)} says `hone {shlex.join(words)}`: {error.format_message()}")


@pytest.mark.parametrize(
    "text",
    [
        "    hone up --prot 8001  # it's elsewhere",
        "```sh\nhone adapters promote\n```",
        "`hone keys create --role user`",
    ],
)
def test_a_command_that_could_not_be_copied_is_found(text: str) -> None:
    (words,) = written_out(text)
    with pytest.raises(TyperException):
        parse_command(words)


def test_every_command_that_the_documentation_names_exists() -> None:
    known = set(commands()) | {"hone reference"}
    groups = {name.rsplit(" ", 1)[0] for name in known if name.count(" ") == 2}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
            words = code.removeprefix(".venv/bin/").split()
            if words[:1] != ["hone"] or len(words) == 1 or not words[1].isalpha():
                continue
            name = " ".join(words[:3] if f"hone {words[1]}" in groups and len(words) > 2 else words[:2])
            assert name in known | groups, f"{page.name} names `{code}`"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["keys", "create"], ["adapters", "rollback", "--to", "v1"], ["up", "--port", "many"]]
)
def test_what_no_command_understands_is_told_in_one_line(hone: Hone, words: list[str]) -> None:
    done = hone(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("hone: ") and done.err.count("\n") == 1
    as_json = hone(*words, "--json")
    assert (as_json.code, as_json.err, as_json.json["error"]["code"]) == (2, "", "invalid_request")


def test_asked_for_nothing_it_shows_the_help(hone: Hone) -> None:
    assert "simulate" in hone().out
