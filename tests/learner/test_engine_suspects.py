"""What an engine may have died of: a prompt that is left out, an adapter that ends the run, or nothing of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import httpx2
import pytest

from learner import passing
from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.engine_client import EngineClient
from learner.engine_sampler import EngineSampler
from learner.methods import ppo, raft
from learner.sampling import Reply
from service.adapters.engine import EngineBrokeOff
from service.errors import EngineAway, TrainingFailed
from service.settings import RaftSettings
from tests.learner.engine_sampling import Told, engines, replies
from tests.learner.engine_sampling import backbone as backbone
from tests.learner.engine_sampling import engine as engine
from tests.learner.pretend_engine import PretendEngine
from tests.learner.progress import Heard
from tests.learner.toy_rewards import PROMPTS, TOY_PPO, Counting, Liking


@pytest.mark.parametrize("count", [1, 3])
def test_an_adapter_that_two_engines_or_one_twice_die_loading_ends_the_run(
    engine: PretendEngine, backbone: Backbone, tmp_path: Path, count: int
) -> None:
    pretend = [engine, PretendEngine(backbone), PretendEngine(backbone)][:count]
    for one in pretend:
        one.dies_loading = 9
        one.held = {"v1": "/adapters/v1"}
    terms = engines(tmp_path, *pretend)
    where = "http://engine-0" if count == 1 else "http://engine-0 and http://engine-1"
    with pytest.raises(TrainingFailed, match=rf"2 times while they loaded .* \(at {where}\).*See the engine's log"):
        replies(EngineSampler(backbone, terms, "run_7"))
    assert [9 - one.dies_loading for one in pretend] == ([2] if count == 1 else [1, 1, 0])
    assert not list(terms.folder.iterdir())


def test_an_engine_that_dies_once_while_it_loads_gets_the_adapter_again(engine: PretendEngine, tmp_path: Path) -> None:
    """In each round: what engines went away over in another one, with other weights, says nothing of these."""
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7")
    for _ in range(3):
        engine.dies_loading = 1
        assert replies(sampler)


def test_an_engine_whose_answers_to_loads_are_lost_has_not_died_of_them(engine: PretendEngine, tmp_path: Path) -> None:
    engine.dies_loading, engine.is_slow = 4, True

    def lose(pretend: PretendEngine) -> None:
        if len(pretend.loads) < 3 and len(pretend.asked) >= len(pretend.loads):
            pretend.restart()

    engine.fails = lose
    assert replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"))
    assert len(engine.loads) == 3


ASKED = [(0, word) for word in range(5, 17)]  # more than are under way at once
DEADLY = ASKED[3]


def replies_to(sampler: EngineSampler, prompts: Sequence[TokenIds] = ASKED) -> list[list[Reply]]:
    return sampler.sample(prompts, per_prompt=2, max_new_tokens=4, seed=5, tell=Told())


def test_a_prompt_that_engines_die_over_is_found_among_those_beside_it_and_asked_no_more(
    engine: PretendEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.deadly = (DEADLY,)
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7")
    rows = replies_to(sampler)
    assert [len(row) for row in rows] == [2 * (prompt != DEADLY) for prompt in ASKED] and sampler.left_out == 1
    among, alone = engine.died_over
    assert DEADLY in among and len(among) == passing.AT_ONCE and alone == {DEADLY}
    (word,) = engine.backbone.decode([DEADLY])
    assert f"A prompt is left out, over which engines went away 2 times: …{word}" in caplog.text
    assert replies_to(sampler)[3] == [] and len(engine.died_over) == 2
    assert not engine.held


def test_a_later_attempt_asks_for_none_that_was_left_out(
    engine: PretendEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.deadly, kept = (DEADLY,), tmp_path / "suspects.json"
    terms = engines(tmp_path, engine)
    replies_to(EngineSampler(engine.backbone, terms, "run_7", kept))
    assert len(engine.died_over) == 2
    later = EngineSampler(engine.backbone, terms, "run_7", kept)
    assert later.left_out == 1
    assert [index for index, row in enumerate(replies_to(later)) if not row] == [3] and len(engine.died_over) == 2
    engine.deadly = (DEADLY, ASKED[5])
    with pytest.raises(TrainingFailed, match=r"over 2 of 12 prompts"):
        replies_to(EngineSampler(engine.backbone, terms, "run_7", kept), ASKED[4:8])
    kept.write_text('{"left_out": [[')
    assert EngineSampler(engine.backbone, terms, "run_7", kept).left_out == 0
    assert "is of no use, so prompts that engines went away over are asked again" in caplog.text


def test_a_file_of_suspects_that_can_not_be_written_costs_the_training_nothing(
    engine: PretendEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.deadly = (DEADLY,)
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7", tmp_path / "gone" / "suspects.json")
    assert len(replies_to(sampler)) == len(ASKED) and sampler.left_out == 1
    assert "suspects.json can't be written, so a later attempt asks these prompts again" in caplog.text


def test_a_prompt_that_an_engine_fails_at_and_survives_is_left_out_too(engine: PretendEngine, tmp_path: Path) -> None:
    answer = PretendEngine.answer

    def fail(self: PretendEngine, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/completions" and tuple(json.loads(request.content)["prompt"]) == DEADLY:
            return httpx2.Response(500, json={"error": {"message": "no kernel for this"}})
        return answer(self, request)

    engine.answer = partial(fail, engine)  # type: ignore[method-assign]  # of this one alone
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7")
    assert [index for index, row in enumerate(replies_to(sampler)) if not row] == [3] and len(engine.loads) == 1


def test_an_engine_that_dies_of_something_else_leaves_no_prompt_out(engine: PretendEngine, tmp_path: Path) -> None:
    """Not even where it happens to the same ones again: an answer in between has cleared them."""
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7")
    for _ in range(3):
        engine.requests, engine.dies_at = 0, (4,)
        assert [len(row) for row in replies_to(sampler)] == [2] * len(ASKED)
    assert len(engine.died_over) == 3 and sampler.left_out == 0


def test_where_engines_die_over_many_prompts_the_run_ends_with_the_reason(
    engine: PretendEngine, tmp_path: Path
) -> None:
    engine.deadly = tuple(ASKED)
    terms = engines(tmp_path, engine)
    with pytest.raises(TrainingFailed, match=r"again and again .* over 2 of 12 prompts.*See the engine's log"):
        replies_to(EngineSampler(engine.backbone, terms, "run_7"))
    assert len(engine.died_over) == 3 and not list(terms.folder.iterdir())
    with pytest.raises(TrainingFailed, match="nothing to learn from: engines went away over every prompt"):
        replies_to(EngineSampler(engine.backbone, terms, "run_7"), ASKED[:1])


@pytest.mark.parametrize("method", ["ppo", "raft"])
def test_what_is_left_out_is_in_the_result_and_the_metrics_of_a_training_that_goes_on(
    engine: PretendEngine, tmp_path: Path, method: str
) -> None:
    engine.deadly, heard = (PROMPTS[1],), Heard()
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7")
    result: ppo.PpoResult | raft.RaftResult
    if method == "ppo":
        how = TOY_PPO.model_copy(update={"advantages": "rloo", "iterations": 3, "replies": 4})
        result = ppo.train(engine.backbone, Liking(engine.backbone), PROMPTS, how, heard, sampler=sampler)
    else:
        so = RaftSettings(iterations=3, prompts=4, replies=4, minibatch=4, max_new_tokens=8)
        result = raft.train(engine.backbone, Counting(), PROMPTS, so, heard, sampler=sampler)
    assert (result.left_out, result.too_long, result.replies) == (1, 0, 3 * 3 * 4)
    assert result.metrics["left_out"] == 1 and len(engine.died_over) == 2


@pytest.mark.parametrize(
    ("answer", "is_to_blame"),
    [
        (httpx2.ConnectError("refused"), False),
        (httpx2.ConnectTimeout("nobody"), False),
        (httpx2.ReadError("reset"), True),
        (httpx2.RemoteProtocolError("cut"), True),
        (httpx2.Response(503, text="no upstream"), False),
        (httpx2.Response(500, json={"error": {"message": "EngineDeadError"}}), True),
        (httpx2.Response(200, json={"choices": [{"index": 0, "finish_reason": "abort"}]}), False),
    ],
)
def test_what_was_asked_may_be_why_an_engine_went_away_only_where_it_had_heard_it(
    answer: httpx2.Response | httpx2.HTTPError, is_to_blame: bool
) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        if isinstance(answer, httpx2.HTTPError):
            raise answer
        return answer

    async def complete() -> None:
        async with EngineClient("http://engine", 5.0, httpx2.MockTransport(respond)) as client:
            await client.complete({"model": "passing", "prompt": [1]})

    with pytest.raises(EngineAway) as raised:
        asyncio.run(complete())
    assert isinstance(raised.value, EngineBrokeOff) == is_to_blame


@pytest.mark.parametrize(
    ("status", "words", "is_to_blame"),
    [(500, "EngineDeadError", True), (500, "the server is shutting down", False), (503, "no upstream", False)],
)
def test_an_adapter_may_be_why_an_engine_is_not_well_unless_that_was_told_to_stop(
    status: int, words: str, is_to_blame: bool
) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, json={"error": {"message": words}})

    async def load() -> None:
        async with EngineClient("http://engine", 5.0, httpx2.MockTransport(respond)) as client:
            await client.load("passing", Path("/passing"))

    with pytest.raises(EngineAway) as raised:
        asyncio.run(load())
    assert isinstance(raised.value, EngineBrokeOff) == is_to_blame
