"""A reward model learns what people like, says how sure it is, and keeps what belongs together together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Label, Pair, Scored, Sequences, TokenIds
from learner.methods import reward, reward_model, rlhf
from learner.methods.bagging import NATS_PER_POINT
from learner.methods.reward_model import Cautious, RewardFit, RewardModel
from service.errors import TrainingFailed
from service.settings import LearnerSettings
from tests.learner.colours import COLOURS, asked, comparisons, said
from tests.learner.progress import Heard
from tests.learner.tiny_model import ids

SETTINGS = LearnerSettings(rank=4, alpha=8.0, reward_learning_rate=1e-2, reward_epochs=20)


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, SETTINGS)


def grades(model: RewardModel, colours: Sequence[str]) -> Tensor:
    """Mean reward of replies with each colour."""
    rng = Random(99)
    return torch.stack([model.score([(asked(i), said(c, rng)) for i in range(12)]).mean() for c in colours])


def test_it_foretells_comparisons_that_it_never_saw(backbone: Backbone) -> None:
    model = reward.fit(backbone, comparisons(160), [], SETTINGS, Heard())
    assert model.fit.kept >= 8 and model.fit.accuracy is not None and model.fit.accuracy >= 0.9
    new = comparisons(40, seed=5)
    chosen = model.score([(pair.prompt_token_ids, pair.chosen) for pair in new])
    rejected = model.score([(pair.prompt_token_ids, pair.rejected) for pair in new])
    assert (chosen > rejected).float().mean() >= 0.9
    red, blue, green = grades(model, COLOURS)
    assert red > blue > green


def test_thumbs_alone_are_enough_and_zero_lies_between_good_and_bad(backbone: Backbone) -> None:
    rng = Random(1)
    labels = [Label(asked(n), said(COLOURS[2 * (n % 2)], rng), n % 2 == 0) for n in range(160)]
    model = reward.fit(backbone, [], labels, SETTINGS, Heard())
    assert model.fit.label_accuracy is not None and model.fit.label_accuracy >= 0.9 and model.fit.accuracy is None
    red, green = grades(model, ["red", "green"])
    assert red > 0 > green


def scores(count: int, seed: int = 0) -> list[Scored]:
    """Red is worth three points more than usual, green three less; people are off by a point and a half."""
    rng = Random(seed)
    found = []
    for number in range(count):
        place = rng.randrange(3)
        points = 3.0 * (1 - place) + rng.gauss(0, 1.5)
        found.append(Scored(asked(number), said(COLOURS[place], rng), points))
    return found


def test_scores_alone_order_replies_as_people_did_and_in_their_unit(backbone: Backbone) -> None:
    model = reward.fit(backbone, [], [], SETTINGS, Heard(), scores(400))
    assert (model.fit.scores, model.fit.pairs, model.fit.labels) == (400, 0, 0) and model.fit.kept >= 8
    assert model.fit.score_correlation is not None and model.fit.score_correlation > 0.7
    assert model.fit.accuracy is None and model.fit.log_likelihood is None
    red, blue, green = grades(model, COLOURS)
    assert red > blue > green
    assert float(red - green) / NATS_PER_POINT == pytest.approx(6, abs=2)


def test_scores_beside_pairs_say_the_same_or_more(folder: Path) -> None:
    """Pairs that never name the last colour leave open what it is worth; scores tell, and cost no accuracy."""
    pairs = [pair for pair in comparisons(240) if not {pair.chosen[0], pair.rejected[0]} & set(ids("green"))]
    alone, both = (
        reward.fit(Backbone.load(folder, SETTINGS), pairs, [], SETTINGS, Heard(), some) for some in ([], scores(120))
    )
    assert alone.fit.score_correlation is None
    assert both.fit.score_correlation is not None and both.fit.score_correlation > 0.5
    red, blue, green = grades(both, COLOURS)
    assert red > blue > green
    new = [(asked(number), said(colour, Random(number))) for colour in COLOURS[:2] for number in range(60)]
    right = [(model.score(new[:60]) > model.score(new[60:])).float().mean() for model in (alone, both)]
    assert right[1] >= max(0.9, float(right[0]) - 0.05)


def test_scores_that_differ_in_nothing_or_are_no_numbers_are_no_lesson(folder: Path) -> None:
    settings = SETTINGS.model_copy(update={"reward_epochs": 1})

    def fit(scored: Sequence[Scored]) -> RewardFit:
        return reward.fit(Backbone.load(folder, settings), [], [], settings, Heard(), scored).fit

    with pytest.raises(TrainingFailed, match="nothing to fit a reward model to"):
        fit([replace(one, points=2.0) for one in scores(20)])
    long = replace(scores(1)[0], reply_token_ids=tuple([5] * 80))
    assert fit([*scores(20), long]).too_long == 1
    with pytest.raises(TrainingFailed, match="no finite value"):
        fit([replace(one, points=float("nan")) for one in scores(200)])


def test_where_people_are_often_wrong_it_is_less_sure(folder: Path) -> None:
    """A difference of rewards is the log-odds of being preferred: where a third of the judgements is mistaken the best
    against the worst has at most about log 2."""
    sure, unsure = (
        reward.fit(Backbone.load(folder, SETTINGS), comparisons(160, wrong=wrong), [], SETTINGS, Heard())
        for wrong in (0.0, 0.33)
    )

    def odds(model: RewardModel) -> float:
        red, _, green = grades(model, COLOURS)
        return float(red - green)

    assert odds(sure) > 2 and odds(unsure) < 1.6
    assert sure.fit.log_likelihood is not None and unsure.fit.log_likelihood is not None
    assert sure.fit.log_likelihood > -0.3 > unsure.fit.log_likelihood


def test_the_heads_disagree_more_where_nobody_judged(backbone: Backbone) -> None:
    rng = Random(3)
    model = reward.fit(backbone, comparisons(160), [], SETTINGS, Heard())
    known = model.grade([(asked(n), said("red", rng)) for n in range(20)])
    strange = model.grade([(ids("<bos> paris"), ids("rome madrid yes no , . !", end=True)) for _ in range(20)])
    assert known.disagreement.shape == known.mean.shape == (20,)
    assert strange.disagreement.mean() > known.disagreement.mean() > 0


def test_of_two_replies_with_the_same_mean_the_one_that_the_heads_disagree_on_is_worth_less(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: both have the mean 1 after the temperature of 2, one the standard deviation 2, the other 0."""
    said_of = {(5,): [0.0, 4.0, 0.0, 4.0], (6,): [2.0, 2.0, 2.0, 2.0], (7,): [1.0, 1.0, 1.0, 1.0]}
    monkeypatch.setattr(
        reward_model, "score", lambda of, examples, members: torch.tensor([said_of[reply] for _, reply in examples])
    )
    model = RewardModel(backbone, RewardFit(0, 0, 0, 0, 0, 0, None, None, None, temperature=2.0, members=4))
    examples = [((1,), reply) for reply in said_of]
    spread = 2 / 3**0.5  # of 0, 2, 0, 2: unbiased
    assert model.score(examples).tolist() == pytest.approx([1.0, 1.0, 0.5])
    for coefficient, worth in ((0.0, 1.0), (0.25, 1 - spread / 4), (1.0, 1 - spread)):
        judge = Cautious(model, coefficient)
        assert judge.score(examples).tolist() == pytest.approx([worth, 1.0, 0.5])
        assert judge.figures == {"reward_disagreement": pytest.approx(spread / 3)}
        sensible = rlhf.Sensible(backbone, judge, [], {}, nat=0.1, seed=0, measured=(0.0, 0.5))
        first, second, third = sensible.score(examples).tolist()
        assert (first, second, third) == pytest.approx((worth / 0.5, 2.0, 1.0))
        assert sensible.figures == judge.figures


