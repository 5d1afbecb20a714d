"""How replies are sampled and where they end; what the log-probabilities are of."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine_contract.asking import CHAT, END, PROMPT, TEXT, chat, complete, gap, greedy_ids, scores, true_scores
from tests.fixtures.engines import CONTEXT, ServedEngine


def test_n_choices_differ_and_are_numbered(engine: ServedEngine) -> None:
    answer = engine.post(CHAT, chat(n=4, seed=7, temperature=1.5, max_tokens=12, return_token_ids=True)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert len({tuple(choice["token_ids"]) for choice in answer["choices"]}) > 1
    assert answer["usage"]["completion_tokens"] == sum(len(choice["token_ids"]) for choice in answer["choices"])


def test_a_seed_repeats_a_reply_and_another_seed_does_not(engine: ServedEngine) -> None:
    def said(seed: int) -> str:
        return str(engine.post(TEXT, complete(seed=seed, temperature=2.0, max_tokens=16)).json()["choices"][0]["text"])

    assert said(11) == said(11)
    assert len({said(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("narrow", [{"temperature": 0}, {"temperature": 2.0, "top_k": 1}, {"top_p": 1e-9}])
def test_the_narrowest_settings_are_greedy(engine: ServedEngine, narrow: dict[str, Any]) -> None:
    """Each token is the likeliest, or so near to it that the engine's precision can't tell."""
    body = complete(ignore_eos=True, logprobs=1, **narrow)
    found = engine.post(TEXT, body).json()["choices"][0]["logprobs"]
    for own, top in zip(found["token_logprobs"], found["top_logprobs"], strict=True):
        assert own == pytest.approx(max(top.values()), abs=1e-6)


def test_a_stop_string_ends_the_reply_before_itself(engine: ServedEngine) -> None:
    asked = [{"role": "user", "content": "How do I boil an egg?"}]
    options = chat(messages=asked, temperature=0, max_tokens=30, return_token_ids=True)
    whole = engine.post(CHAT, options).json()["choices"][0]
    text = whole["message"]["content"]
    stop = text[6:9]
    assert text.index(stop) > 0
    cut = engine.post(CHAT, {**options, "stop": [stop, "never said"]}).json()
    choice = cut["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text[: text.index(stop)], "stop")
    assert choice["token_ids"] == whole["token_ids"][: len(choice["token_ids"])]
    assert len(choice["token_ids"]) < len(whole["token_ids"])
    assert cut["usage"]["completion_tokens"] == len(choice["token_ids"])
    *chunks, _done = engine.events(CHAT, {**options, "stop": stop})
    said = [chunk["choices"][0] for chunk in chunks]
    assert "".join(one["delta"].get("content") or "" for one in said) == choice["message"]["content"]
    assert said[-1]["finish_reason"] == "stop"


def test_a_length_ends_the_reply(engine: ServedEngine) -> None:
    answer = engine.post(TEXT, complete(max_tokens=3, ignore_eos=True, return_token_ids=True)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(answer["choices"][0]["token_ids"]) == answer["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("asked", [None, 100, CONTEXT])
def test_no_reply_is_longer_than_what_is_left_of_the_context(engine: ServedEngine, asked: int | None) -> None:
    body = complete(prompt=[9] * (CONTEXT - 5), max_tokens=asked, ignore_eos=True)
    answer = engine.post(TEXT, body).json()
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["choices"][0]["finish_reason"] == "length"


def test_without_a_length_a_chat_may_fill_the_context_and_a_completion_has_sixteen_tokens(engine: ServedEngine) -> None:
    def tokens(path: str, body: dict[str, Any]) -> int:
        del body["max_tokens"]
        answer = engine.post(path, body).json()
        return int(answer["usage"]["completion_tokens"])

    assert tokens(CHAT, chat(ignore_eos=True)) == CONTEXT - len(PROMPT)
    assert tokens(TEXT, complete(ignore_eos=True)) == 16


def test_sampled_logprobs_are_the_models_own_whatever_the_settings(engine: ServedEngine) -> None:
    """The learner trains on them: temperature and top_p must not show in them."""
    body = complete(temperature=0.5, top_p=0.9, seed=3, max_tokens=24, return_token_ids=True, logprobs=0)
    choice = engine.post(TEXT, body).json()["choices"][0]
    tokens = [*PROMPT, *choice["token_ids"]]
    expected = true_scores(tokens)[len(PROMPT) - 1 :]
    assert gap(choice["logprobs"]["token_logprobs"], expected) < engine.close_to


def test_scores_of_a_text_are_those_of_transformers(engine: ServedEngine) -> None:
    tokens = [*PROMPT, *greedy_ids(engine, "sprout"), END]
    assert gap(scores(engine, "sprout", tokens), true_scores(tokens)) < engine.close_to


def test_what_was_sampled_is_scored_as_it_was_sampled(engine: ServedEngine) -> None:
    body = chat(temperature=1.0, seed=9, max_tokens=24, return_token_ids=True, logprobs=True)
    answer = engine.post(CHAT, body).json()
    choice = answer["choices"][0]
    sampled = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    rescored = scores(engine, "sprout", [*answer["prompt_token_ids"], *choice["token_ids"]])
    assert gap(sampled, rescored[-len(sampled) :]) < engine.close_to
