"""Replies from an engine: what is asked of it, and that a training waits, goes on and cleans up when it goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.backbone import Backbone
from learner.engine_sampler import EngineSampler
from learner.passing import clear_leftovers
from service.errors import EngineUnavailable, TrainingFailed
from service.store.queries.adapters import number_of
from tests.learner.engine_sampling import Told, engines, replies
from tests.learner.engine_sampling import backbone as backbone
from tests.learner.engine_sampling import engine as engine
from tests.learner.pretend_engine import PretendEngine
from tests.learner.tiny_model import EOS
from tests.learner.toy_rewards import PROMPTS


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
    with pytest.raises(TrainingFailed, match=rf"{words}\. It needs .*passing under the same path"):
        replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"))


def test_an_engine_that_is_shutting_down_has_not_refused(engine: PretendEngine, tmp_path: Path) -> None:
    engine.refuses = 500, "the server is shutting down"
    told = Told(lambda: setattr(engine, "refuses", None))
    assert replies(EngineSampler(engine.backbone, engines(tmp_path, engine), "run_7"), told) and told.waits


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
