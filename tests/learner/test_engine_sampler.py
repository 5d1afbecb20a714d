"""Replies from an engine: what is asked of it, and that a training waits, goes on and cleans up when it goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from learner import passing, patience
from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.engine_client import EngineClient
from learner.engine_sampler import EngineSampler
from learner.methods import ppo, raft
from learner.passing import clear_leftovers
from learner.sampling import Reply
from learner.stage_checkpoint import StageCheckpoint
from service.adapters.engine import EngineBrokeOff
from service.errors import EngineAway, EngineUnavailable, TrainingFailed
from service.settings import LearnerSettings, RaftSettings
from service.store.queries.adapters import number_of
from tests.learner.pretend_engine import PretendEngine, PretendEngines
from tests.learner.test_ppo import PROMPTS, TOY, Liking
from tests.learner.test_raft import Counting
from tests.learner.test_sft import Heard
from tests.learner.tiny_model import EOS


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, LearnerSettings(rank=4, alpha=8.0))


@pytest.fixture
def engine(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> PretendEngine:
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(patience, "TELL_SECONDS", 0.02)
    return PretendEngine(backbone)


def engines(home: Path, *pretend: PretendEngine, **terms: Any) -> PretendEngines:
    urls = tuple(f"http://engine-{number}" for number in range(len(pretend)))
    return PretendEngines(urls, home / "passing", slots=8, pretend=pretend, **{"wait_seconds": 20.0} | terms)


class Told:
    """Hears whether the sampler waits; calls `then` when it first does."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.waits, self._then = 0, then

    def __call__(self, waits: bool) -> None:
        self.waits += waits
        if waits and self.waits == 1:
            self._then()


def replies(sampler: EngineSampler, tell: Callable[[bool], None] | None = None) -> list[list[Reply]]:
    return sampler.sample(PROMPTS, per_prompt=3, max_new_tokens=6, seed=5, tell=tell or Told())


def test_replies_come_in_order_with_the_engines_log_probabilities(engine: PretendEngine, tmp_path: Path) -> None:
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7")
    rows = replies(sampler)
    assert [[reply.prompt for reply in row] for row in rows] == [[number] * 3 for number in range(len(PROMPTS))]
    asked = {tuple(body["prompt"]): body for body in engine.asked}
    assert set(asked) == set(PROMPTS)
    for row in rows:
        for reply in row:
            assert reply.log_probs is not None and len(reply.log_probs) == len(reply.token_ids) <= 6
            assert reply.log_prob == pytest.approx(sum(reply.log_probs))
            assert reply.ended == (reply.token_ids[-1] == EOS)
    body = engine.asked[0]
    fixed = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "n", "max_tokens", "logprobs")
    assert [body[name] for name in fixed] == [1.0, 1.0, -1, 0.0, 1.0, 3, 6, 0]
    assert body["return_token_ids"] and body["stop_token_ids"] == [EOS]
    assert len({one["seed"] for one in engine.asked}) == len(PROMPTS)


def test_the_same_seed_asks_for_the_same_and_each_round_has_a_name_of_its_own_that_is_gone_afterwards(
    engine: PretendEngine, tmp_path: Path
) -> None:
    terms = engines(tmp_path, engine)
    sampler = EngineSampler(engine.backbone, terms, "run_7")
    assert replies(sampler) == replies(sampler)
    replies(EngineSampler(engine.backbone, terms, "run_7"))  # another attempt at the same run
    assert len(set(engine.loads)) == 3 and all("run_7" in name for name in engine.loads)
    assert all(number_of(name) is None for name in engine.loads)  # no version's name: see service.routing
    assert not engine.held and not list(terms.folder.iterdir())