@pytest.mark.parametrize("members", [1, 2])
def test_a_reward_model_has_as_many_heads_as_are_asked_for_and_one_alone_never_disagrees(
    folder: Path, members: int
) -> None:
    settings = SETTINGS.model_copy(update={"reward_members": members, "reward_epochs": 1})
    model = reward.fit(Backbone.load(folder, settings), comparisons(16), [], settings, Heard())
    examples = [(pair.prompt_token_ids, pair.chosen) for pair in comparisons(4)]
    graded = model.grade(examples)
    assert model.fit.members == members and bool((graded.disagreement > 0).all()) == (members > 1)
    again = RewardModel.restored(Backbone.load(folder, settings), model.state())
    assert torch.equal(again.grade(examples).mean, graded.mean)


def test_settings_of_a_reward_model_that_can_not_be_are_refused() -> None:
    for wrong in ({"reward_members": 0}, {"reward_centring": -0.1}, {"reward_disagreement": -1.0}):
        with pytest.raises(ValidationError, match="greater than or equal"):
            LearnerSettings(**wrong)
    with pytest.raises(ValidationError, match="never disagrees"):
        LearnerSettings(reward_members=1, reward_disagreement=0.5)


def test_centring_keeps_what_comparisons_leave_open_near_0(folder: Path) -> None:
    """All pairs stay as far apart; their mean moves to 0 the faster the more that weighs."""

    def off(centring: float) -> float:
        settings = SETTINGS.model_copy(update={"reward_centring": centring, "reward_epochs": 6})
        backbone = Backbone.load(folder, settings)
        pairs = comparisons(32)
        model = reward.fit(backbone, pairs, [], settings, Heard())
        chosen = model.score([(one.prompt_token_ids, one.chosen) for one in pairs])
        rejected = model.score([(one.prompt_token_ids, one.rejected) for one in pairs])
        return float(((chosen + rejected) * model.fit.temperature).square().mean())

    assert off(1.0) < off(0.0) / 2


