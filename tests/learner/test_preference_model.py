"""A taste is found from few comparisons, whichever of the things a person can see it is about."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from learner.backbone import Backbone
from learner.batch import Pair
from learner.methods import preference_model
from learner.methods.preference_model import Described, PreferenceModel, _newest_of_each_prompt, fit_preferences
from service.adapters.text_features import words
from service.settings import LearnerSettings
from tests.learner.likings import LIKINGS, PROMPT, comparisons, replies
from tests.learner.tiny_model import build_tiny_model, ids


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(build_tiny_model(tmp_path_factory.mktemp("tiny")), LearnerSettings(rank=4))


@pytest.mark.parametrize("name", LIKINGS)
def test_a_taste_carries_over_to_new_replies(backbone: Backbone, name: str) -> None:
    judge = fit_preferences(backbone, comparisons(LIKINGS[name], 150, seed=1))
    accuracy = judge.accuracy(comparisons(LIKINGS[name], 300, seed=2))
    assert accuracy is not None
    assert accuracy > 0.85
    assert judge.fit.log_score > -0.69


def test_leave_one_out_foretells_the_accuracy_on_new_pairs(backbone: Backbone) -> None:
    judge = fit_preferences(backbone, comparisons(LIKINGS["short"], 100, seed=3))
    held_out = judge.accuracy(comparisons(LIKINGS["short"], 300, seed=4))
    assert held_out is not None
    assert judge.fit.accuracy == pytest.approx(held_out, abs=0.1)


def test_coin_flips_teach_next_to_nothing(backbone: Backbone) -> None:
    rng = Random(5)
    pairs = comparisons(lambda text: rng.random(), 120, seed=5)
    judge = fit_preferences(backbone, pairs)
    assert judge.fit.accuracy < 0.65
    spread = judge.score([(PROMPT, ids(text, end=True)) for text in replies(100, 6)]).std()
    assert spread < 1.0


def test_the_commonest_words_count_where_there_are_too_many_and_no_endless_one() -> None:
    endless = "x" * 101
    texts = ["a b c d", "a b c", f"a b {endless}", f"a c e {endless} {endless}"]
    raw = Described([(text, len(text.split())) for text in texts], {})
    found = preference_model._vocabulary(raw, words, most=2)
    assert found.names == ("a", "b")  # c is as common as b
    assert found.find(raw).tolist() == [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]


def test_one_prompt_with_many_pairs_leaves_room_for_the_others() -> None:
    many = [Pair((1,), (index,), (0,)) for index in range(50)]
    few = [Pair((2,), (index,), (0,)) for index in range(3)]
    kept = _newest_of_each_prompt([*few, *many], 10)
    assert kept == [*few, *many[-7:]]
    assert _newest_of_each_prompt(few, 10) == few


def test_ties_alone_teach_nothing(backbone: Backbone) -> None:
    pairs = [Pair(p.prompt_token_ids, p.chosen, p.rejected, tie=True) for p in comparisons(LIKINGS["short"], 40, 7)]
    judge = fit_preferences(backbone, pairs)
    scores = judge.score([(PROMPT, ids(text, end=True)) for text in replies(50, 8)])
    assert scores.abs().max() < 1e-6
    assert judge.fit.decided == 0


def test_the_order_of_a_tie_does_not_matter(backbone: Backbone) -> None:
    pairs = comparisons(LIKINGS["asks"], 60, seed=9)
    turned = [
        Pair(p.prompt_token_ids, p.rejected, p.chosen, tie=True) if p.tie else p for p in pairs
    ]  # fmt: skip
    examples = [(PROMPT, ids(text, end=True)) for text in replies(20, 10)]
    first, second = fit_preferences(backbone, pairs), fit_preferences(backbone, turned)
    torch.testing.assert_close(first.score(examples), second.score(examples), atol=1e-2, rtol=1e-2)


def test_one_comparison_is_enough_to_fit_and_none_to_score(backbone: Backbone) -> None:
    judge: PreferenceModel = fit_preferences(backbone, comparisons(LIKINGS["short"], 1, seed=11))
    assert judge.score([]).shape == (0,)
    assert judge.accuracy([]) is None
    assert torch.isfinite(judge.score([(PROMPT, ids("yes", end=True)), (PROMPT, ids("", end=True))])).all()


def test_the_fit_is_the_same_each_time(backbone: Backbone, tmp_path: Path) -> None:
    pairs = comparisons(LIKINGS["short"], 40, seed=12)
    examples = [(PROMPT, ids(text, end=True)) for text in replies(20, 13)]
    assert torch.equal(
        fit_preferences(backbone, pairs).score(examples), fit_preferences(backbone, pairs).score(examples)
    )
