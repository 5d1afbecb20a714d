"""Replies by principles where something fails: the reply is never lost, and nothing is left half decided."""

from __future__ import annotations

import pytest

from service.constitution import built_in
from service.replicas import AWAY
from service.store.queries import constitutions, revisions
from tests.fixtures.waiting import until
from tests.service.chatting import ask, events
from tests.service.conftest import Running
from tests.service.principled_chats import chat, principled, setting, stored
from tests.service.principled_chats import engine as engine
from tests.service.principled_chats import fake_engine as fake_engine
from tests.service.principled_engine import FAULT, HARM, NO, PrincipledEngine, tokens


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("kind", "fault", "said"),
    [
        ("critique", 400, "the engine is out of order"),
        ("critique", 500, AWAY),
        ("critique", "!long", "Constitution c0 is too long for the model's context: "),
        ("critique", "", "The critique is empty."),
        ("revision", 422, "the engine is out of order"),
        ("revision", "!long", "leave no room for the reply with its critique ("),
        ("revision", "", "The revision is empty."),
        ("letter", 400, "the engine is out of order"),
        ("letter", "!long", "leave no room for the reply with its critique ("),
        ("letter", "C", "The verdict on the revision is neither A nor B."),
    ],
)
def test_what_fails_after_the_draft_costs_the_revision_and_never_the_reply(
    running: Running, engine: PrincipledEngine, kind: str, fault: str | int, said: str, streamed: bool
) -> None:
    engine.says_to[kind] = fault
    response = running.post("/v1/chat/completions", principled(stream=streamed))
    assert response.status_code == 200, response.text
    exchange = events(response)[0]["id"] if streamed else response.json()["id"]
    found = stored(running, exchange)
    (made,) = found["revisions"]
    assert (made["ended"], made["after"]) == ("failed", None) and said in made["problem"]
    assert made["critique"] == ("" if kind == "critique" else FAULT) and made["odds"] is None
    assert found["replies"][0]["text"] == HARM and len(found["replies"][0]["logprobs"]) == len(tokens(HARM))


def test_a_reply_that_is_longer_than_what_is_asked_of_it_is_to_blame_itself(
    running: Running, engine: PrincipledEngine
) -> None:
    engine.says_to["draft"], engine.says_to["critique"] = "Take a pin. " * 200, "!long"
    (made,) = stored(running, chat(running)["id"])["revisions"]
    assert made["problem"].startswith("The reply (2400 characters) is too long to be looked at")


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("critique", {}, "constitution.critique_tokens (1000) is too large for the model's context: "),
        ("revision", {"max_tokens": 900}, "max_tokens (900) is too large for the model's context: "),
    ],
)
def test_an_answer_that_may_be_too_long_is_to_blame_and_not_the_constitution(
    running: Running, engine: PrincipledEngine, kind: str, fields: dict[str, int], said: str
) -> None:
    """Where one of fewer tokens would have had room."""
    fitting = {"critique": FAULT, "revision": NO}[kind]
    engine.says_to[kind] = lambda body: "!long" if body.get("max_tokens", 0) > 500 else fitting
    with setting(running, critique_tokens=1000 if kind == "critique" else 160):
        answer = chat(running, **fields)
        tried = running.operator.post("/v1/constitution/try", json={"prompt": "hi", "principle": "true"}).json()
    (made,) = stored(running, answer["id"])["revisions"]
    assert made["ended"] == "failed" and made["problem"].startswith(said)
    assert answer["choices"][0]["message"]["content"] == HARM
    assert tried["trials"][0]["problem"].startswith("constitution.critique_tokens") == (kind == "critique")


@pytest.mark.parametrize("kind", ["critique", "revision"])
def test_a_text_that_breaks_off_is_not_answered(running: Running, engine: PrincipledEngine, kind: str) -> None:
    engine.says_to[kind] = "!break"
    *_, done = chunks = events(running.post("/v1/chat/completions", principled(stream=True)))
    assert done == "[DONE]"
    found = stored(running, chunks[0]["id"])
    assert (found["revisions"][0]["ended"], found["replies"][0]["text"]) == ("failed", HARM)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["critique", "revision", "letter"])
def test_when_time_is_over_the_last_judged_text_is_answered_and_that_is_kept(
    running: Running, engine: PrincipledEngine, kind: str, streamed: bool
) -> None:
    engine.says_to[kind] = "!hang"
    with setting(running, budget_seconds=0.5, rounds=3):
        response = running.post("/v1/chat/completions", principled(stream=streamed))
    exchange = events(response)[0]["id"] if streamed else response.json()["id"]
    found = stored(running, exchange)
    (made,) = found["revisions"]
    assert (made["ended"], made["after"]) == ("out of time", None)
    assert made["critique"] == ("" if kind == "critique" else FAULT)
    assert found["replies"][0]["text"] == HARM
    until(lambda: engine.under_way == 0)  # the engine's slot is free


def test_of_several_revisions_the_last_whole_one_is_answered(running: Running, engine: PrincipledEngine) -> None:
    engine.says_to["revision"] = lambda body: "!hang" if NO in body["messages"][-1]["content"] else NO
    with setting(running, budget_seconds=1.0, rounds=3):
        answer = chat(running)
    assert answer["choices"][0]["message"]["content"] == NO
    assert answer["hone"] == {"constitution": "c0", "revised": True, "ended": "out of time"}


