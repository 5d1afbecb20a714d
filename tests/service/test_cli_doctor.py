"""`hone doctor`: what it says to do, and what it knows of engines, packages and places."""

import json
import shutil
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI

from service.settings import SPROUT
from service.stack import only_one
from service.store.queries import engines
from service.store.session import Store
from tests.fixtures.serving import serve
from tests.fixtures.waiting import until
from tests.service.command_line import Hone, store_of
from tests.service.command_line import hone as hone
from tests.service.conftest import service_over, settings_at
from tests.service.fake_engine import FakeEngine
from tests.service.pretend_vllm import PretendVllm


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


@pytest.mark.parametrize("kind", ["embedded", "vllm"])
def test_doctor_looks_at_the_engine_of_the_hone_up_that_runs(
    hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whatever the settings say now: `hone up` may have been told otherwise by its flags."""
    monkeypatch.setenv("HONE_ENGINE__MODEL", "/models/fake")
    monkeypatch.setenv("HONE_ENGINE__KIND", kind)
    monkeypatch.setenv("HONE_ENGINE__VLLM_PYTHON", sys.executable)

    def engine() -> list[str]:
        findings = hone("doctor", "--json").json
        return [one["found"] for one in findings if one["check"] in ("engine", "engine options")]

    (tmp_path / "home").mkdir()
    assert "`hone up` starts it" in " ".join(engine())
    with serve(PretendVllm(rank=32).app) as url, only_one(tmp_path / "home") as tell:
        tell("http://127.0.0.1:9", [url])
        (found,) = engine()
        assert found.startswith(f"{url} serves fake: vLLM 0.32.0; LoRA on") and "rank up to 32" in found


def test_doctor_knows_which_weights_adapters_of_four_bits_need(hone: Hone, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[Any]:
        return [one for one in hone("doctor", "--json").json if one["check"] == "weights"]

    monkeypatch.setenv("HONE_ENGINE__MODEL", "sprout")
    assert found() == []
    monkeypatch.setenv("HONE_LEARNER__QUANTISE", "nf4")
    assert [(one["ok"], "hone base dequantise" in one["advice"]) for one in found()] == [(False, True)]
    monkeypatch.setenv("HONE_ENGINE__WEIGHTS", "/models/sprout-nf4")
    assert found() == []


def test_hone_up_says_of_those_weights_what_doctor_does_when_a_learner_starts(
    hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*flags: str) -> str:
        done = hone("up", "--port", "0", *flags)
        assert done.code == 0, done.err
        return done.out.partition("Hone is ready")[0]

    monkeypatch.setattr("service.stack.Stack.start", lambda self: None)
    monkeypatch.setattr("service.stack.Stack.wait_until_ready", lambda self, stopping: True)
    monkeypatch.setattr("service.stack.Stack.watch", lambda self, stopping: None)
    monkeypatch.setenv("HONE_ENGINE__MODEL", "sprout")
    assert told() == ""
    monkeypatch.setenv("HONE_LEARNER__QUANTISE", "nf4")
    (weights,) = (finding for finding in hone("doctor", "--json").json if finding["check"] == "weights")
    words = f"{weights['found']} {weights['advice']}"
    assert told() == words + "\n" and "hone base dequantise" in words
    assert hone("up", "--port", "0", "--json").json["weights_problem"] == words
    assert told("--no-learner") == ""
    monkeypatch.setenv("HONE_ENGINE__WEIGHTS", "/models/sprout-nf4")
    assert told() == ""


def test_a_base_without_a_chat_template_is_told_by_doctor_and_at_the_start(
    hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts and is well all the same; and vLLM may have been given a template of its own."""
    base = shutil.copytree(SPROUT, tmp_path / "base")
    monkeypatch.setenv("HONE_ENGINE__MODEL", str(base))
    for step in ("start", "wait_until_ready", "watch"):
        monkeypatch.setattr(f"service.stack.Stack.{step}", lambda *_: True)

    def found() -> list[str]:
        findings = [one for one in hone("doctor", "--json").json if one["check"] == "chat template"]
        assert not any(one["ok"] for one in findings)
        return [f"{one['found']} {one['advice']}" for one in findings]

    assert found() == [] and hone("up", "--port", "0", "--json").json["engines"] == []
    (base / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((base / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    (told,) = found()
    assert told.startswith("The model has no chat template") and "Instruct" in told
    (line, *_) = hone("up", "--port", "0").out.splitlines()
    assert line.startswith("Engine http://127.0.0.1:") and line.endswith(f": {told}")
    (base / "tokenizer_config.json").write_text("{")
    assert found() == []
    (base / "tokenizer_config.json").write_text("{}")
    monkeypatch.setenv("HONE_ENGINE__KIND", "vllm")
    assert found() == []


def test_doctor_misses_a_compiler_for_the_embedded_engine(hone: Hone, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[Any]:
        return [one for one in hone("doctor", "--json").json if one["check"] == "compiler"]

    monkeypatch.setattr("service.engine_findings.COMPILERS", ("sh",))
    assert found() == []
    monkeypatch.setattr("service.engine_findings.COMPILERS", ("no-such-compiler",))
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


def test_doctor_tells_once_what_is_wrong_with_an_engine_and_of_that_engine_alone(
    hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a running service finds it, which is degraded then."""
    other = FastAPI()
    other.get("/health")(lambda: {"is": "well"})
    other.get("/v1/models")(lambda: {"data": [{"id": "other", "parent": None}]})
    other.post("/v1/load_lora_adapter")(lambda: {"done": True})
    away, waits = "http://127.0.0.1:9", "v3 waits, as not every engine serves it."
    settings = settings_at(tmp_path / "home")
    monkeypatch.setenv("HONE_ENGINE__MODEL", "/models/fake")
    with ExitStack() as stack:
        good, bad = (stack.enter_context(serve(app)) for app in (FakeEngine().app, other))
        store = stack.enter_context(closing(Store.open(settings.store_url)))
        service = stack.enter_context(service_over(settings, store, [good, bad, away]))
        monkeypatch.setenv("HONE_SERVER__PORT", str(urlsplit(service.url).port))
        until(lambda: service.get("/health").json()["status"] == "degraded")
        until(lambda: "been looked at" not in service.get("/health").text)
        monkeypatch.setattr("service.adapters.rollout.Rollout.problems", [waits])
        said = json.loads(hone("doctor", "--json").out.splitlines()[-1])  # the service in this process logs there, too
    found = [one for one in said if one["check"] in ("engine", "rollout", "service", "address")]
    assert [(one["check"], one["ok"]) for one in found] == [
        ("service", None), ("rollout", False), ("engine", True), ("engine", None), ("engine", False), ("engine", False)
    ]  # fmt: skip
    assert f"Hone answers at {service.url}" in found[0]["found"] and "degraded, store ok" in found[0]["found"]
    assert found[1]["found"] == waits and found[2]["found"].startswith(f"{good} serves fake")
    assert found[3]["found"].startswith(f"{bad} serves other")
    assert found[4]["found"].startswith(f"{bad} gets no requests: It serves another model: other; engine.model is")
    assert found[5]["found"].startswith(f"The engine at {away} can't be reached")


def test_doctor_says_of_a_rollout_that_is_not_told_that_it_is_not_as_it_should_be(
    hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FastAPI()
    app.get("/health")(lambda: {"status": "degraded", "store": "ok", "rollout": "not as it should be"})
    with serve(app) as url:
        monkeypatch.setenv("HONE_SERVER__PORT", str(urlsplit(url).port))
        found = {one["check"]: one for one in hone("doctor", "--json").json}
    assert found["rollout"]["ok"] is False and found["rollout"]["found"] == "not as it should be"
    assert found["service"]["ok"] is None


def test_doctor_says_of_a_service_under_rules_that_can_not_be_used_that_it_answers_no_chat(
    hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, why = FastAPI(), "Every chat gets 503 constitution_unusable: c0: No principle has one of the tags kind."
    health = {"status": "unavailable", "store": "ok", "engine": "ok", "rollout": "ok", "constitution": why}
    app.get("/health")(lambda: health)
    with serve(app) as url:
        monkeypatch.setenv("HONE_SERVER__PORT", str(urlsplit(url).port))
        (found,) = (one for one in hone("doctor", "--json").json if one["check"] == "service")
    assert (found["ok"], found["advice"]) == (False, "")  # the words say what to do, and the logs say no more
    assert found["found"].endswith(f": unavailable, store ok, engine ok, constitution {why}")


def test_doctor_tells_of_the_engines_that_were_added_and_of_none_that_was_removed(
    hone: Hone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_ENGINE__MODEL", "/models/fake")
    removed, added = "http://127.0.0.1:8", "http://127.0.0.1:9"
    with serve(FakeEngine().app) as url, closing(store_of(tmp_path)) as store, only_one(tmp_path / "home") as tell:
        tell("http://127.0.0.1:7", [url, removed])
        with store.begin() as tx:
            engines.add(tx, added, [url, removed], "name:op")
            engines.remove(tx, removed, [url, removed], "name:op")
        done = hone("doctor", "--json")
    found = [(one["ok"], one["found"].split()[0]) for one in done.json if one["check"] == "engine"]
    assert (done.code, found) == (1, [(True, url), (False, f"{added}:")])
