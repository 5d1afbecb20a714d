"""The preference stage moves the policy towards what people like, and stops where sense would suffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from learner.backbone import Backbone
from learner.batch import Pair
from learner.evaluate.agreement import words
from learner.methods import preference, strength
from learner.methods.anchor_scores import AnchorScores
from learner.methods.answers import Answer
from learner.methods.groups import draw_group, listwise
from learner.methods.preference_model import Fit, fit_preferences
from learner.methods.rollouts import (
    BROKEN,
    CONSENSUS,
    Rollouts,
    roll_out,
    share_preferred,
)
from learner.methods.strength import LEAST_SCALE, LOST_ANSWERS, hold_inside_limits
from learner.sampling import sample
from learner.tensors import pull_to_anchor
from service.settings import LearnerSettings
from tests.learner.likings import LIKINGS, comparisons
from tests.learner.progress import Heard
from tests.learner.tiny_backbone import moved
from tests.learner.tiny_model import EOS, WORDS, ids

SETTINGS = LearnerSettings(rank=8, alpha=16.0, dpo_learning_rate=2e-2, dpo_epochs=6, min_fluency=-2.0)
PROMPTS = [ids(f"<bos> {a} {b} ?") for a in ("one", "two", "three", "four") for b in ("blue", "red", "green", "paris")]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ITERATIONS": 2, "PROMPTS": 16, "CHECKED_PROMPTS": 16}.items():
        monkeypatch.setattr(preference, name, value)
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 16)


@pytest.mark.usefixtures("quick")
def test_the_policy_learns_to_say_what_is_liked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference, "ITERATIONS", 4)
    monkeypatch.setattr(strength, "CHECKED_REPLIES", 32)  # 512 in all: a standard error of two points
    backbone, heard = Backbone.load(folder, SETTINGS), Heard()
    liked = set(WORDS[6:25])
    pairs = comparisons(lambda text: sum(word in liked for word in text.split()) / len(text.split()), 120, seed=1)
    result = preference.train(backbone, pairs, PROMPTS, SETTINGS, heard)
    assert result.metrics["share_won"] > 0.54
    assert [step for _, step, _, _ in heard.steps] == list(range(result.steps + 1))
    assert {"loss", "listwise", "dpo", "fluency", "strength", "skipped"} <= set(heard.steps[-1][3])
    judge = fit_preferences(backbone, pairs)
    own, base = (roll_out(backbone, judge, PROMPTS, 32, role, 77) for role in ("policy", "base"))
    assert share_preferred(own.grades, base.grades) > 0.54


@pytest.mark.usefixtures("quick")
def test_the_same_seed_gives_the_same_adapter(folder: Path) -> None:
    states = []
    for _ in range(2):
        backbone = Backbone.load(folder, SETTINGS)
        preference.train(backbone, comparisons(LIKINGS["asks"], 30, seed=2), PROMPTS[:6], SETTINGS, Heard())
        states.append(backbone.adapter_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.usefixtures("quick")
def test_ties_alone_change_nothing_and_long_pairs_are_counted(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    ties = [replace(pair, tie=True) for pair in comparisons(LIKINGS["short"], 5, seed=3)]
    long = Pair(PROMPTS[0], ids("one " * 80), ids("two", end=True))
    result = preference.train(backbone, [*ties, long], PROMPTS, SETTINGS, Heard())
    assert (result.steps, result.pairs, result.too_long) == (0, 5, 1)
    assert preference.train(backbone, [], [], SETTINGS, Heard()).steps == 0
    torch.testing.assert_close(
        backbone.score([(PROMPTS[0], (5, EOS))], "policy"), backbone.score([(PROMPTS[0], (5, EOS))], "base")
    )


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("wanted", "iterations"), [(0.0, 3), (1.1, 4)])
def test_it_goes_on_while_it_wins_less_than_is_wanted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wanted: float, iterations: int
) -> None:
    monkeypatch.setattr(preference, "WANTED_WON", wanted)
    monkeypatch.setattr(preference, "MOST_ITERATIONS", 3)
    heard, backbone = Heard(), Backbone.load(folder, SETTINGS)
    settings = SETTINGS.model_copy(update={"dpo_epochs": 1})
    result = preference.train(backbone, comparisons(LIKINGS["asks"], 20, seed=2), PROMPTS[:8], settings, heard)
    per_iteration = -(-min(16, 8 + len({p.prompt_token_ids for p in comparisons(LIKINGS["asks"], 20, seed=2)})) // 8)
    assert result.steps == iterations * per_iteration


def test_an_iteration_moves_the_policy_from_where_it_was_sampled(folder: Path) -> None:
    """Where nothing is preferred it has nothing to learn, however far from the base it is already."""
    backbone = moved(Backbone.load(folder, SETTINGS), size=0.5)
    sampled = roll_out(backbone, None, PROMPTS[:4], 4, "policy", seed=3)
    assert not torch.allclose(sampled.policy, sampled.anchor, atol=0.1)
    right = dict.fromkeys(PROMPTS, Answer())
    groups = [draw_group(sampled, right, torch.zeros(4, 4), index, Random(0)) for index in range(4)]
    _, metrics = listwise(backbone, 0.0, groups)
    assert metrics["listwise"] == pytest.approx(0.0, abs=1e-5)


def test_an_adapter_that_went_too_far_is_held_back(folder: Path) -> None:
    strict = LearnerSettings(rank=8, alpha=16.0, min_fluency=-0.3)
    backbone = moved(Backbone.load(folder, strict), size=0.5)
    judge = fit_preferences(backbone, comparisons(LIKINGS["short"], 30, seed=4))
    before = backbone.adapter_state()
    scale, _ = hold_inside_limits(backbone, judge, PROMPTS[:6], strict)
    assert scale < 1
    name = next(name for name in before if "lora_B" in name)
    torch.testing.assert_close(backbone.adapter_state()[name], before[name] * scale)


def test_an_adapter_that_forgets_what_the_base_answers_is_held_back(folder: Path) -> None:
    """Whatever its replies win, and however fluent they are."""
    loose = LearnerSettings(rank=8, alpha=16.0, min_fluency=-50.0, max_kl_per_token=50.0)
    backbone = moved(Backbone.load(folder, loose), size=0.5)
    replies = sample(backbone, PROMPTS, role="base", temperature=0.0)
    texts = backbone.decode([reply.token_ids for (reply,) in replies])
    known = {prompt: Answer(words(text), firm=True) for prompt, text in zip(PROMPTS, texts, strict=True)}
    scale, measured = hold_inside_limits(backbone, None, PROMPTS[:6], loose, known)
    assert scale < 1 and measured["full_answers_lost"] > LOST_ANSWERS
    moved_by_nothing = Backbone.load(folder, loose)
    scale, measured = hold_inside_limits(moved_by_nothing, None, PROMPTS[:6], loose, known)
    assert scale == 1 and measured["answers_lost"] == 0
    backbone = moved(Backbone.load(folder, loose), size=0.5)
    scale, measured = hold_inside_limits(backbone, None, PROMPTS[:6], loose, dict.fromkeys(PROMPTS, Answer()))
    assert scale == 1 and "answers_lost" not in measured  # nothing was asked


def test_a_policy_that_won_enough_before_is_held_back_to_what_it_was(folder: Path) -> None:
    strict = LearnerSettings(rank=8, alpha=16.0, min_fluency=-50.0, max_kl_per_token=1e-6)
    backbone = moved(Backbone.load(folder, strict), size=0.5)
    end = backbone.adapter_state()
    start = {name: 0.9 * one for name, one in end.items()}
    scale, measured = hold_inside_limits(backbone, None, PROMPTS[:6], strict, start=start)
    assert scale == 0 and measured["full_kl_per_token"] > measured["kl_per_token"] > 0
    assert all(torch.equal(one, start[name]) for name, one in backbone.adapter_state().items())


@pytest.mark.usefixtures("quick")
def test_a_parent_that_wins_enough_gets_one_gentle_round(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = comparisons(LIKINGS["short"], 40, seed=2)
    Backbone.load(folder, SETTINGS).save_adapter(tmp_path / "parent")

    def steps(wanted: float) -> int:
        monkeypatch.setattr(preference, "WANTED_WON", wanted)
        backbone = Backbone.load(folder, SETTINGS, tmp_path / "parent")
        return preference.train(backbone, pairs, PROMPTS, SETTINGS, Heard()).steps

    asked = len({*PROMPTS, *(pair.prompt_token_ids for pair in pairs)})
    one_round, all_rounds = steps(0.0), steps(1.1)
    assert one_round <= SETTINGS.dpo_epochs * -(-asked // preference.GROUPS_PER_STEP)
    assert all_rounds > preference.MOST_ITERATIONS * SETTINGS.dpo_epochs * 16 // preference.GROUPS_PER_STEP


def test_a_sound_adapter_keeps_its_strength(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    judge = fit_preferences(backbone, comparisons(LIKINGS["short"], 30, seed=4))
    scale, measured = hold_inside_limits(backbone, judge, PROMPTS[:6], SETTINGS)
    assert scale == 1
    assert measured["kl_per_token"] == pytest.approx(0, abs=1e-4)


def test_an_adapter_that_wins_more_than_enough_is_held_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strength, "ENOUGH_WON", 0.0)
    backbone = Backbone.load(folder, SETTINGS)
    judge = fit_preferences(backbone, comparisons(LIKINGS["short"], 30, seed=4))
    scale, _ = hold_inside_limits(backbone, judge, PROMPTS[:6], SETTINGS)
    assert scale == LEAST_SCALE


def some_rollouts(**changes: torch.Tensor) -> Rollouts:
    whole = Rollouts(
        prompts=((3,),),
        replies=(((5, EOS), (6, 7, EOS), (EOS,)),),
        grades=torch.tensor([[2.0, 0.0, 9.0]]),
        anchor=torch.tensor([[-2.0, -9.0, -1.0]]),
        policy=torch.tensor([[-1.0, -9.0, -1.0]]),
        sizes=torch.tensor([[2, 3, 1]]),
        empty=torch.tensor([[False, False, True]]),
        cut=torch.tensor([[False, False, False]]),
        agreed=torch.tensor([[1.0, 0.0, 1.0]]),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]  # the tests name tensors alone


FIRST = 2.0 / 0.5 + CONSENSUS + 0.1 * (-2.0 + 2 * 2)
SECOND = 0.0 + 0.0 + 0.1 * (-9.0 + 2 * 3)


def test_replies_are_told_apart_by_the_answer_they_hold(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    judge = fit_preferences(backbone, comparisons(LIKINGS["short"], 10, seed=4))
    bound = {PROMPTS[0]: Answer(frozenset({"nowhere"})), PROMPTS[1]: Answer()}
    rollouts = roll_out(backbone, judge, PROMPTS[:2], 3, "base", 5, bound)
    assert rollouts.agreed.tolist() == [[0.0] * 3, [1.0] * 3]


def test_utilities_by_hand() -> None:
    utilities = some_rollouts().utilities(temperature=0.5, strength=0.1, least=-2.0)
    torch.testing.assert_close(utilities, torch.tensor([[FIRST, SECOND, SECOND - BROKEN]]))


def test_a_cut_reply_loses_the_more_the_rarer_that_is() -> None:
    cut = torch.tensor([[True, False, False]])
    utilities = some_rollouts(cut=cut).utilities(temperature=0.5, strength=0.1, least=-2.0)
    assert utilities[0, 0].item() == pytest.approx(FIRST - BROKEN * 2 / 3, abs=1e-5)
    every = some_rollouts(cut=~torch.zeros_like(cut), empty=torch.zeros_like(cut))
    usual = some_rollouts(empty=torch.zeros_like(cut))
    torch.testing.assert_close(every.utilities(0.5, 0.1, -2.0), usual.utilities(0.5, 0.1, -2.0))


def test_rollouts_figures_by_hand() -> None:
    assert some_rollouts().fluency == pytest.approx(-12 / 6)
    assert some_rollouts().kl_per_token == pytest.approx(1 / 6)


def test_replies_that_are_all_empty_have_even_odds() -> None:
    utilities = some_rollouts(empty=torch.ones(1, 3, dtype=torch.bool)).utilities(1.0, 0.1, -2.0)
    assert utilities.tolist() == [[-BROKEN] * 3]


def test_share_preferred_leaves_ties_out() -> None:
    assert share_preferred(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.5]])) == pytest.approx(2 / 3)
    assert share_preferred(torch.ones(2, 2), torch.ones(2, 2)) == 0.5


def test_the_pull_to_the_anchor_is_least_at_the_anchor_and_sharper_with_sharpening() -> None:
    generator = torch.Generator().manual_seed(2)
    anchor = torch.randn(6, 9, generator=generator)
    here, _ = pull_to_anchor(anchor, anchor, stay=1.0, sharpen=0.0)
    away, _ = pull_to_anchor(anchor + torch.randn(6, 9, generator=generator), anchor, stay=1.0, sharpen=0.0)
    assert here.item() == pytest.approx(0, abs=1e-6)
    assert away > 0.01
    plain, _ = pull_to_anchor(anchor, anchor, stay=0.0, sharpen=1.0)
    sharper, _ = pull_to_anchor(anchor * 3, anchor, stay=0.0, sharpen=1.0)
    assert sharper < plain
    assert pull_to_anchor(anchor[:0], anchor[:0], 1.0, 1.0)[0].item() == 0


def test_mistaken_comparisons_are_smoothed_as_the_settings_say(folder: Path) -> None:
    backbone = moved(Backbone.load(folder, SETTINGS))
    pairs = comparisons(lambda text: float(len(text)), 6, seed=2)
    plain, conservative, robust = (
        preference.dpo(backbone, SETTINGS.model_copy(update=update), AnchorScores(backbone), pairs)[0].item()
        for update in ({}, {"dpo_label_smoothing": 0.2}, {"dpo_label_smoothing": 0.2, "dpo_robust": True})
    )
    # With l(z) and l(-z) the costs of a pair and of the same pair turned round, as in the docstring of the loss:
    turned = (conservative - 0.8 * plain) / 0.2
    assert abs(turned - plain) > 1e-3
    assert robust == pytest.approx((0.8 * plain - 0.2 * turned) / 0.6, rel=1e-4)


def test_a_stop_comes_through(folder: Path) -> None:
    def stop(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preference.train(
            Backbone.load(folder, SETTINGS), comparisons(LIKINGS["short"], 10, 5), PROMPTS[:4], SETTINGS, stop
        )


class Judge:
    """As much of a preference model as `_trust` looks at."""

    def __init__(self, accuracy: float, decided: int) -> None:
        self.fit = Fit(log_score=0.0, accuracy=accuracy, decided=decided, spread=1.0, scales={})


@pytest.mark.parametrize(
    ("accuracy", "decided", "low", "high"),
    [
        (1.0, 100, 1.0, 1.0),
        (0.5, 100, 0.01, 0.01),
        (0.65, 1000, 0.4, 0.6),
        (1.0, 2, 0.01, 0.1),
        (1.0, 20, 0.99, 1.0),
        (0.0, 50, 0.01, 0.01),
    ],
)
def test_a_judge_is_trusted_as_far_as_it_has_shown(accuracy: float, decided: int, low: float, high: float) -> None:
    trust = preference._trust(Judge(accuracy, decided))  # type: ignore[arg-type]  # as much of it as is looked at
    assert low <= trust <= high
