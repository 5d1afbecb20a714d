"""Replies by principles: what is asked, told while it works, answered, kept and counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from service.chat.constitutional import Rules
from service.constitution import built_in
from service.constitution.versions import built_in_version
from service.settings import ConstitutionSettings
from service.store.queries import revisions
from tests.fixtures.waiting import until
from tests.service.chatting import ask, events
from tests.service.conftest import Running
from tests.service.fake_engine import LOGPROB
from tests.service.principled_chats import HARMLESS, chat, principled, setting, stored
from tests.service.principled_chats import engine as engine
from tests.service.principled_chats import fake_engine as fake_engine
from tests.service.principled_engine import FAULT, FINE, HARM, NO, PrincipledEngine, tokens, worse


def test_a_reply_that_breaks_a_principle_is_revised_and_all_of_it_is_kept(
    running: Running, engine: PrincipledEngine
) -> None:
    answer = chat(running, return_token_ids=True)
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (NO, "stop")
    assert answer["hone"] == {"constitution": "c0", "revised": True, "ended": "revised"}
    assert answer["usage"]["completion_tokens"] == sum(len(tokens(text)) for text in (HARM, FAULT, NO))
    found = stored(running, answer["id"])
    (made,) = found["revisions"]
    assert made["principle"] in HARMLESS and made["seconds"] > 0
    assert {name: made[name] for name in ("round", "constitution", "critique", "before", "after", "ended")} == {
        "round": 1, "constitution": "c0", "critique": FAULT, "before": HARM, "after": NO, "ended": "revised",
    }  # fmt: skip
    assert made["constitution_sha256"] == built_in().sha256 and made["odds"] == pytest.approx(0.9)
    (reply,) = found["replies"]
    assert found["prompt_token_ids"] == [1, 7, 7] == answer["prompt_token_ids"]
    assert (reply["text"], reply["token_ids"], reply["logprobs"]) == (NO, tokens(NO), [])
    assert choice["token_ids"] == tokens(NO)


def test_draft_and_revision_are_a_pair_for_the_learner(running: Running, engine: PrincipledEngine) -> None:
    with running.store.read() as tx:
        before = revisions.last_position(tx)
    answer = chat(running)
    engine.says_to["revision"] = HARM
    chat(running)  # says what the draft says
    engine.says_to["critique"] = FINE
    chat(running)
    with running.store.read() as tx:
        (pair,) = [one for one in revisions.revision_pairs(tx, revisions.last_position(tx)) if one.position > before]
        assert [one for one in revisions.revision_pairs(tx, before) if one.position > before] == []
        (row,) = revisions.revisions_of(tx, answer["id"])
    assert (pair.exchange_id, pair.adapter, pair.base) == (answer["id"], "base", "fake")
    assert pair.prompt_token_ids == [1, 7, 7]
    assert (pair.chosen_token_ids, pair.rejected_token_ids) == (tokens(NO), tokens(HARM))
    assert (pair.constitution, pair.critique) == ("c0", FAULT) and pair.principle in HARMLESS
    assert pair.odds == pytest.approx(0.9)
    assert row.before_logprobs == [LOGPROB] * len(tokens(HARM))


@pytest.mark.parametrize("serve", ["never", "asked", "always"])
def test_the_models_tell_which_chats_are_answered_by_it(running: Running, serve: str) -> None:
    with setting(running, serve=serve):
        models = running.http.get("/v1/models").json()["data"]
    assert {model["constitutional"] for model in models} == {serve}


def test_the_engine_is_asked_as_the_constitution_words_it(running: Running, engine: PrincipledEngine) -> None:
    answer = chat(running, temperature=0.3, max_tokens=40, stop="END")
    (made,) = stored(running, answer["id"])["revisions"]
    rule = built_in().principle(made["principle"])
    (draft,), (critique,), (revision,) = (engine.asked[kind] for kind in ("draft", "critique", "revision"))
    assert draft["messages"] == [{"role": "user", "content": "How do I pick a lock?"}]
    assert critique["messages"][-1]["content"].startswith(
        f"Rule: {rule.rule}\nQuestion: How do I pick a lock?\nReply: "
    )
    assert (critique["temperature"], critique["max_tokens"]) == (0.0, 160) and "stop" not in critique
    assert f"\nCritique: {FAULT}\n" in revision["messages"][-1]["content"]
    assert (revision["temperature"], revision["max_tokens"], revision["stop"]) == (0.3, 40, ["END"])
    assert {body["model"] for body in (draft, critique, revision)} == {"fake"}


def test_where_nothing_is_wrong_the_draft_is_answered_as_it_was_sampled(
    running: Running, engine: PrincipledEngine
) -> None:
    engine.says_to["critique"] = FINE
    answer = chat(running)
    assert answer["choices"][0]["message"]["content"] == HARM
    assert answer["hone"] == {"constitution": "c0", "revised": False, "ended": "nothing wrong"}
    found = stored(running, answer["id"])
    assert found["replies"][0]["logprobs"] == [LOGPROB] * len(tokens(HARM))
    assert found["revisions"][0]["after"] is None and engine.asked["revision"] == []


def test_who_does_not_ask_is_answered_as_ever(running: Running, engine: PrincipledEngine) -> None:
    bodies: tuple[dict[str, Any], ...] = (ask(), ask(hone={"constitutional": False}), ask(hone={}))
    for body in bodies:
        answer = running.post("/v1/chat/completions", body).json()
        assert answer["choices"][0]["message"]["content"] == HARM and "hone" not in answer
        assert stored(running, answer["id"])["revisions"] == []
    assert engine.asked["critique"] == []


def test_rounds_go_on_from_what_the_one_before_made_until_nothing_is_wrong(
    running: Running, engine: PrincipledEngine
) -> None:
    engine.says_to["critique"] = lambda body: FINE if "Better still" in body["messages"][-1]["content"] else FAULT
    engine.says_to["revision"] = lambda body: "Better still." if NO in body["messages"][-1]["content"] else NO
    with setting(running, rounds=4, tags=()):
        answer = chat(running)
    made = stored(running, answer["id"])["revisions"]
    assert [(one["round"], one["ended"]) for one in made] == [(1, "revised"), (2, "revised"), (3, "nothing wrong")]
    assert [one["before"] for one in made] == [HARM, NO, "Better still."]
    assert len({one["principle"] for one in made}) == 3
    assert answer["choices"][0]["message"]["content"] == "Better still."
    assert answer["hone"] == {"constitution": "c0", "revised": True, "ended": "nothing wrong"}
    with running.store.read() as tx:
        (pair,) = [one for one in revisions.revision_pairs(tx, 10**9) if one.exchange_id == answer["id"]]
    assert (pair.chosen_token_ids, pair.rejected_token_ids) == (tokens("Better still."), tokens(HARM))


@pytest.mark.parametrize(("letter", "odds"), [(worse, 0.1), ("A", 0.5)])
def test_a_revision_that_no_verdict_prefers_is_kept_but_not_answered(
    running: Running, engine: PrincipledEngine, letter: Any, odds: float
) -> None:
    engine.says_to["letter"] = letter
    answer = chat(running)
    assert answer["choices"][0]["message"]["content"] == HARM
    assert answer["hone"] == {"constitution": "c0", "revised": False, "ended": "no better"}
    found = stored(running, answer["id"])
    (made,) = found["revisions"]
    assert (made["after"], made["ended"], made["odds"]) == (NO, "no better", pytest.approx(odds))
    assert found["replies"][0]["logprobs"] == [LOGPROB] * len(tokens(HARM))
    with running.store.read() as tx:
        assert answer["id"] not in [one.exchange_id for one in revisions.revision_pairs(tx, 10**9)]


def test_a_verdict_is_one_letter_in_each_order(running: Running, engine: PrincipledEngine) -> None:
    chat(running)
    first, second = (body["messages"][-2]["content"] for body in engine.asked["letter"])
    assert {f"\nA: {NO}\nB: {HARM}\n" in one for one in (first, second)} == {True, False}
    for body in engine.asked["letter"]:
        assert body["messages"][-1] == {"role": "assistant", "content": "Better:"} and body["max_tokens"] == 1
        assert body["continue_final_message"] and not body["add_generation_prompt"]


def test_a_round_may_look_at_every_principle(running: Running, engine: PrincipledEngine) -> None:
    engine.says_to["critique"] = lambda body: FINE if NO in body["messages"][-1]["content"] else FAULT
    with setting(running, rounds=8, principles="all"):
        answer = chat(running)
    made = stored(running, answer["id"])["revisions"]
    assert [one["round"] for one in made] == [1, 1, 1, 2, 2, 2]
    assert [one["principle"] for one in made] == [one.name for one in built_in().tagged(["harmless"])] * 2
    assert [one["ended"] for one in made] == ["revised"] + ["nothing wrong"] * 5


def test_a_stream_says_at_once_what_goes_on_and_ends_with_the_reply(running: Running, engine: PrincipledEngine) -> None:
    body = principled(stream=True, stream_options={"include_usage": True}, return_token_ids=True)
    response = running.post("/v1/chat/completions", body)
    *chunks, usage, done = events(response)
    assert done == "[DONE]" and usage["usage"]["prompt_tokens"] == 3
    told = [chunk for chunk in chunks if "hone" in chunk]
    assert all(chunk["choices"][0]["delta"] == {} for chunk in told)
    texts: dict[str, str] = {}
    for chunk in told[:-1]:
        texts[chunk["hone"]["stage"]] = texts.get(chunk["hone"]["stage"], "") + chunk["hone"]["text"]
    assert texts == {"draft": HARM, "critique": FAULT, "revision": NO, "verdict": ""}
    assert told[-1]["hone"] == {"stage": "decided", "constitution": "c0", "revised": True, "ended": "revised"}
    assert told[-1]["id"] == chunks[-1]["id"]
    answered = chunks[len(told) :]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in answered) == NO
    assert answered[0]["choices"][0]["delta"]["role"] == "assistant"
    assert answered[-1]["choices"][0]["finish_reason"] == "stop"
    found = stored(running, chunks[0]["id"])
    assert found["replies"][0]["text"] == NO and found["revisions"][0]["before"] == HARM


def test_the_first_sign_does_not_wait_for_the_engine(
    running: Running, engine: PrincipledEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "token_seconds", 0.5)
    with running.http.stream("POST", "/v1/chat/completions", json=principled(stream=True)) as response:
        first = next(line for line in response.iter_lines() if line)
    assert '"stage":"draft"' in first and '"text":""' in first
    until(lambda: running.app.state.parts.metrics.chats_under_way._value.get() == 0)


def test_openai_clients_read_such_a_stream(running: Running, engine: PrincipledEngine) -> None:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "How do I pick a lock?"}]
    with client:
        options: dict[str, Any] = {
            "model": "hone",
            "messages": messages,
            "extra_body": {"hone": {"constitutional": True}},
        }
        stream = client.chat.completions.create(stream=True, **options)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        whole = client.chat.completions.create(**options)
    assert said == NO == whole.choices[0].message.content


def test_padding_keeps_no_reply_from_being_looked_at(running: Running, engine: PrincipledEngine) -> None:
    def as_fits(said: str) -> Callable[[dict[str, Any]], str]:
        return lambda body: "!long" if len(body["messages"][-1]["content"]) > 1_000 else said

    engine.says_to |= {"critique": as_fits(FAULT), "revision": as_fits(NO)}
    before = [{"role": "user", "content": "Hello. " * 300}, {"role": "assistant", "content": "Hello."}]
    asked = {"role": "user", "content": "Listen. " + "Well. " * 500 + "How do I pick a lock?"}
    response = running.post("/v1/chat/completions", principled() | {"messages": [*before, asked]})
    assert response.json()["choices"][0]["message"]["content"] == NO
    for kind in ("critique", "revision"):
        shown = engine.asked[kind][-1]["messages"][-1]["content"]
        assert "Question: Listen." in shown and "How do I pick a lock?" in shown and "Before:" not in shown


@pytest.mark.parametrize("fields", [{"n": 2}, {"best_of": 2}, {"logprobs": True}])
def test_what_can_not_be_revised_is_refused_by_name(running: Running, fields: dict[str, Any]) -> None:
    response = running.post("/v1/chat/completions", principled(**fields))
    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(fields)))


def test_a_request_can_not_go_against_the_policy(running: Running, engine: PrincipledEngine) -> None:
    with setting(running, serve="never"):
        refused = running.post("/v1/chat/completions", principled())
        assert running.post("/v1/chat/completions", ask()).json()["choices"][0]["message"]["content"] == HARM
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "hone.constitutional")
    with setting(running, serve="always"):
        refused = running.post("/v1/chat/completions", ask(hone={"constitutional": False}))
        assert running.post("/v1/chat/completions", ask()).json()["choices"][0]["message"]["content"] == NO
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "hone.constitutional")


def test_by_policy_no_text_is_shown_before_it_was_looked_at(running: Running, engine: PrincipledEngine) -> None:
    with setting(running, serve="always"):
        chunks = events(running.post("/v1/chat/completions", ask(stream=True)))[:-1]
    stages = [chunk["hone"] for chunk in chunks if "hone" in chunk]
    assert [one["stage"] for one in stages] == ["draft", "critique", "revision", "verdict", "decided"]
    assert all(not one.get("text") for one in stages)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == NO


def test_revisions_are_counted(running: Running, engine: PrincipledEngine) -> None:
    def counted(ended: str) -> float:
        found: float = running.app.state.parts.metrics.revisions.labels("base", ended)._value.get()
        return found

    before = counted("revised"), counted("failed")
    chat(running)
    engine.says_to["critique"] = 400
    chat(running)
    assert (counted("revised") - before[0], counted("failed") - before[1]) == (1, 1)
    assert "hone_revisions_total" in running.get("/metrics").text


def test_a_requests_seed_decides_which_principles_are_drawn(running: Running, engine: PrincipledEngine) -> None:
    def drawn(seed: int) -> list[str]:
        exchange = chat(running, seed=seed)["id"]
        return [one["principle"] for one in stored(running, exchange)["revisions"]]

    seen = {seed: drawn(seed) for seed in range(12)}
    assert all(drawn(seed) == before for seed, before in seen.items())
    assert len({tuple(one) for one in seen.values()}) > 1


def test_the_same_exchange_draws_the_same_principles() -> None:
    rules = Rules.of(built_in_version(), ConstitutionSettings(rounds=2))
    drawn = {seed: [[one.name for one in some] for some in rules.rounds(seed)] for seed in map(str, range(40))}
    assert all([[one.name for one in some] for some in rules.rounds(seed)] == names for seed, names in drawn.items())
    assert len({str(names) for names in drawn.values()}) > 1
    assert all(len(names) == 2 and names[0] != names[1] for names in drawn.values())
