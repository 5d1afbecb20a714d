"""The command line: results, and errors in one line with an exit code."""

import tomllib
from pathlib import Path

import pytest

from service.wire.feedback import FeedbackStats
from tests.service.command_line import Hone, store_of
from tests.service.command_line import hone as hone
from tests.source_modules import ROOT


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
        (("learn", "--parent", "v1"), 2, "--parent belongs to one run. Add --once"),
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
    assert "0 judgements of 0 people" in hone("feedback", "stats").out


def test_one_person_is_no_people(hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_of(tmp_path).close()
    found = FeedbackStats(total=120, people=1, withdrawn=0, by_kind={}, since_last_run=3)
    monkeypatch.setattr("service.store.queries.feedback.stats", lambda _: found)
    assert "120 judgements of 1 person; 0 withdrawn." in hone("feedback", "stats").out


def test_who_asks_for_a_reward_model_by_method_is_led_to_it(hone: Hone) -> None:
    done = hone("learn", "--once", "--method", "reward")
    assert done.code != 0 and "by itself from Python, with `learn_reward`" in done.err


def test_a_base_is_dequantised_by_command(hone: Hone, tmp_path: Path) -> None:
    out = tmp_path / "sprout-nf4"
    done = hone("base", "dequantise", "--model", "sprout", "--out", str(out), "--json").json
    assert done["folder"] == str(out) and done["dequantised"] == 42 < done["tensors"]
    assert (out / "model.safetensors").stat().st_size > done["bytes"]
    again = hone("base", "dequantise", "--model", "sprout", "--out", str(out))
    assert (again.code, again.err.count("\n")) == (5, 1) and "exists already" in again.err
    missing = hone("base", "dequantise", "--model", str(tmp_path), "--out", str(tmp_path / "other"))
    assert (missing.code, missing.err.count("\n")) == (2, 1) and "no model" in missing.err


@pytest.mark.parametrize(
    "words", [["nonsense"], ["keys", "create"], ["adapters", "rollback", "--to", "v1"], ["up", "--port", "many"]]
)
def test_what_no_command_understands_is_told_in_one_line(hone: Hone, words: list[str]) -> None:
    done = hone(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("hone: ") and done.err.count("\n") == 1
    as_json = hone(*words, "--json")
    assert (as_json.code, as_json.err, as_json.json["error"]["code"]) == (2, "", "invalid_request")


def test_a_value_of_another_kind_is_refused_in_plain_words(hone: Hone) -> None:
    assert hone("up", "--port", "many").err == "hone: Invalid value for '--port': it must be a whole number.\n"
    assert "Value error" not in (said := hone("constitution", "run", "foo").err) and "'supervised'" in said


def test_asked_for_nothing_it_shows_the_help(hone: Hone) -> None:
    assert "simulate" in hone().out and "learns from the people who use it" in hone("--help").out


def test_it_says_which_version_it_is(hone: Hone) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    done = hone("--version")
    assert (done.code, done.out, done.err) == (0, f"{project['name']} {project['version']}\n", "")