def test_an_engine_that_restarts_is_waited_for_and_asked_only_for_what_is_missing(
    engine: PretendEngine, tmp_path: Path
) -> None:
    def go_away(pretend: PretendEngine) -> None:
        if len(pretend.asked) == 2 and len(pretend.loads) == 1:
            pretend.away = True
            pretend.restart()

    def come_back() -> None:
        engine.away = False

    engine.fails = go_away
    told = Told(come_back)
    rows = replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"), told)
    assert told.waits and [len(row) for row in rows] == [3] * len(PROMPTS)
    assert len(engine.loads) == 2 and len(set(engine.loads)) == 1  # the same adapter, once more
    assert len(engine.asked) <= len(PROMPTS) + 2  # two had been answered, if their answers arrived
    assert not engine.held
    engine.loads.clear()
    engine.asked.clear()
    engine.fails = lambda pretend: None
    assert rows == replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_8"))


def test_an_engine_that_lost_the_adapter_in_between_gets_it_again(engine: PretendEngine, tmp_path: Path) -> None:
    def lose(pretend: PretendEngine) -> None:
        if len(pretend.loads) == 1 and len(pretend.asked) == 1:
            pretend.restart()

    engine.fails = lose
    assert replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"))
    assert len(engine.loads) == 2


def test_a_wait_has_an_end_which_says_what_is_kept(engine: PretendEngine, tmp_path: Path) -> None:
    engine.away = True
    terms, told = engines(tmp_path, engine, wait_seconds=0.2), Told()
    with pytest.raises(EngineUnavailable, match=r"waited 0\.2 s .*can't be reached.*What was learned before is kept"):
        replies(EngineSampler(engine.backbone, terms, "run_7"), told)
    assert told.waits > 1 and not list(terms.folder.iterdir())


def test_what_stops_the_training_takes_the_adapter_out(engine: PretendEngine, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(waits: bool) -> None:
        raise Stopped

    terms = engines(tmp_path, engine)
    with pytest.raises(Stopped):
        replies(EngineSampler(engine.backbone, terms, "run_7"), stop)
    assert engine.loads and not engine.held and not list(terms.folder.iterdir())


@pytest.mark.parametrize(("takes", "tells", "held"), [(2, None, 2), (99, None, 8), (99, 2, 2)])
def test_without_a_free_slot_it_waits_for_one_and_says_how_to_get_it(
    engine: PretendEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture, takes: int, tells: int | None, held: int
) -> None:
    """vLLM doesn't refuse, it would throw an adapter out: so they are counted, up to what the settings say (8), or the
    engine, where it has fewer."""
    engine.slots, engine.tells_slots = takes, tells
    engine.held = {f"v{number}": f"/adapters/v{number}" for number in range(1, held + 1)}

    def free_a_slot() -> None:
        del engine.held["v1"]

    told = Told(free_a_slot)
    assert replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"), told)
    assert told.waits and "raise engine.max_loras" in caplog.text.lower()
    assert "v2" in engine.held and "v1" not in engine.held


@pytest.mark.parametrize(("status", "words"), [(404, "no folder"), (400, "rank 4 is above"), (500, "no LoRA here")])
def test_an_engine_that_won_t_have_the_adapter_ends_the_run_with_its_words(
    engine: PretendEngine, tmp_path: Path, status: int, words: str
) -> None:
    engine.refuses = status, words
    with pytest.raises(TrainingFailed, match=f"{words} It needs .*passing under the same path"):
        replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"))


def test_an_engine_that_is_shutting_down_has_not_refused(engine: PretendEngine, tmp_path: Path) -> None:
    engine.refuses = 500, "the server is shutting down"
    told = Told(lambda: setattr(engine, "refuses", None))
    assert replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"), told) and told.waits


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


def test_a_request_that_another_engine_in_its_place_never_heard_of_is_asked_again(
    engine: PretendEngine, tmp_path: Path
) -> None:
    engine.goes_silent = True
    rows = replies(EngineSampler(engine.backbone, engines(tmp_path, engine, silence_seconds=0.05), "run_7"))
    assert [len(row) for row in rows] == [3] * len(PROMPTS) and len(engine.loads) == 2


def test_the_first_engine_that_is_well_is_taken(engine: PretendEngine, backbone: Backbone, tmp_path: Path) -> None:
    away = PretendEngine(backbone, away=True)
    told = Told()
    assert replies(EngineSampler(backbone, engines(tmp_path, away, engine), "run_7"), told)
    assert engine.loads and not away.loads and not told.waits


@pytest.mark.parametrize("drift", [0.3, -0.3])
def test_an_engine_that_answers_with_something_else_than_the_policy_is_found_out(
    engine: PretendEngine, tmp_path: Path, drift: float
) -> None:
    engine.drift = drift
    with pytest.raises(TrainingFailed, match=r"something else than the policy.* 0\.300 nats per token"):
        replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"))


@pytest.mark.parametrize("idle", [False, True])
def test_an_engine_that_answers_with_the_base_is_found_out_below_the_tolerance(
    engine: PretendEngine, tmp_path: Path, idle: bool
) -> None:
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in engine.backbone.trainable():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))
    engine.idle = idle
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine, tolerance=10.0), "run_7")
    if not idle:
        assert replies(sampler)
        return
    with pytest.raises(TrainingFailed, match="answers like the bare base"):
        replies(sampler)


