"""Feedback over HTTP: every kind, every refusal, and that a repeated send is harmless."""

from typing import Any

import pytest

from tests.service.conftest import Running


@pytest.fixture
def exchange(running: Running) -> str:
    """An exchange of `ann` with two replies."""
    body = {"model": "hone", "messages": [{"role": "user", "content": "hi"}], "n": 2, "user": "ann"}
    return str(running.post("/v1/chat/completions", body).json()["id"])


def of_ann(**fields: Any) -> dict[str, Any]:
    return {"user": "ann", **fields}


def pair(exchange: str) -> list[dict[str, Any]]:
    return [{"exchange_id": exchange, "index": 0}, {"exchange_id": exchange, "index": 1}]


def all_kinds(exchange: str) -> list[dict[str, Any]]:
    a, b = pair(exchange)
    return [
        {"kind": "thumb", "exchange_id": exchange, "good": False, "comment": "meh"},
        {"kind": "score", "exchange_id": exchange, "index": 1, "score": 10},
        {"kind": "label", "exchange_id": exchange, "labels": ["wrong", "off-topic"]},
        {"kind": "critique", "exchange_id": exchange, "text": "Too long."},
        {"kind": "correction", "exchange_id": exchange, "text": "Hello."},
        {"kind": "comparison", "a": a, "b": b, "verdict": "a", "strength": 3},
        {"kind": "ranking", "order": [[b], [a]]},
        {"kind": "ranking", "order": [], "failed": [a, b]},
    ]


@pytest.mark.parametrize("which", range(8))
def test_every_kind_is_taken_and_told_back(running: Running, exchange: str, which: int) -> None:
    judgement = all_kinds(exchange)[which]
    given = running.post("/v1/feedback", of_ann(**judgement))
    assert given.status_code == 201, given.text
    stored = running.http.get(f"/v1/feedback/{given.json()['id']}", headers={"x-hone-user": "ann"}).json()
    assert stored["feedback"].items() >= judgement.items()
    assert "user" not in stored["feedback"] and stored["withdrawn"] is False and stored["learned_in"] == []


