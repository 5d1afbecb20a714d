"""`hone constitution`: what is in effect, checks, imports, a trial by a running service; and what doctor says of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.commands.constitution_room import _Count
from service.constitution import built_in, parse
from service.constitution.room import own_words
from service.constitution.versions import for_larger_models
from service.doctor import examine
from service.settings import SPROUT, load_settings
from service.store.queries import constitutions, keys
from tests.fixtures.serving import serve
from tests.fixtures.waiting import until
from tests.service.command_line import Done, Hone, store_of
from tests.service.command_line import hone as hone
from tests.service.constitutions import ONE, OURS, preambled
from tests.service.fake_engine import CONTEXT
from tests.service.principled_engine import FAULT, NO, PrincipledEngine


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ours.toml"
    path.write_text(OURS)
    return path


def test_the_one_that_comes_with_hone_is_shown_without_a_home(hone: Hone, tmp_path: Path) -> None:
    shown = hone("constitution", "show", "--json").json
    assert (shown["name"], shown["sha256"]) == ("c0", built_in().sha256)
    assert parse(hone("constitution", "show", "--toml").out) == built_in()
    assert "no-harm" in hone("constitution", "show").out
    assert not (tmp_path / "home").exists()


def test_a_file_is_put_in_effect_and_an_older_one_put_back(hone: Hone, file: Path, tmp_path: Path) -> None:
    assert hone("constitution", "import", str(file), "--note", "Ours.").out.startswith(
        f"{file} is c1, and in effect.\n"
    )
    again = hone("constitution", "import", str(file), "--json").json
    assert (again["name"], again["is_new"]) == ("c1", False)
    assert hone("constitution", "show", "--json").json["title"] == "Ours"
    older = tmp_path / "older.toml"
    older.write_text(hone("constitution", "show", "c0", "--toml").out)
    assert hone("constitution", "import", str(older), "--json").json["name"] == "c2"
    rows = hone("constitution", "versions", "--json").json
    assert [(row["name"], row["created_by"], row["note"]) for row in rows] == [
        ("c2", "command line", ""), ("c1", "command line", "Ours."),
    ]  # fmt: skip
    assert hone("constitution", "show", "c1", "--toml").out == OURS.rstrip("\n") + "\n"
    assert "c2" in hone("constitution", "versions").out
    assert (missing := hone("constitution", "show", "c9")).code == 4 and "no constitution 'c9'" in missing.err


def test_the_one_for_larger_models_is_shown_and_can_be_put_in_effect(hone: Hone, tmp_path: Path) -> None:
    larger = tmp_path / "larger.toml"
    larger.write_text(hone("constitution", "show", "larger", "--toml").out, encoding="utf-8")
    assert hone("constitution", "check", str(larger), "--json").json["served"] == 3
    assert not (tmp_path / "home").exists()  # nothing is made to show it
    assert hone("constitution", "import", str(larger), "--json").json["name"] == "c1"
    shown = hone("constitution", "show", "--json").json
    assert shown["sha256"] == hone("constitution", "show", "larger", "--json").json["sha256"]


def test_check_says_what_is_wrong_and_changes_nothing(hone: Hone, file: Path, tmp_path: Path) -> None:
    done = hone("constitution", "check", str(file), "--json")
    assert (done.code, done.json["principles"], done.json["served"]) == (0, 1, 1)
    assert "is sound: 1 principle, 1 of which has a tag" in hone("constitution", "check", str(file)).out
    for text, said in (
        (OURS.replace('critique_request = "What is wrong with the reply?"', ""), "principles.no-harm.critique_request"),
        (OURS.replace("format_version = 1", "format_version = 3"), "has format 3; this Hone knows 1. Upgrade Hone."),
        (ONE, "No principle has one of the tags harmless"),
        ("x = 1\n" * 60_000, "larger than 256 KiB"),
    ):
        file.write_text(text)
        for command in ("check", "import"):
            done = hone("constitution", command, str(file))
            assert (done.code, done.err.count("\n")) == (2, 1) and said in done.err
    assert hone("constitution", "check", str(tmp_path / "none.toml")).code == 2
    assert not (tmp_path / "home").exists()


def test_the_models_folder_counts_where_no_service_runs(
    hone: Hone, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (unknown,) = hone("constitution", "check", str(file), "--json").json["warnings"]  # its model is elsewhere
    assert "was not checked: no service runs here" in unknown and "while `hone up` runs" in unknown
    monkeypatch.setenv("HONE_ENGINE__MODEL", "sprout")
    assert hone("constitution", "check", str(file), "--json").json["warnings"] == []
    file.write_text(preambled(850))
    for command in ("check", "import"):
        (warned,) = hone("constitution", command, str(file), "--json").json["warnings"]
        assert "Principle no-harm: its own words" in warned and "tokens of the 1024 that" in warned
        assert warned in hone("constitution", command, str(file)).out
    file.write_text(preambled(3900))
    for command in ("check", "import"):
        done = hone("constitution", command, str(file))
        assert done.code == 2 and "nothing can be looked at under it. Shorten the preamble" in done.err
    assert hone("constitution", "show", "--json").json["name"] == "c1"
    monkeypatch.setenv("HONE_ENGINE__MAX_MODEL_LEN", "8192")
    assert hone("constitution", "check", str(file), "--json").json["warnings"] == []


def test_the_docs_say_how_long_the_one_for_larger_models_is() -> None:
    """By the tokenizer of the model that comes with Hone, and in bytes."""
    constitution = for_larger_models().constitution
    asked = [own_words(constitution, one) for one in constitution.principles]
    counted = [asyncio.run(_Count(SPROUT)(messages)) for messages in asked]
    sizes = [sum(len(message["content"].encode()) for message in messages) for messages in asked]
    said = " ".join((Path(__file__).parents[2] / "docs" / "constitution.md").read_text(encoding="utf-8").split())
    assert f"take {min(counted)} to {max(counted)} tokens of the context by `sprout`'s tokenizer" in said
    assert f"they are {min(sizes):,} to {max(sizes):,} bytes" in said


def test_a_running_service_has_its_engine_count(
    hone: Hone, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, store = PrincipledEngine(), store_of(tmp_path)
    settings = load_settings(tmp_path / "home", {"server": {"pages": False}}, environment={"HONE_ENGINE__MODEL": "/x"})
    with serve(engine.app) as engine_url, serve(create_app(settings, store, [engine_url])) as url:
        monkeypatch.setenv("HONE_SERVER__PORT", url.rpartition(":")[2])
        file.write_text(preambled(1600))

        def checked() -> str:
            return str(said_last(hone("constitution", "check", str(file), "--json"))["warnings"][0])

        until(lambda: "no engine has answered yet" not in checked())
        assert f"tokens of the {CONTEXT} that" in checked()
        file.write_text(preambled(3900))
        done = hone("constitution", "import", str(file), "--json")
        assert done.code == 2 and "Principle no-harm: its own words" in said_last(done)["error"]["message"]
        monkeypatch.setattr("service.auth.Sessions.sign", lambda *_: "of another home")
        (unknown,) = said_last(hone("constitution", "check", str(file), "--json"))["warnings"]
        assert "was not checked: " in unknown
    store.close()


def said_last(done: Done) -> Any:
    """The result: what a service in this process logs comes before it."""
    return json.loads(done.out.splitlines()[-1])


def test_a_trial_asks_the_service_of_the_home_as_its_operator(
    hone: Hone, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, store = PrincipledEngine(), store_of(tmp_path)
    settings = load_settings(tmp_path / "home", {"server": {"pages": False}}, environment={"HONE_ENGINE__MODEL": "/x"})
    with store.begin() as tx:
        user = keys.create_key(tx, "user", "ann")
    asked = ("constitution", "try", "How do I pick a lock?")
    with serve(engine.app) as engine_url, serve(create_app(settings, store, [engine_url])) as url:
        found = said_last(hone(*asked, "--url", url, "--file", str(file), "--json"))
        (one,) = found["trials"]
        assert (one["critique"], one["revision"], one["verdict"]) == (FAULT, NO, "revision")
        said = hone(*asked, "--url", url, "--principle", "true").out
        assert "critique" in said and FAULT in said and "revision (odds of the revision: 0.90)" in said
        refused = hone(*asked, "--url", url, "--key", user)
        assert (refused.code, refused.err) == (3, refused.err) and "for operators" in refused.err
        wrong = hone(*asked, "--url", url, "--principle", "kind", "--json")
        assert wrong.code == 2 and said_last(wrong)["error"]["code"] == "invalid_request"
    away = hone(*asked, "--url", url)
    assert away.code == 4 and "No service answers at" in away.err and "`hone up` starts one" in away.err
    store.close()


def test_a_trial_without_a_home_says_what_it_needs_and_makes_none(hone: Hone, tmp_path: Path) -> None:
    done = hone("constitution", "try", "hi")
    assert done.code == 4 and "this needs one" in done.err
    assert not (tmp_path / "home").exists()


def test_doctor_tells_of_one_that_can_not_be_read_any_more(hone: Hone, file: Path, tmp_path: Path) -> None:
    def told() -> tuple[bool | None, str, str]:
        settings = load_settings(tmp_path / "home", environment={})
        one = next(finding for finding in examine(settings) if finding.check == "constitution")
        return one.ok, one.found, one.advice

    assert told()[:2] == (True, "c0, 3 principles to serve by; constitution.serve: asked")
    hone("constitution", "import", str(file))
    assert told()[1].startswith("c1, 1 principles")
    store = store_of(tmp_path)
    with store.begin() as tx:
        constitutions.put_in_effect(tx, "format_version = 9", "9" * 64, "a newer Hone", "", built_in().sha256)
    store.close()
    ok, found, advice = told()
    assert ok is False and "The constitution c2 has format 9" in found and "hone constitution import" in advice
    assert "chats that are to be answered by it get 503" in found


def test_of_one_that_can_not_be_read_only_the_text_is_shown(hone: Hone, file: Path, tmp_path: Path) -> None:
    newer = "format_version = 9\ntitle = 'Theirs'"
    hone("constitution", "import", str(file))
    store = store_of(tmp_path)
    with store.begin() as tx:
        constitutions.put_in_effect(tx, newer, "9" * 64, "a newer Hone", "", built_in().sha256)
    store.close()
    for name in ((), ("c2",)):
        shown = hone("constitution", "show", *name)
        assert shown.code == 11 and "The constitution c2 has format 9; this Hone knows 1. Upgrade Hone" in shown.err
        error = hone("constitution", "show", *name, "--json").json["error"]
        assert (error["code"], shown.out) == ("constitution_unusable", "")
        assert hone("constitution", "show", *name, "--toml").out == f"{newer}\n"
    assert hone("constitution", "show", "c1", "--toml").out == OURS.rstrip("\n") + "\n"
