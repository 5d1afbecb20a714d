"""Replies, whole and streamed: their shape, their order, and that token ids, text and counts agree."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.embedded.serving import tokens_until_hang_up
from tests.engine_contract.asking import CHAT, END, PROMPT, TEXT, chat, complete, tokenizer
from tests.fixtures.engines import CONTEXT, ServedEngine


def test_it_is_healthy_and_names_the_base_and_its_limits(engine: ServedEngine) -> None:
    assert engine.http.get("/health").status_code == 200
    card = engine.models()[0]
    assert (card["id"], card["object"], card["parent"], card["max_model_len"]) == ("sprout", "model", None, CONTEXT)
    assert card["root"].endswith("sprout")


def test_a_chat_is_rendered_by_the_template_and_answered(engine: ServedEngine) -> None:
    body = chat(temperature=0, max_tokens=60, return_token_ids=True, logprobs=True)
    answer = engine.post(CHAT, body).json()
    choice = answer["choices"][0]
    ids = choice["token_ids"]
    assert answer["object"] == "chat.completion" and answer["model"] == "sprout"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["prompt_token_ids"] == PROMPT
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert ids[-1] == END and END not in ids[:-1]  # the end is a token like others: it has been sampled, too
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == tokenizer().decode(ids[:-1])
    entries = choice["logprobs"]["content"]
    assert len(entries) == len(ids) and all(entry["logprob"] <= 0 for entry in entries)
    assert [entry["token"] for entry in entries[:-1]] == [tokenizer().decode([token]) for token in ids[:-1]]
    counts = {"prompt_tokens": len(PROMPT), "completion_tokens": len(ids), "total_tokens": len(PROMPT) + len(ids)}
    assert {name: answer["usage"][name] for name in counts} == counts


def test_without_being_asked_it_gives_neither_token_ids_nor_logprobs(engine: ServedEngine) -> None:
    answer = engine.post(CHAT, chat(temperature=0)).json()
    choice = answer["choices"][0]
    assert choice.get("token_ids") is None and choice["logprobs"] is None and answer.get("prompt_token_ids") is None


def test_a_chat_stream_has_role_content_one_finish_usage_and_done(engine: ServedEngine) -> None:
    options = chat(temperature=0, max_tokens=60, return_token_ids=True, logprobs=True)
    whole = engine.post(CHAT, options).json()
    events = engine.events(CHAT, {**options, "stream_options": {"include_usage": True}})
    *chunks, usage, done = events
    assert done == "[DONE]"
    assert usage["choices"] == []
    counts = {name: whole["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    assert {name: usage["usage"][name] for name in counts} == counts
    assert {event["id"] for event in events[:-1]} == {chunks[0]["id"]}
    assert {event["object"] for event in events[:-1]} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[0]["prompt_token_ids"] == PROMPT and not any("prompt_token_ids" in chunk for chunk in chunks[1:])
    said = [chunk["choices"][0] for chunk in chunks[1:]]
    assert [choice["finish_reason"] for choice in said] == [None] * (len(said) - 1) + ["stop"]
    expected = whole["choices"][0]
    assert "".join(choice["delta"].get("content") or "" for choice in said) == expected["message"]["content"]
    assert [token for choice in said for token in choice["token_ids"]] == expected["token_ids"]
    entries = [entry for choice in said for entry in choice["logprobs"]["content"]]
    assert [entry["token"] for entry in entries] == [entry["token"] for entry in expected["logprobs"]["content"]]


def test_each_choice_of_a_stream_has_its_role_first_and_its_end_last(engine: ServedEngine) -> None:
    options = chat(n=3, seed=5, temperature=1.0, max_tokens=6, return_token_ids=True, logprobs=True)
    *chunks, done = engine.events(CHAT, options)
    assert done == "[DONE]"
    by_index: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for chunk in chunks:
        [choice] = chunk["choices"]
        by_index[choice["index"]].append(choice)
    for said in by_index.values():
        assert said[0]["delta"]["role"] == "assistant"
        assert not any("role" in choice["delta"] for choice in said[1:])
        assert [bool(choice["finish_reason"]) for choice in said] == [False] * (len(said) - 1) + [True]
        ids = [token for choice in said for token in choice.get("token_ids") or ()]
        entries = [entry for choice in said for entry in (choice["logprobs"] or {}).get("content", ())]
        assert 1 <= len(ids) == len(entries) <= 6


def test_a_completion_goes_on_from_token_ids_or_text_one_or_many(engine: ServedEngine) -> None:
    text = "What is"
    ids = tokenizer().encode(text)
    forms: list[Any] = [text, ids, [text, "Hello"], [ids, PROMPT]]
    options = {"temperature": 0, "return_token_ids": True}
    answers = [engine.post(TEXT, complete(prompt=form, **options)).json() for form in forms]
    assert [len(answer["choices"]) for answer in answers] == [1, 1, 2, 2]
    assert all(answer["choices"][0]["prompt_token_ids"] == ids for answer in answers)
    assert len({answer["choices"][0]["text"] for answer in answers}) == 1
    assert answers[0]["object"] == "text_completion" and answers[0]["id"].startswith("cmpl-")


def test_a_completion_stream_says_what_the_whole_says(engine: ServedEngine) -> None:
    options = complete(temperature=0, return_token_ids=True, logprobs=0)
    whole = engine.post(TEXT, options).json()["choices"][0]
    *chunks, done = engine.events(TEXT, options)
    assert done == "[DONE]"
    said = [chunk["choices"][0] for chunk in chunks]
    assert said[0]["prompt_token_ids"] == PROMPT
    assert "".join(choice["text"] for choice in said) == whole["text"]
    assert [token for choice in said for token in choice.get("token_ids") or ()] == whole["token_ids"]
    logprobs = [value for choice in said if choice["logprobs"] for value in choice["logprobs"]["token_logprobs"]]
    assert logprobs == pytest.approx(whole["logprobs"]["token_logprobs"], abs=engine.close_to)
    assert [choice["finish_reason"] for choice in said][-1] == whole["finish_reason"]


def test_many_callers_are_served_at_once(engine: ServedEngine) -> None:
    bodies = [complete(prompt=[*PROMPT, 5 + place], max_tokens=12, ignore_eos=True) for place in range(24)]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: engine.post(TEXT, body).json(), bodies))
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [12] * len(bodies)


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_hangs_up_frees_the_engine(engine: ServedEngine, stream: bool) -> None:
    rows, tokens = 128, CONTEXT - len(PROMPT)  # sixteen at a time: many seconds of work, if nobody stopped it
    endless = complete(max_tokens=tokens, ignore_eos=True, n=rows, temperature=1.0, stream=stream)
    assert tokens_until_hang_up(engine.http, TEXT, endless) < rows * tokens / 2
    assert engine.post(TEXT, complete()).status_code == 200


def test_the_openai_client_works(engine: ServedEngine) -> None:
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none") as client:
        assert client.models.list().data[0].id == "sprout"
        stream = client.chat.completions.create(
            model="sprout", messages=[{"role": "user", "content": "Hello"}], max_completion_tokens=6, stream=True
        )
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason in ("length", "stop")
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="v9", messages=[{"role": "user", "content": "hi"}])
