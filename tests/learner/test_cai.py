"""Both stages of Constitutional AI on a small model: revisions and a judge's odds are learned, what is kept stays."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from learner.backbone import Backbone
from learner.batch import Demonstration, Example, Pair, TokenIds
from learner.methods import rl_cai, sl_cai
from learner.methods.retention import retained
from learner.sampling import sample
from service.errors import TrainingFailed
from service.settings import LearnerSettings
from tests.learner.progress import Heard
from tests.learner.tiny_model import ids

SETTINGS = LearnerSettings(rank=8, alpha=16.0, batch_size=4, dpo_learning_rate=1e-2, sft_learning_rate=1e-2,
                           dpo_beta=1.0, max_kl_per_token=9.0, min_fluency=-9.0)  # fmt: skip
BAD = [ids(f"<bos> what is {word} ?") for word in ("red", "blue", "green", "short", "long", "one")]
FINE = [ids(f"<bos> {word} , you ?") for word in ("paris", "rome", "madrid", "france", "spain", "italy")]
YES, NO = ids("yes .", end=True), ids("no .", end=True)


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, SETTINGS)


def said(backbone: Backbone) -> list[Example]:
    rows = sample(backbone, FINE, max_new_tokens=8, seed=1)
    return [(FINE[reply.prompt], reply.token_ids) for (reply,) in rows]


def odds(backbone: Backbone, prompts: list[TokenIds]) -> torch.Tensor:
    """Log-odds of NO over YES, above the base's."""
    no, yes = ([(prompt, reply) for prompt in prompts] for reply in (NO, YES))
    gained = [backbone.score(some, "policy") - backbone.score(some, "base") for some in (no, yes)]
    return gained[0] - gained[1]


def test_revisions_are_learned_and_what_was_said_to_harmless_prompts_stays(backbone: Backbone) -> None:
    kept = said(backbone)
    before = retained(backbone, kept)
    heard = Heard()
    result = sl_cai.train(backbone, [Demonstration(prompt, NO) for prompt in BAD], kept, FINE, SETTINGS, heard)
    assert float(odds(backbone, BAD).min()) > 1.0
    after = retained(backbone, kept)
    moved = max(float((one.top - other.top).abs().mean()) for one, other in zip(before, after, strict=True))
    assert moved < float(odds(backbone, BAD).mean()) / 2
    assert (result.examples, result.kept, result.too_long, result.skipped_steps) == (6, 6, 0, 0)
    assert heard.steps[-1][:3] == ("sl-cai", result.steps, result.steps)


def test_without_what_is_kept_more_moves(folder: Path) -> None:
    moved = []
    for keep in (True, False):
        backbone = Backbone.load(folder, SETTINGS)
        kept = said(backbone)
        taught = [Demonstration(prompt, NO) for prompt in BAD]
        sl_cai.train(backbone, taught, kept if keep else [], FINE, SETTINGS, Heard())
        moved.append(float((backbone.score(kept, "policy") - backbone.score(kept, "base")).abs().mean()))
    assert moved[0] < 0.75 * moved[1]


def test_a_judges_odds_are_an_optimum_and_no_endless_push(folder: Path) -> None:
    """DPO on soft labels comes to rest where β times the difference is the label's log-odds; sure ones go on."""
    found = []
    for certainty in (0.6, 1.0):
        backbone = Backbone.load(folder, SETTINGS)
        pairs = [Pair(prompt, NO, YES, certainty=certainty) for prompt in BAD] * 10
        rl_cai.train(backbone, pairs, [], FINE, SETTINGS, Heard())
        found.append(float(odds(backbone, BAD).mean()))
    assert found[0] == pytest.approx(0.405, abs=0.25) and found[1] > found[0] + 1.0  # log(0.6 / 0.4)


def test_pairs_that_the_judge_does_not_tell_apart_are_no_more_than_those_it_does() -> None:
    clear, tie = Pair((1,), (2,), (3,), certainty=0.9), Pair((1,), (4,), (3,), tie=True)
    even = [Pair((number,), (2,), (3,), certainty=0.52) for number in range(9)]
    found = rl_cai.told_apart([clear, *even, tie], Random(0))
    assert found[:2] == [clear, tie] and len(found) == 4 and set(found[2:]) <= set(even)
    assert rl_cai.told_apart([clear], Random(0)) == [clear] and len(rl_cai.told_apart(even, Random(0))) == 1


def test_peoples_pairs_have_their_share_of_the_weight() -> None:
    ai = [Pair((1,), (2,), (3,))] * 6
    people = [Pair((4,), (5,), (6,), weight=0.5)] * 4
    mixed = rl_cai.mixed(ai, people, 0.25)
    of_people = sum(pair.weight for pair in mixed if pair.prompt_token_ids == (4,))
    assert of_people / sum(pair.weight for pair in mixed) == pytest.approx(0.25)
    assert sum(pair.weight for pair in mixed) == pytest.approx(8.0)
    assert rl_cai.mixed(ai, [], 0.5) == ai and rl_cai.mixed([], people, 0.5) == people


def test_a_reward_model_is_told_where_a_preference_belongs() -> None:
    clear = [Pair(prompt, NO, YES, certainty=0.9) for prompt in BAD]
    unclear = Pair(BAD[0], YES, NO, certainty=0.6)
    kept = [*((prompt, YES) for prompt in FINE), (FINE[0], NO)]
    found = rl_cai.where_they_belong([*clear, unclear], kept, Random(0))
    assert 5 <= len(found) <= 7 and len(set(found)) == len(found)
    assert all(pair.prompt_token_ids in FINE and (pair.chosen, pair.rejected) == (YES, NO) for pair in found)
    assert len(rl_cai.where_they_belong(clear[:2], kept[:-1], Random(0))) == 2
    assert rl_cai.where_they_belong([unclear], kept, Random(0)) == [] == rl_cai.where_they_belong(clear, [], Random(0))


def test_nothing_to_learn_ends_it_with_the_reason(backbone: Backbone) -> None:
    state = backbone.adapter_state()
    with pytest.raises(TrainingFailed, match="sl-cai has no examples"):
        sl_cai.train(backbone, [], said(backbone), FINE, SETTINGS, Heard())
    long = Pair((5,) * 70, NO, YES)
    with pytest.raises(TrainingFailed, match="none of 1 fits the model's context"):
        rl_cai.train(backbone, [long], said(backbone), FINE, SETTINGS, Heard())
    assert all(torch.equal(state[name], value) for name, value in backbone.adapter_state().items())


def test_a_loss_without_a_value_ends_it_with_the_reason(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sl_cai, "sft_loss", lambda log_probs, mask, weights: (log_probs.sum() * float("nan"), {}))
    with pytest.raises(TrainingFailed, match="no finite value"):
        sl_cai.train(backbone, [Demonstration(prompt, NO) for prompt in BAD] * 4, [], FINE, SETTINGS, Heard())