def test_an_adapter_in_passing_can_be_read_by_whoever_the_engine_runs_as(engine: PretendEngine, tmp_path: Path) -> None:
    modes = set[int]()

    def look(pretend: PretendEngine) -> None:
        modes.update(file.stat().st_mode & 0o777 for path in pretend.held.values() for file in Path(path).iterdir())

    engine.fails = look
    replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"))
    assert modes == {0o644}


def test_an_engine_that_gives_no_token_ids_is_of_no_use(engine: PretendEngine, tmp_path: Path) -> None:
    engine.speaks = False
    with pytest.raises(TrainingFailed, match="no token ids"):
        replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"))


def test_an_engine_with_a_shorter_context_is_told_and_one_that_is_named_is_kept_to(
    engine: PretendEngine, tmp_path: Path
) -> None:
    engine.context = 48
    with pytest.raises(TrainingFailed, match=r"takes 48 tokens.*set engine.max_model_len = 48"):
        replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"))
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine, context=48), "run_7")
    assert sampler.max_length == 48
    sampler.sample([(5,) * 40], per_prompt=1, max_new_tokens=10, seed=0, tell=Told())
    assert (len(engine.asked[-1]["prompt"]), engine.asked[-1]["max_tokens"]) == (38, 10)


def test_what_a_killed_training_left_goes_when_the_next_begins(engine: PretendEngine, tmp_path: Path) -> None:
    terms = engines(tmp_path, engine)
    left = terms.folder / "passing-run_1-aa-3"
    left.mkdir(parents=True)
    (terms.folder / "passing-run_1-aa-4.partial").mkdir()
    others = {"v1": str(tmp_path / "v1"), "mine": "/elsewhere/passing/mine"}
    engine.held = {left.name: str(left), **others}
    clear_leftovers(terms)
    assert engine.held == others and not list(terms.folder.iterdir())
    engine.held["passing-run_1-aa-5"] = str(terms.folder / "passing-run_1-aa-5")  # it was away when that was done
    replies(EngineSampler(engine.backbone, terms, "run_7"))
    assert engine.held == others


def test_an_engine_that_is_away_keeps_no_training_from_its_start(engine: PretendEngine, tmp_path: Path) -> None:
    terms = engines(tmp_path, engine)
    (terms.folder / "passing-run_1-aa-3").mkdir(parents=True)
    engine.away = True
    clear_leftovers(terms)
    assert not list(terms.folder.iterdir())


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
        how = TOY.model_copy(update={"advantages": "rloo", "iterations": 3, "replies": 4})
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