@pytest.mark.parametrize(
    ("judgement", "status", "param"),
    [
        ({"kind": "thumb", "good": True, "exchange_id": "chatcmpl-nothing"}, 404, "exchange_id"),
        ({"kind": "thumb", "good": True, "exchange_id": "EXCHANGE", "index": 2}, 400, "index"),
        ({"kind": "thumb", "good": True, "exchange_id": "EXCHANGE", "index": -1}, 400, "index"),
        ({"kind": "thumb", "good": "perhaps", "exchange_id": "EXCHANGE"}, 400, "good"),
        ({"kind": "thumb", "exchange_id": "EXCHANGE"}, 400, "good"),
        ({"kind": "thumb", "good": True, "exchange_id": "EXCHANGE", "godo": 1}, 400, "godo"),
        ({"kind": "applause", "exchange_id": "EXCHANGE"}, 400, "kind"),
        ({"exchange_id": "EXCHANGE"}, 400, "kind"),
        ({"kind": "score", "score": 11, "exchange_id": "EXCHANGE"}, 400, "score"),
        ({"kind": "score", "score": "7", "exchange_id": "EXCHANGE"}, 400, "score"),
        ({"kind": "score", "score": True, "exchange_id": "EXCHANGE"}, 400, "score"),
        ({"kind": "score", "score": 7, "index": "1", "exchange_id": "EXCHANGE"}, 400, "index"),
        ({"kind": "thumb", "good": 1, "exchange_id": "EXCHANGE"}, 400, "good"),
        ({"kind": "thumb", "good": "yes", "exchange_id": "EXCHANGE"}, 400, "good"),
        ({"kind": "label", "labels": [], "exchange_id": "EXCHANGE"}, 400, "labels"),
        ({"kind": "label", "labels": [" "], "exchange_id": "EXCHANGE"}, 400, "labels[0]"),
        ({"kind": "label", "labels": ["wrong"] * 33, "exchange_id": "EXCHANGE"}, 400, "labels"),
        ({"kind": "correction", "text": " \n", "exchange_id": "EXCHANGE"}, 400, "text"),
        ({"kind": "critique", "text": "", "exchange_id": "EXCHANGE"}, 400, "text"),
        ({"kind": "critique", "text": "\u2003", "exchange_id": "EXCHANGE"}, 400, "text"),
        ({"kind": "critique", "text": "a\0", "exchange_id": "EXCHANGE"}, 400, "text"),
        ({"kind": "correction", "text": " Hello there, friend!", "exchange_id": "EXCHANGE"}, 400, "text"),
        ({"kind": "ranking", "order": [], "failed": []}, 400, None),
        ({"kind": "ranking", "order": [[]]}, 400, None),
        ({"kind": "ranking", "failed": [{"exchange_id": "x", "index": n} for n in range(65)]}, 400, None),
    ],
)
def test_a_judgement_that_says_nothing_is_refused(
    running: Running, exchange: str, judgement: dict[str, Any], status: int, param: str | None
) -> None:
    if judgement.get("exchange_id") == "EXCHANGE":
        judgement = judgement | {"exchange_id": exchange}
    response = running.post("/v1/feedback", of_ann(**judgement))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "score", "score": "7"}, 'score: must be a whole number, not "7".'),
        ({"kind": "score", "score": 7.5}, "score: must be a whole number, not 7.5."),
        ({"kind": "score", "score": 11}, "score: must be at most 10, not 11."),
        ({"kind": "score"}, "score: is missing."),
        ({"kind": "thumb", "good": None}, "good: must be true or false, not null."),
        ({"kind": "thumb", "good": True, "godo": 1}, "godo: is not known here; leave it out."),
        ({"kind": "thumb", "good": True, "exchange_id": 5}, "exchange_id: must be text, not 5."),
        ({"kind": "thumb", "good": True, "exchange_id": ""}, "exchange_id: must not be empty."),
        ({"kind": "label", "labels": "wrong"}, 'labels: must be a list, not "wrong".'),
        ({"kind": "label", "labels": []}, "labels: must not be empty."),
        ({"kind": "label", "labels": ["x" * 65]}, "labels[0]: must have at most 64 characters."),
        ({"kind": "critique", "text": " "}, "text: is blank, so it says nothing."),
        ({"kind": "applause"}, "kind: must be one of thumb, comparison, ranking, score, correction, label, critique."),
    ],
)
def test_a_refusal_names_the_field_and_says_what_it_must_be(
    running: Running, fields: dict[str, Any], message: str
) -> None:
    response = running.post("/v1/feedback", {"exchange_id": "chatcmpl-x"} | fields)
    assert (response.status_code, response.json()["error"]["message"]) == (400, message)
    a = {"exchange_id": "x", "index": -1}
    nested = running.post("/v1/feedback", {"kind": "comparison", "a": a, "b": 5, "verdict": "c"}).json()["error"]
    assert (nested["param"], nested["message"]) == ("a.index", "a.index: must be at least 0, not -1.")


A_REPLY = {"exchange_id": "chatcmpl-x", "index": 0}


@pytest.mark.parametrize(
    ("judgement", "message"),
    [
        (
            {"kind": "comparison", "a": A_REPLY, "b": A_REPLY, "verdict": "tie"},
            "Both name the same reply; compare two different ones.",
        ),
        ({"kind": "ranking", "order": [[A_REPLY], []]}, "A group of the order is empty."),
        ({"kind": "ranking", "order": [[A_REPLY]]}, "A ranking is of 2 to 64 replies."),
        ({"kind": "ranking", "order": [[A_REPLY], [A_REPLY]]}, "A reply stands in the ranking twice."),
    ],
)
def test_a_refusal_of_the_whole_is_a_sentence(running: Running, judgement: dict[str, Any], message: str) -> None:
    assert running.post("/v1/feedback", judgement).json()["error"]["message"] == message


def test_a_whole_number_may_be_written_with_a_point(running: Running, exchange: str) -> None:
    given = running.post("/v1/feedback", of_ann(kind="score", score=7.0, exchange_id=exchange))
    assert (given.status_code, given.json()["feedback"]["score"]) == (201, 7)


def test_a_comparison_of_a_reply_with_itself_or_of_other_messages_is_refused(running: Running, exchange: str) -> None:
    a, _ = pair(exchange)
    same = running.post("/v1/feedback", of_ann(kind="comparison", a=a, b=a, verdict="a"))
    body = {"model": "hone", "messages": [{"role": "user", "content": "other"}], "user": "ann"}
    other = {"exchange_id": running.post("/v1/chat/completions", body).json()["id"]}
    unlike = running.post("/v1/feedback", of_ann(kind="comparison", a=a, b=other, verdict="a"))
    assert (same.status_code, unlike.status_code) == (400, 400)
    assert "different messages" in unlike.json()["error"]["message"]