def test_a_rankings_pairs_stay_in_one_step(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(4)
    pairs = comparisons(30)
    for number in range(3):
        replies = [said(colour, rng) for colour in (*COLOURS, "green")]
        prompt = asked(50 + number)
        pairs += [
            Pair(prompt, replies[a], replies[b], group=f"ranking {number}", weight=1 / 3)
            for a in range(4)
            for b in range(a + 1, 4)
        ]
    seen: list[set[TokenIds]] = []
    rewards = Backbone.rewards

    def watched(self: Backbone, sequences: Sequences, role: str = "reward") -> Tensor:
        if torch.is_grad_enabled():
            seen.append({tuple(row.tolist()) for row in sequences.token_ids})
        return rewards(self, sequences, "reward")

    monkeypatch.setattr(Backbone, "rewards", watched)
    monkeypatch.setattr(reward, "FEWEST_KEPT", 1000)
    settings = SETTINGS.model_copy(update={"batch_size": 4, "reward_epochs": 2})
    model = reward.fit(backbone, pairs, [], settings, Heard())
    assert model.fit.kept == 0 and model.fit.accuracy is None and model.fit.temperature == 1.0
    for number in range(3):
        prompt = asked(50 + number)
        with_it = [rows for rows in seen if any(row[: len(prompt)] == prompt for row in rows)]
        assert len(with_it) == 2  # once in each pass


def test_too_long_judgements_are_counted_and_a_reply_of_nothing_is_worst(backbone: Backbone) -> None:
    long = replace(comparisons(1)[0], chosen=tuple([5] * 80))
    model = reward.fit(backbone, [*comparisons(20), long], [], SETTINGS, Heard())
    assert model.fit.too_long == 1 and model.fit.pairs == 20
    rng = Random(7)
    prompt = asked(3)
    graded = model.score([(prompt, said("red", rng)), (prompt, ()), (prompt, said("green", rng))])
    assert graded[1] == graded.min()


def test_ties_alone_or_thumbs_of_one_kind_are_nothing_to_learn_from(backbone: Backbone) -> None:
    ties = [replace(pair, tie=True) for pair in comparisons(5)]
    good = [Label(asked(1), ids("red", end=True), True)]
    with pytest.raises(TrainingFailed, match="nothing to fit a reward model to"):
        reward.fit(backbone, ties, good, SETTINGS, Heard())


def test_with_fewer_prompts_than_can_be_kept_apart_it_is_said_that_nothing_is_calibrated(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, said = SETTINGS.model_copy(update={"reward_epochs": 1}), "not calibrated, .*: 39 prompts, 40 are needed"
    caplog.set_level("INFO", "hone.learner")
    model = reward.fit(Backbone.load(folder, settings), comparisons(40), [], settings, Heard())
    assert model.fit.kept == 8 and "not calibrated" not in caplog.text
    model = reward.fit(Backbone.load(folder, settings), comparisons(39), [], settings, Heard())
    assert model.fit.kept == 0 and model.fit.temperature == 1.0 and re.search(said, caplog.text)


def test_the_same_seed_gives_the_same_rewards(folder: Path) -> None:
    found = [
        grades(reward.fit(Backbone.load(folder, SETTINGS), comparisons(24), [], SETTINGS, Heard()), COLOURS)
        for _ in range(2)
    ]
    assert torch.equal(*found)