def test_ppo_pauses_while_the_engine_is_away_and_ends_as_if_it_had_not_been(
    engine: PretendEngine, folder: Path, tmp_path: Path
) -> None:
    settings = TOY.model_copy(update={"iterations": 4, "replies": 4})
    found = []
    for restarts in (False, True):
        backbone = Backbone.load(folder, LearnerSettings(rank=4, alpha=8.0))
        pretend = PretendEngine(backbone)

        def go_away(pretend: PretendEngine, restarts: bool = restarts) -> None:
            if restarts and len(pretend.loads) == 3:
                pretend.away, pretend.fails = True, lambda engine: None
                pretend.restart()

        class Back(Heard):
            def __call__(self, phase: str, *rest: Any, pretend: PretendEngine = pretend) -> None:
                super().__call__(phase, *rest)
                if phase == "waiting for the engine":
                    pretend.away = False

        pretend.fails = go_away
        heard = Back()
        sampler = EngineSampler(backbone, engines(tmp_path, pretend), "run_7")
        result = ppo.train(backbone, Liking(backbone), PROMPTS, settings, heard, sampler=sampler)
        assert ("waiting for the engine" in {phase for phase, *_ in heard.steps}) == restarts
        assert result.metrics["importance"] == pytest.approx(1.0, abs=1e-4)
        found.append((result, {name: tensor.tolist() for name, tensor in backbone.adapter_state().items()}))
    assert json.dumps(found[0][1]) == json.dumps(found[1][1]) and found[0][0] == found[1][0]


def test_importance_is_far_from_one_where_another_policy_answered(engine: PretendEngine, tmp_path: Path) -> None:
    engine.drift = -0.5
    heard, terms = Heard(), engines(tmp_path, engine, tolerance=10.0)
    settings = TOY.model_copy(update={"iterations": 1, "importance_cap": 1.2})
    sampler = EngineSampler(engine.backbone, terms, "run_7")
    result = ppo.train(engine.backbone, Liking(engine.backbone), PROMPTS, settings, heard, sampler=sampler)
    assert result.metrics["importance_capped"] == 1.0 and result.metrics["importance"] == pytest.approx(1.2)
    assert result.metrics["engine_gap"] == pytest.approx(0.5, abs=1e-4)


def test_raft_takes_its_replies_from_the_engine_and_its_kl_from_the_trainer(
    engine: PretendEngine, tmp_path: Path
) -> None:
    engine.drift = 0.1
    settings = RaftSettings(iterations=3, prompts=4, replies=8, minibatch=4, learning_rate=1e-2, max_new_tokens=8)
    heard = Heard()
    sampler = EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7")
    result = raft.train(engine.backbone, Counting(), PROMPTS, settings, heard, sampler=sampler)
    assert len(engine.loads) == 3 and result.replies == 3 * 4 * 8
    first = next(metrics for *_, metrics in heard.steps if metrics)
    assert first["kl_per_reply"] == pytest.approx(0.0, abs=1e-4)  # the policy is still the anchor


@pytest.mark.parametrize("method", ["ppo", "raft"])
def test_a_training_that_is_killed_goes_on_from_the_engine_s_replies_and_comes_to_the_same(
    folder: Path, tmp_path: Path, method: str
) -> None:
    small = {"iterations": 4, "replies": 4, "minibatch": 8, "max_new_tokens": 6}
    found, asked = [], []

    class Dying(Heard):
        def __call__(self, phase: str, step: int, *rest: Any) -> None:
            super().__call__(phase, step, *rest)
            if step == 5:
                raise KeyboardInterrupt

    def learn(heard: Heard, checkpoint: StageCheckpoint) -> None:
        backbone = Backbone.load(folder, LearnerSettings(rank=4, alpha=8.0))
        pretend = PretendEngine(backbone)
        sampler = EngineSampler(backbone, engines(tmp_path, pretend), "run_7")
        try:
            if method == "ppo":
                how = TOY.model_copy(update=small)
                ppo.train(backbone, Counting(), PROMPTS, how, heard, sampler=sampler, checkpoint=checkpoint)
            else:
                how_too = RaftSettings.model_validate(small)
                raft.train(backbone, Counting(), PROMPTS, how_too, heard, sampler=sampler, checkpoint=checkpoint)
        finally:
            asked.append(len(pretend.loads))
        found.append(backbone.adapter_state())

    learn(Heard(), StageCheckpoint())
    with pytest.raises(KeyboardInterrupt):
        learn(Dying(), StageCheckpoint(tmp_path / "it", "this"))
    learn(Heard(), StageCheckpoint(tmp_path / "it", "this"))
    assert asked[0] == 4 and 0 < asked[2] < 4
    for name, weights in found[0].items():
        assert torch.equal(found[1][name], weights), name