def test_nobody_judges_or_sees_somebody_elses_exchange_and_cannot_tell_it_exists(
    running: Running, exchange: str
) -> None:
    missing = running.post("/v1/feedback", {"kind": "thumb", "good": True, "exchange_id": "chatcmpl-no", "user": "bob"})
    theirs = running.post("/v1/feedback", {"kind": "thumb", "good": True, "exchange_id": exchange, "user": "bob"})
    assert missing.status_code == theirs.status_code == 404
    assert missing.text.replace("chatcmpl-no", exchange) == theirs.text
    assert running.http.get(f"/v1/exchanges/{exchange}", headers={"x-hone-user": "bob"}).status_code == 404
    assert running.operator.get(f"/v1/exchanges/{exchange}").status_code == 200


def thumbs(running: Running) -> float:
    """How many the metrics have counted."""
    counts = [line for line in running.get("/metrics").text.splitlines() if 'feedback_total{kind="thumb"}' in line]
    return sum(float(line.split()[-1]) for line in counts)


def test_a_repeated_send_is_harmless_and_another_body_under_its_key_is_refused(running: Running, exchange: str) -> None:
    body, before = of_ann(kind="thumb", good=True, exchange_id=exchange), thumbs(running)
    first, again = (running.post("/v1/feedback", body, {"Idempotency-Key": f"k-{exchange}"}).json() for _ in range(2))
    assert first == again and thumbs(running) == before + 1
    other = running.post("/v1/feedback", body | {"good": False}, {"Idempotency-Key": f"k-{exchange}"})
    assert other.status_code == 409 and other.headers["x-should-retry"] == "false"
    assert running.post("/v1/feedback", body, {"Idempotency-Key": "k" * 300}).status_code == 400


def test_feedback_is_listed_in_pages_changed_and_withdrawn_by_its_giver_alone(running: Running) -> None:
    me, them = {"x-hone-user": "carl"}, {"x-hone-user": "dora"}
    body = {"model": "hone", "messages": [{"role": "user", "content": "hi"}], "user": "carl"}
    exchange = running.post("/v1/chat/completions", body).json()["id"]
    thumb = {"kind": "thumb", "good": True, "exchange_id": exchange, "user": "carl"}
    ids = [running.post("/v1/feedback", thumb).json()["id"] for _ in range(3)]
    page = running.http.get("/v1/feedback?limit=2", headers=me).json()
    rest = running.http.get(f"/v1/feedback?limit=2&after={page['next']}", headers=me).json()
    assert [one["id"] for one in page["data"] + rest["data"]] == ids[::-1] and rest["next"] is None
    assert running.http.get("/v1/feedback", headers=them).json()["data"] == []
    assert running.http.get("/v1/feedback?limit=0", headers=me).status_code == 400
    assert running.http.get(f"/v1/feedback?after={ids[0]}", headers=me).json() == {"data": [], "next": None}
    for who, after in ((me, "nope"), (me, ""), (them, ids[0])):  # of somebody else's it can't be told that it exists
        refused = running.http.get("/v1/feedback", params={"after": after}, headers=who)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")
        assert refused.json()["error"]["message"].startswith(f"after: you have no feedback {after!r}. Send the `next`")

    path = f"/v1/feedback/{ids[0]}"
    changed = running.http.put(path, json=thumb | {"good": False}).json()
    assert changed["feedback"]["good"] is False
    assert running.http.put(path, json=thumb | {"user": "dora"}).status_code == 404
    assert running.http.delete(path, headers=them).status_code == 404
    assert running.http.delete(path, headers=me).json()["withdrawn"] is True
    assert running.http.delete(path, headers=me).json()["withdrawn"] is True
    assert running.http.put(path, json=thumb).status_code == 409


def test_statistics_are_counted_again_after_some_seconds(
    running: Running, exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def total(fresh_seconds: float) -> int:
        monkeypatch.setattr("service.recent_stats.FRESH_SECONDS", fresh_seconds)
        return int(running.operator.get("/v1/feedback/stats").json()["total"])

    before = total(fresh_seconds=0)
    running.post("/v1/feedback", of_ann(kind="thumb", good=True, exchange_id=exchange))
    assert total(fresh_seconds=3600) == before
    assert total(fresh_seconds=0) == before + 1


def test_statistics_are_for_operators(running: Running) -> None:
    assert running.get("/v1/feedback/stats").status_code == 403
    assert running.operator.get("/v1/feedback/stats").json()["total"] >= 0
