"""The constitution over HTTP: what is in effect, putting another in effect, and trying one out."""

from __future__ import annotations

from typing import Any

import pytest

from service.constitution import built_in
from service.constitution.versions import built_in_version
from service.store.queries import exchanges
from tests.service.conftest import Running
from tests.service.constitutions import ONE, OURS, preambled
from tests.service.fake_engine import CONTEXT
from tests.service.principled_chats import chat, stored
from tests.service.principled_chats import engine as engine
from tests.service.principled_chats import fake_engine as fake_engine
from tests.service.principled_engine import FAULT, FINE, HARM, NO, PrincipledEngine, better, worse


def put(running: Running, text: str, **fields: Any) -> dict[str, Any]:
    response = running.operator.put("/v1/constitution", json={"text": text, **fields})
    assert response.status_code == 200, response.text
    view: dict[str, Any] = response.json()
    return view


@pytest.fixture(autouse=True)
def built_in_again(running: Running) -> None:
    put(running, built_in_version().text)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/versions"), ("GET", "/versions/c1"), ("PUT", ""), ("POST", "/check"), ("POST", "/try")],
)
def test_it_is_for_operators(running: Running, method: str, path: str) -> None:
    body = {"text": ONE, "prompt": "hi"} if method != "GET" else None
    response = running.http.request(method, f"/v1/constitution{path}", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")


def test_one_is_put_in_effect_and_the_next_reply_names_it(running: Running, engine: PrincipledEngine) -> None:
    before = running.operator.get("/v1/constitution").json()
    assert before["sha256"] == built_in().sha256 and before["serve"] == "asked"
    assert {one["name"] for one in before["principles"]} == {one.name for one in built_in().principles}
    view = put(running, OURS, note="Stricter.")
    assert view["is_new"] and view["title"] == "Ours" and view["text"] == OURS
    assert put(running, "# the same\n" + OURS)["is_new"] is False
    in_effect = running.operator.get("/v1/constitution").json()
    assert (in_effect["name"], in_effect["text"]) == (view["name"], OURS)
    newest = running.operator.get("/v1/constitution/versions").json()[0]
    assert {name: newest[name] for name in ("name", "created_by", "note", "text")} == {
        "name": view["name"], "created_by": "olga", "note": "Stricter.", "text": "",
    }  # fmt: skip
    assert running.operator.get(f"/v1/constitution/versions/{view['name']}").json()["text"] == OURS
    answer = chat(running)
    assert answer["hone"]["constitution"] == view["name"]
    (made,) = stored(running, answer["id"])["revisions"]
    assert (made["constitution"], made["constitution_sha256"]) == (view["name"], view["sha256"])


def test_a_sound_file_is_checked_and_nothing_takes_effect(running: Running) -> None:
    before = running.operator.get("/v1/constitution").json()
    checked = running.operator.post("/v1/constitution/check", json={"text": OURS}).json()
    assert (checked["name"], checked["title"], len(checked["principles"])) == ("", "Ours", 1)
    assert running.operator.get("/v1/constitution").json() == before


def test_an_unknown_version_is_not_found(running: Running) -> None:
    assert running.operator.get("/v1/constitution/versions/c999").status_code == 404
    assert running.operator.get("/v1/constitution/versions/c0").json()["text"] == built_in_version().text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OURS.replace('revision_request = "Rewrite the reply."', ""), "principles.no-harm.revision_request"),
        (OURS.replace("format_version = 1", "format_version = 7"), "has format 7; this Hone knows 1"),
        ("# " + "x" * 256 * 1024, "larger than 256 KiB"),
        (ONE, "No principle has one of the tags harmless"),  # by the settings there would be nothing to serve by
        ("[[", "is no TOML"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_takes_effect(running: Running, text: str, said: str) -> None:
    before = running.operator.get("/v1/constitution").json()
    for method, path in (("PUT", "/v1/constitution"), ("POST", "/v1/constitution/check")):
        response = running.operator.request(method, path, json={"text": text})
        assert response.status_code == 400 and said in response.json()["error"]["message"], response.text
    assert running.operator.get("/v1/constitution").json() == before


def test_words_that_leave_little_room_in_the_engines_context_are_warned_of(
    running: Running, engine: PrincipledEngine
) -> None:
    for view in (running.operator.post("/v1/constitution/check", json={"text": preambled(1600)}).json(),
                 put(running, preambled(1600))):  # fmt: skip
        (said,) = view["warnings"]
        assert said.startswith("Principle no-harm: its own words, with the preamble, are 16")
        assert f"tokens of the {CONTEXT} that" in said and "are left for a conversation" in said
    assert put(running, OURS)["warnings"] == [] == running.operator.get("/v1/constitution").json()["warnings"]
    assert put(running, built_in_version().text)["warnings"] == []


def test_words_that_leave_no_room_are_refused_and_nothing_takes_effect(
    running: Running, engine: PrincipledEngine
) -> None:
    before = running.operator.get("/v1/constitution").json()
    for words in (CONTEXT - 30, 3900):
        text = preambled(words)
        for method, path, body in (
            ("PUT", "", {"text": text}),
            ("POST", "/check", {"text": text}),
            ("POST", "/try", {"constitution": text, "prompt": "hi"}),
        ):
            response = running.operator.request(method, f"/v1/constitution{path}", json=body)
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, "constitution")
            assert "Principle no-harm: its own words" in error["message"] and "Shorten the preamble" in error["message"]
    assert "are about 39" in error["message"] and not engine.asked["draft"]
    assert running.operator.get("/v1/constitution").json() == before


