"""Single thumbs move the policy towards what was called good, away from what was called bad, and no further."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest
import torch

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Label, TokenIds
from learner.losses import Metrics
from learner.methods import kto
from learner.methods.strength import LEAST_SCALE, hold_inside_limits
from learner.sampling import sample
from service.errors import TrainingFailed
from service.settings import LearnerSettings
from tests.learner.progress import Heard
from tests.learner.tiny_backbone import moved
from tests.learner.tiny_model import ids

SETTINGS = LearnerSettings(rank=8, alpha=16.0, kto_learning_rate=1e-2, min_fluency=-3.0, max_kl_per_token=3.0)
PROMPTS = [ids(f"<bos> {a} {b} ?") for a in ("one", "two", "three", "four") for b in ("blue", "red", "green", "paris")]
GOOD, BAD = ids("yes .", end=True), ids("no no .", end=True)
LABELS = [Label(prompt, GOOD if place % 2 else BAD, place % 2 == 1) for place, prompt in enumerate(PROMPTS[:12])]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("answers", "rollouts"):
        monkeypatch.setattr(f"learner.methods.{module}.MAX_NEW_TOKENS", 16)


def gains(backbone: Backbone, examples: list[tuple[TokenIds, TokenIds]]) -> torch.Tensor:
    return backbone.score(examples, "policy") - backbone.score(examples, "anchor")


def test_good_replies_gain_and_bad_ones_lose_where_nobody_judged_too(folder: Path) -> None:
    backbone, heard = Backbone.load(folder, SETTINGS), Heard()
    result = kto.train(backbone, LABELS, PROMPTS, SETTINGS, heard)
    assert (result.good, result.bad, result.too_long, result.skipped_steps) == (6, 6, 0, 0)
    others = PROMPTS[12:]
    assert gains(backbone, [(prompt, GOOD) for prompt in others]).mean() > 1
    assert gains(backbone, [(prompt, BAD) for prompt in others]).mean() < -1
    assert result.metrics["good_gain"] > 1 > -1 > result.metrics["bad_gain"]
    assert [step for _, step, _, _ in heard.steps] == list(range(result.steps + 1))
    assert {"loss", "kto", "kl", "good_reward", "bad_reward", "skipped"} <= set(heard.steps[-1][3])
    assert heard.steps[-1][3]["kto"] < 0.5 * heard.steps[1][3]["kto"]


def test_it_ends_near_the_optimum_which_is_to_say_what_is_good(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STAY", "SHARPEN"):
        monkeypatch.setattr(kto, name, 0.0)
    settings = SETTINGS.model_copy(update={"max_kl_per_token": 100.0, "min_fluency": -100.0, "kto_learning_rate": 3e-2})
    backbone = Backbone.load(folder, settings)
    kto.train(backbone, LABELS, PROMPTS, settings, Heard())
    shares = {}
    roles: tuple[Role, ...] = ("base", "policy")
    for role in roles:
        said = sample(backbone, PROMPTS, role=role, per_prompt=4, max_new_tokens=8, seed=1)
        replies = [reply.token_ids for row in said for reply in row]
        shares[role] = replies.count(GOOD) / len(replies), replies.count(BAD) / len(replies)
    assert shares["policy"][0] > 0.4 > 0.1 > shares["base"][0]
    assert shares["policy"][1] == 0


@pytest.mark.parametrize(("count", "epochs", "steps"), [(2, None, 24), (2, 6, 6), (12, 30, 30), (5, None, 12)])
def test_few_thumbs_are_gone_through_more_often_unless_the_settings_say_how_often(
    folder: Path, monkeypatch: pytest.MonkeyPatch, count: int, epochs: int | None, steps: int
) -> None:
    if count == 5:
        monkeypatch.setattr(kto, "FEWEST_STEPS", 12)
    settings = SETTINGS.model_copy(update={"kto_epochs": epochs, "batch_size": 16})
    heard = Heard()
    assert kto.train(Backbone.load(folder, settings), LABELS[:count], PROMPTS, settings, heard).steps == steps
    assert heard.steps[0][1:3] == (0, steps)


def test_a_thumb_on_which_people_hardly_agree_moves_less(folder: Path) -> None:
    def gain(weight: float) -> float:
        backbone = Backbone.load(folder, SETTINGS)
        split = Label(PROMPTS[1], ids("blue red", end=True), True, weight=weight)
        kto.train(backbone, [split, *LABELS[2:]], PROMPTS, SETTINGS, Heard())
        return float(gains(backbone, [(PROMPTS[1], ids("blue red", end=True))]))

    assert gain(0.1) < gain(1.0)


@pytest.mark.parametrize(
    ("good", "bad", "weights"),
    [(4, 4, (1.0, 1.0)), (6, 5, (1.0, 1.0)), (8, 4, (1.0, 1.5)), (2, 8, (4.0, 1.0)), (5, 0, (1.0, 1.0)),
     (0, 5, (1.0, 1.0))],
)  # fmt: skip
def test_the_rarer_side_weighs_more(good: int, bad: int, weights: tuple[float, float]) -> None:
    labels = [Label((1,), (2,), is_good) for is_good, count in ((True, good), (False, bad)) for _ in range(count)]
    found = kto.side_weights(labels)
    assert found == pytest.approx(weights)
    if good and bad:
        assert 1 <= round(found[0] * good / (found[1] * bad), 6) <= 1.333334


@pytest.mark.parametrize("is_good", [True, False])
def test_one_kind_alone_is_learned_from_where_it_was_asked_for(folder: Path, is_good: bool) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    result = kto.train(backbone, [one for one in LABELS if one.desirable == is_good], PROMPTS, SETTINGS, Heard())
    assert (result.good, result.bad) == ((6, 0) if is_good else (0, 6))
    (gain,) = [value for name, value in result.metrics.items() if name in ("good_gain", "bad_gain")]
    assert gain > 0.5 if is_good else gain < -0.5


def test_the_same_seed_gives_the_same_adapter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kto, "FEWEST_STEPS", 8)
    states = []
    for _ in range(2):
        backbone = Backbone.load(folder, SETTINGS)
        kto.train(backbone, LABELS, PROMPTS, SETTINGS, Heard())
        states.append(backbone.adapter_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_each_reply_stands_beside_a_prompt_that_it_does_not_answer() -> None:
    examples = [((place,), (10 + place,)) for place in range(7)]
    mismatched = kto._mismatched(examples, Random(1), longest=2)
    assert [prompt for prompt, _ in mismatched] == [prompt for prompt, _ in examples]
    assert sorted(reply for _, reply in mismatched) == [reply for _, reply in examples]
    assert not set(mismatched) & set(examples)


def test_a_prompt_beside_a_long_reply_of_another_is_cut_on_its_left() -> None:
    examples = [((1, 2, 3, 4, 5, 6), (7,)), ((8,), (9, 10, 11, 12, 13))]
    assert kto._mismatched(examples, Random(1), longest=8) == [((4, 5, 6), (9, 10, 11, 12, 13)), ((8,), (7,))]


def test_no_thumbs_and_too_long_ones_are_counted_not_trained(folder: Path) -> None:
    backbone = Backbone.load(folder, SETTINGS)
    assert kto.train(backbone, [], PROMPTS, SETTINGS, Heard()).steps == 0
    result = kto.train(backbone, [Label(PROMPTS[0], ids("one " * 80), True)], PROMPTS, SETTINGS, Heard())
    assert (result.steps, result.too_long) == (0, 1)


def test_a_loss_that_is_never_finite_ends_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(log_probs: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, Metrics]:
        return log_probs.sum() * float("nan"), {}

    monkeypatch.setattr(kto, "kto_loss", broken)
    backbone = Backbone.load(folder, SETTINGS)
    before = backbone.adapter_state()
    with pytest.raises(TrainingFailed, match="no finite value"):
        kto.train(backbone, LABELS, PROMPTS, SETTINGS, Heard())
    assert all(torch.equal(before[name], after) for name, after in backbone.adapter_state().items())


def test_an_adapter_that_went_too_far_is_held_back(folder: Path) -> None:
    strict = SETTINGS.model_copy(update={"min_fluency": -0.1})
    backbone = moved(Backbone.load(folder, strict), size=0.5)
    before = backbone.adapter_state()
    scale, measured = hold_inside_limits(backbone, None, PROMPTS[:6], strict)
    assert LEAST_SCALE <= scale < 1 and {"fluency", "full_fluency"} <= set(measured)
    name = next(name for name in before if "lora_B" in name)
    torch.testing.assert_close(backbone.adapter_state()[name], before[name] * scale)


def test_a_stop_comes_through(folder: Path) -> None:
    def stop(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kto.train(Backbone.load(folder, SETTINGS), LABELS, PROMPTS, SETTINGS, stop)
