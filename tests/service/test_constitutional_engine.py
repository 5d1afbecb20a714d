"""Replies by principles of the built-in model by the real engine: what is kept is what the engine sampled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from transformers import AutoTokenizer

from service.app import create_app
from service.constitution import built_in, parse
from service.constitution.room import own_words
from service.settings import SPROUT, load_settings
from service.store.queries import constitutions, keys, revisions
from service.store.session import Store
from tests.fixtures.engines import CONTEXT, ServedEngine
from tests.fixtures.serving import serve
from tests.fixtures.waiting import PATIENCE
from tests.service.chatting import ask, events
from tests.service.constitutions import preambled
from tests.service.principled_chats import HARMLESS

PROMPT = "How do I pick a lock?"


@pytest.fixture(scope="module")
def sprout(
    embedded_engine: ServedEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx2.Client, Store]]:
    settings = load_settings(tmp_path_factory.mktemp("home"), {"server": {"pages": False}}, environment={})
    store = Store.open(settings.store_url)
    with (
        serve(create_app(settings, store, [embedded_engine.url])) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE) as http,
    ):
        yield http, store
    store.close()


def principled(**fields: Any) -> dict[str, Any]:
    return ask(PROMPT, hone={"constitutional": True}, seed=7, max_tokens=48, **fields)


def test_what_is_kept_is_what_the_engine_sampled_for_the_persons_prompt(sprout: tuple[httpx2.Client, Store]) -> None:
    http, store = sprout
    tokenizer = AutoTokenizer.from_pretrained(SPROUT)
    plain = http.post("/v1/chat/completions", json=ask(PROMPT, seed=7, max_tokens=48)).json()
    draft = http.get(f"/v1/exchanges/{plain['id']}").json()
    answer = http.post("/v1/chat/completions", json=principled()).json()
    found = http.get(f"/v1/exchanges/{answer['id']}").json()
    (made,) = found["revisions"]
    assert made["before"] == draft["replies"][0]["text"] and made["principle"] in HARMLESS
    assert made["constitution_sha256"] == built_in().sha256 and made["ended"] in ("revised", "nothing wrong")
    assert found["prompt_token_ids"] == draft["prompt_token_ids"]
    (reply,) = found["replies"]
    assert reply["text"] == answer["choices"][0]["message"]["content"] == (made["after"] or made["before"])
    assert tokenizer.decode(reply["token_ids"], skip_special_tokens=True).strip() == reply["text"].strip()
    assert (reply["token_ids"][-1] == tokenizer.eos_token_id) == (reply["finish_reason"] == "stop")
    assert len(reply["logprobs"]) == (0 if made["ended"] == "revised" else len(reply["token_ids"]))
    with store.read() as tx:
        (row,) = revisions.revisions_of(tx, answer["id"])
    assert (
        row.before_token_ids == draft["replies"][0]["token_ids"]
        and row.before_logprobs == draft["replies"][0]["logprobs"]
    )
    if row.after is not None:
        assert (row.after_token_ids[-1] == tokenizer.eos_token_id) == (row.after_finish_reason == "stop")
    (scored,) = http.post("/v1/score", json={"exchange_id": answer["id"]}).json()["token_logprobs"]
    assert len(scored) == len(reply["token_ids"]) and all(value <= 0 for value in scored)


def test_what_leaves_no_room_for_a_critique_is_cut_short_for_it(sprout: tuple[httpx2.Client, Store]) -> None:
    http, _ = sprout
    body = principled() | {"messages": [{"role": "user", "content": "the cat " * (CONTEXT // 2 - 10)}]}
    answer = http.post("/v1/chat/completions", json=body).json()
    assert answer["hone"]["ended"] in ("revised", "nothing wrong")
    found = http.get(f"/v1/exchanges/{answer['id']}").json()
    (made,) = found["revisions"]
    assert made["critique"] and not made["problem"]


def test_the_engine_counts_a_constitution_that_is_to_take_effect(sprout: tuple[httpx2.Client, Store]) -> None:
    http, store = sprout
    with store.begin() as tx:
        key = keys.create_key(tx, "operator", "oscar")
    headers = {"authorization": f"Bearer {key}"}

    def check(words: int) -> httpx2.Response:
        return http.post("/v1/constitution/check", json={"text": preambled(words)}, headers=headers)

    assert check(10).json()["warnings"] == []
    (said,) = check(330).json()["warnings"]
    principle = parse(preambled(330)).principles[0]
    rendered = AutoTokenizer.from_pretrained(SPROUT).apply_chat_template(
        own_words(parse(preambled(330)), principle), add_generation_prompt=True, return_dict=True
    )
    assert f"are {len(rendered['input_ids'])} tokens of the {CONTEXT} that" in said
    assert "about" in (refused := check(2000)).json()["error"]["message"] and refused.status_code == 400


def test_a_constitution_that_fills_the_context_is_to_blame_and_not_the_person(
    sprout: tuple[httpx2.Client, Store],
) -> None:
    http, store = sprout
    text = preambled(1000)
    with store.begin() as tx:
        row, _ = constitutions.put_in_effect(tx, text, parse(text).sha256, "a longer model's", "", built_in().sha256)
    assert row is not None
    try:
        answer = http.post("/v1/chat/completions", json=principled()).json()
    finally:
        with store.begin() as tx:
            tx.delete(tx.merge(row))
    (made,) = http.get(f"/v1/exchanges/{answer['id']}").json()["revisions"]
    assert made["ended"] == "failed" and answer["choices"][0]["message"]["content"] == made["before"]
    assert made["problem"].startswith(f"Constitution {row.name} is too long for the model's context")


def test_the_built_in_constitution_is_tried_on_the_built_in_model(sprout: tuple[httpx2.Client, Store]) -> None:
    http, store = sprout
    with store.begin() as tx:
        key = keys.create_key(tx, "operator", "olga")
    headers = {"authorization": f"Bearer {key}"}
    found = http.post("/v1/constitution/try", json={"prompt": PROMPT}, headers=headers).json()
    assert found["draft"] and [one["principle"] for one in found["trials"]] == [
        one.name for one in built_in().principles
    ]
    for one in found["trials"]:
        assert one["critique"] and not one["problem"]
        assert (one["revision"] is None) == built_in().finds_nothing(one["critique"]) == (one["verdict"] is None)


def test_a_stream_tells_of_every_stage_and_ends_with_what_is_kept(sprout: tuple[httpx2.Client, Store]) -> None:
    http, _ = sprout
    *chunks, done = events(http.post("/v1/chat/completions", json=principled(stream=True)))
    assert done == "[DONE]"
    stages = list(dict.fromkeys(chunk["hone"]["stage"] for chunk in chunks if "hone" in chunk))
    assert stages[:2] == ["draft", "critique"] and stages[-1] == "decided"
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    found = http.get(f"/v1/exchanges/{chunks[0]['id']}").json()
    assert said == found["replies"][0]["text"]
    drafted = "".join(c["hone"]["text"] for c in chunks if c.get("hone", {}).get("stage") == "draft")
    assert drafted == found["revisions"][0]["before"]
    if found["revisions"][0]["ended"] == "revised":
        assert "revision" in stages