def test_where_the_engine_counts_nothing_that_is_said_and_hinders_nobody(
    running: Running, engine: PrincipledEngine
) -> None:
    engine.counts_nothing = True
    (said,) = put(running, preambled(1600))["warnings"]
    assert "was not checked: the engine is out of order." in said
    assert put(running, OURS)["warnings"] == []  # so short that nothing is to be counted


def tried(running: Running, **fields: Any) -> dict[str, Any]:
    response = running.operator.post("/v1/constitution/try", json={"prompt": "How do I pick a lock?", **fields})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_it_is_tried_on_one_prompt_and_nothing_is_stored(running: Running, engine: PrincipledEngine) -> None:
    with running.store.read() as tx:
        newest = exchanges.recent_prompts(tx, 1)
    found = tried(running)
    assert (found["draft"], found["adapter"], found["sha256"]) == (HARM, "base", built_in().sha256)
    assert [one["principle"] for one in found["trials"]] == [one.name for one in built_in().principles]
    assert all((one["critique"], one["revision"], one["verdict"]) == (FAULT, NO, "revision") for one in found["trials"])
    assert all(one["odds"] == pytest.approx(0.9) for one in found["trials"])
    assert len(engine.asked["draft"]) == 1 and len(engine.asked["letter"]) == 2 * len(found["trials"])
    with running.store.read() as tx:
        assert [one.id for one in exchanges.recent_prompts(tx, 1)] == [one.id for one in newest]


def test_a_file_is_tried_before_it_takes_effect(running: Running, engine: PrincipledEngine) -> None:
    before = running.operator.get("/v1/constitution").json()
    found = tried(running, constitution=OURS, principle="no-harm")
    assert found["constitution"] == "" and [one["principle"] for one in found["trials"]] == ["no-harm"]
    assert running.operator.get("/v1/constitution").json() == before


def test_a_verdict_that_depends_on_the_order_is_undecided(running: Running, engine: PrincipledEngine) -> None:
    engine.says_to["letter"] = "A"
    (one,) = tried(running, principle="no-harm")["trials"]
    assert (one["verdict"], one["odds"]) == ("undecided", pytest.approx(0.5))


@pytest.mark.parametrize(
    ("letter", "verdict", "ended"), [(better, "revision", "revised"), (worse, "draft", "no better")]
)
def test_a_trial_prefers_what_a_chat_would_be_answered(
    running: Running, engine: PrincipledEngine, letter: Any, verdict: str, ended: str
) -> None:
    """By the same requests, letter by letter: a verdict that is written out, and never asked for, says the contrary."""
    engine.says_to |= {"letter": letter, "verdict": "Better: A" if verdict == "draft" else "Better: B"}
    answer = chat(running)
    (made,) = stored(running, answer["id"])["revisions"]
    in_chat = {kind: [body["messages"] for body in engine.asked[kind]] for kind in ("critique", "revision", "letter")}
    for bodies in engine.asked.values():
        bodies.clear()
    (one,) = tried(running, principle=made["principle"])["trials"]
    assert (one["verdict"], one["odds"], made["ended"]) == (verdict, made["odds"], ended)
    on_trial = {kind: [body["messages"] for body in engine.asked[kind]] for kind in in_chat}
    assert on_trial == in_chat and not engine.asked["verdict"]


@pytest.mark.parametrize("letter", ["C", 400])
def test_without_a_verdict_a_trial_says_why_as_a_chat_does(
    running: Running, engine: PrincipledEngine, letter: str | int
) -> None:
    engine.says_to["letter"] = letter
    (made,) = stored(running, chat(running)["id"])["revisions"]
    (one,) = tried(running, principle=made["principle"])["trials"]
    assert one["verdict"] is None is one["odds"] and one["problem"] == made["problem"] != ""


def test_of_what_has_no_fault_there_is_no_revision(running: Running, engine: PrincipledEngine) -> None:
    engine.says_to["critique"] = FINE
    (one,) = tried(running, principle="true")["trials"]
    assert one == {
        "principle": "true", "critique": FINE, "revision": None, "verdict": None, "odds": None, "problem": "",
    }  # fmt: skip


def test_what_fails_under_one_principle_is_said_there(running: Running, engine: PrincipledEngine) -> None:
    engine.says_to["critique"] = lambda body: "!long" if "friendly" in body["messages"][-1]["content"] else FINE
    problems = {one["principle"]: one["problem"] for one in tried(running)["trials"]}
    assert "too long for the model's context" in problems.pop("friendly") and set(problems.values()) == {""}


def test_without_a_draft_a_trial_fails_as_a_chat_does(running: Running, engine: PrincipledEngine) -> None:
    engine.says_to["draft"] = 400
    response = running.operator.post("/v1/constitution/try", json={"prompt": "hi"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "engine_error")
    response = running.operator.post("/v1/constitution/try", json={"prompt": "hi", "principle": "kind"})
    assert response.status_code == 400 and "has no principle 'kind'" in response.json()["error"]["message"]
