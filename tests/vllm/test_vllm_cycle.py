"""One whole learning cycle with vLLM as the engine: corrected, learned, proven in bfloat16, live, served, stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from learner.pretrain.questions import is_right, untaught_facts
from learner.simulate.people import right_reply
from service.settings import RolloutSettings
from service.store.queries.exchanges import get_exchange
from service.store.session import Store
from tests.embedded.serving import parse_event
from tests.engine_contract.asking import CHAT, gap, scores
from tests.fixtures.engines import ServedEngine
from tests.loop.town import Town, town

pytestmark = [pytest.mark.vllm, pytest.mark.loop, pytest.mark.xdist_group("vllm")]


@pytest.fixture(scope="module")
def place(vllm_engine: ServedEngine) -> Iterator[Town]:
    with town(HONE_ENGINE__URL=vllm_engine.url) as running:
        yield running
    for model in vllm_engine.models():
        if model["parent"] is not None:
            vllm_engine.unload(model["id"])


def test_a_correction_is_learned_proven_and_served_by_vllm(place: Town, vllm_engine: ServedEngine) -> None:
    fact = next(fact for fact in untaught_facts(seed=3) if not is_right(fact, place.says(fact.text)))
    place.correct(fact.text, right_reply(fact))
    run = place.until_over(place.learn_now())
    assert run["state"] == "succeeded", run["message"]
    adapter = run["adapter"]
    place.until_live(adapter)

    answer = place.chat(fact.text, user="bob")
    said = answer["choices"][0]["message"]["content"]
    assert answer["system_fingerprint"] == adapter and is_right(fact, said)
    assert not is_right(fact, place.says(fact.text, model="hone:base"))
    assert adapter in [model["id"] for model in vllm_engine.models() if model["parent"] == "sprout"]
    body = {"model": adapter, "messages": [{"role": "user", "content": fact.text}], "temperature": 0}
    assert vllm_engine.post(CHAT, body).json()["choices"][0]["message"]["content"] == said

    history = " ".join(event["reason"] for event in place.get(f"/v1/adapters/{adapter}")["history"])
    proof = re.search(r"agree within (\d\.\d+) nats .* differ by (\d\.\d+)", history)
    assert proof is not None, history
    agreement, difference = map(float, proof.groups())
    assert agreement < RolloutSettings().probe_tolerance < difference, proof.group()
    _check_stored(place, vllm_engine, answer["id"], adapter)


def _check_stored(place: Town, engine: ServedEngine, exchange_id: str, adapter: str) -> None:
    """Token by token, with the log-probabilities that vLLM gives under the adapter, streamed or not."""
    body = {"model": "hone", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    with place.http.stream("POST", CHAT, json=body) as response:
        events = [parse_event(line) for line in response.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    streamed = events[0]["id"]
    with closing(Store.open(f"sqlite:///{place.home / 'hone.db'}", checkpoints=False)) as store, store.read() as tx:
        for kept in (get_exchange(tx, exchange_id), get_exchange(tx, streamed)):
            assert kept is not None and kept.adapter == adapter
            [reply] = kept.replies
            assert kept.prompt_token_ids and len(reply.token_ids) == len(reply.logprobs) > 1
            rescored = scores(engine, adapter, [*kept.prompt_token_ids, *reply.token_ids])
            assert gap(reply.logprobs, rescored[-len(reply.token_ids) :]) < engine.close_to