@pytest.mark.parametrize(("fault", "status"), [(400, 400), ("!long", 400)])
def test_without_a_draft_there_is_no_reply(
    running: Running, engine: PrincipledEngine, fault: str | int, status: int
) -> None:
    engine.says_to["draft"] = fault
    for streamed in (False, True):
        response = running.post("/v1/chat/completions", principled(stream=streamed))
        assert response.status_code == status, response.text


def test_a_draft_that_breaks_off_ends_the_stream_with_an_error(running: Running, engine: PrincipledEngine) -> None:
    engine.says_to["draft"] = "!break"
    *_, last = chunks = events(running.post("/v1/chat/completions", principled(stream=True)))
    assert last["error"]["code"] == "engine_unavailable"
    kept = stored(running, chunks[0]["id"])  # as of a plain stream that breaks off
    (reply,) = kept["replies"]
    assert (reply["text"], reply["finish_reason"], kept["revisions"]) == ("!break", None, [])


@pytest.mark.parametrize(("kind", "draft"), [("draft", "!hang"), ("critique", HARM), ("revision", HARM)])
def test_a_caller_who_leaves_frees_the_engine_and_the_draft_that_was_shown_is_kept_undecided(
    running: Running, engine: PrincipledEngine, kind: str, draft: str
) -> None:
    engine.says_to[kind] = "!hang"
    with running.http.stream("POST", "/v1/chat/completions", json=principled(stream=True)) as response:
        last = next(line for line in response.iter_lines() if f'"stage":"{kind}"' in line and '"text":"!hang"' in line)
        exchange = last.split('"id":"')[1].split('"')[0]
    until(lambda: engine.under_way == 0)
    until(lambda: running.get(f"/v1/exchanges/{exchange}").status_code == 200)
    kept = stored(running, exchange)
    (reply,) = kept["replies"]
    assert (reply["text"], reply["finish_reason"], kept["revisions"]) == (draft, None, [])
    assert len(reply["logprobs"]) == len(tokens(draft)) - (kind == "draft")  # it has no EOS
    with running.store.read() as tx:
        assert not [one for one in revisions.revision_pairs(tx, 10**6) if one.exchange_id == exchange]


def test_of_a_draft_that_nobody_was_shown_nothing_is_kept(running: Running, engine: PrincipledEngine) -> None:
    engine.says_to["critique"] = "!hang"
    with setting(running, serve="always"):
        with running.http.stream("POST", "/v1/chat/completions", json=ask(stream=True)) as response:
            last = next(line for line in response.iter_lines() if '"stage":"critique"' in line)
            exchange = last.split('"id":"')[1].split('"')[0]
        until(lambda: engine.under_way == 0)
    assert stored(running, running.post("/v1/chat/completions", ask()).json()["id"])  # what is stored, is in order
    assert running.get(f"/v1/exchanges/{exchange}").status_code == 404


def test_a_constitution_that_can_not_be_read_guards_nobody_in_silence(
    running: Running, engine: PrincipledEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = "format_version = 99\n"
    with running.store.begin() as tx:
        row, _ = constitutions.put_in_effect(tx, newer, "0" * 64, "a newer Hone", "", built_in().sha256)
    assert row is not None
    try:
        for serve_setting, body in (("asked", principled()), ("always", ask()), ("always", ask(stream=True))):
            with setting(running, serve=serve_setting):
                response = running.post("/v1/chat/completions", body)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (503, "constitution_unusable")
            assert (
                "has format 99; this Hone knows 1." in error["message"]
                and "hone constitution import" in error["message"]
            )
            assert error["message"] in running.get("/health").json()["constitution"]
        assert running.post("/v1/chat/completions", ask()).status_code == 200
        assert running.operator.get("/v1/constitution").status_code == 503
    finally:
        with running.store.begin() as tx:
            tx.delete(tx.merge(row))


@pytest.mark.parametrize(
    ("serve", "status", "code", "which"),
    [
        ("always", "unavailable", 503, "Every chat gets"),
        ("asked", "degraded", 200, "Chats that ask for the constitution get"),
        ("never", "ok", 200, None),
    ],
)
def test_tags_that_no_principle_has_are_told_with_what_mends_them_and_health_knows(
    running: Running, engine: PrincipledEngine, serve: str, status: str, code: int, which: str | None
) -> None:
    why = (
        "c0: No principle has one of the tags kind. Set constitution.tags to some of harmless, helpful, honest, or "
        "import a constitution that has them."
    )
    through_a_proxy = {"x-forwarded-for": "198.51.100.7"}
    with setting(running, tags=("kind",), serve=serve):
        if which:
            response = running.post("/v1/chat/completions", principled() if serve == "asked" else ask())
            assert (response.status_code, response.json()["error"]["code"]) == (503, "constitution_unusable")
            assert response.json()["error"]["message"] == why
        health = running.get("/health")
        stranger = running.http.get("/health", headers=through_a_proxy)
    assert (health.status_code, stranger.status_code) == (code, code)
    assert (health.json()["status"], health.json()["rollout"]) == (status, "ok")
    assert health.json()["constitution"] == (f"{which} 503 constitution_unusable: {why}" if which else "ok")
    assert stranger.json()["constitution"] == ("unusable" if which else "ok")
    assert running.get("/health").json()["status"] == "ok"
