"""The losses of SFT, reward models, DPO and KTO, and their gradients, are those of TRL 1.16's trainers.

Both sides load the same model and adapter and see the same tokens. TRL pads; ours packs.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import collate
from learner.losses import dpo_loss, kto_loss, sft_loss
from learner.reward_losses import pairwise_reward_loss
from tests.reference.cases import LABELS, MARGINS
from tests.reference.comparing import (
    CHOSEN,
    LABELLED,
    REJECTED,
    assert_agrees,
    assert_gradients_agree,
    rewards,
    tokens_of,
    unpadded,
)
from tests.reference.conftest import Answers

pytestmark = [pytest.mark.reference, pytest.mark.xdist_group("reference")]


@pytest.mark.parametrize("case", ["sft", "sft-packed"])
def test_sft_is_trls(case: str, backbone: Backbone, trl: Answers) -> None:
    """The likelihood of replies alone, their end included: mean over the batch's tokens, be TRL's padded or packed."""
    batch = collate(LABELLED, backbone.pad_id)
    loss, _ = sft_loss(backbone.log_probs(batch), batch.reply_mask)
    loss.backward()
    seen = trl.of(case)
    assert sorted(unpadded(seen["input_ids"], backbone.pad_id)) == sorted(tokens_of(LABELLED))
    assert_agrees(loss, seen["loss"])
    assert_gradients_agree(backbone, "policy", trl.gradients(case))


@pytest.mark.parametrize(
    ("case", "margins", "centring"),
    [("reward", None, 0.0), ("reward-margins", MARGINS, 0.0), ("reward-centred", MARGINS, 0.3)],
)
def test_the_reward_models_loss_is_trls(
    case: str, margins: tuple[float, ...] | None, centring: float, backbone: Backbone, trl: Answers
) -> None:
    """Bradley-Terry on the head's numbers at the last token, with margins, and the square that centres rewards."""
    loss, _ = pairwise_reward_loss(
        *rewards(backbone, CHOSEN + REJECTED).chunk(2), centring=centring,
        margins=None if margins is None else torch.tensor(margins),
    )  # fmt: skip
    loss.backward()
    seen = trl.of(case)
    assert unpadded(seen["input_ids"], backbone.pad_id) == tokens_of(CHOSEN + REJECTED)
    assert_agrees(loss, seen["loss"])
    of_adapter = {name: gradient for name, gradient in trl.gradients(case).items() if "lora_" in name}
    assert_gradients_agree(backbone, "reward", of_adapter)


def dpo(backbone: Backbone, smoothing: float = 0.0, robust: bool = False) -> Tensor:
    batch = collate(CHOSEN + REJECTED, backbone.pad_id)
    policy = backbone.reply_log_probs(batch)
    with torch.no_grad():
        anchor = backbone.reply_log_probs(batch, "base")
    loss, _ = dpo_loss(
        *policy.chunk(2), *anchor.chunk(2), beta=0.3, label_smoothing=smoothing, robust=robust
    )  # fmt: skip
    loss.backward()
    return loss


@pytest.mark.parametrize(("case", "smoothing"), [("dpo", 0.0), ("dpo-robust", 0.2)])
def test_dpo_is_trls(case: str, smoothing: float, backbone: Backbone, trl: Answers) -> None:
    """Sums of log-probabilities of whole replies, under the adapter and without it; plain, and robust to mistakes."""
    loss = dpo(backbone, smoothing, robust=case == "dpo-robust")
    seen = trl.of(case)
    assert unpadded(seen["input_ids"], backbone.pad_id) == tokens_of(CHOSEN + REJECTED)
    assert_agrees(loss, seen["loss"])
    assert_gradients_agree(backbone, "policy", trl.gradients(case))


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_smoothed_dpo_is_trls_on_judgements_of_which_so_many_are_mistaken(
    smoothing: float, backbone: Backbone, trl: Answers
) -> None:
    """TRL 1.16 smooths no labels of its sigmoid loss: what is compared is that loss of pairs as they are and of pairs
    turned round, weighed by the share of either."""

    def mixed(right: Tensor, wrong: Tensor) -> Tensor:
        return (1 - smoothing) * right + smoothing * wrong

    right, wrong = trl.gradients("dpo"), trl.gradients("dpo-flipped")
    assert_agrees(dpo(backbone, smoothing), mixed(trl.of("dpo")["loss"], trl.of("dpo-flipped")["loss"]))
    assert_gradients_agree(backbone, "policy", {name: mixed(right[name], wrong[name]) for name in right})


@pytest.mark.parametrize(
    ("case", "good_weight", "bad_weight"), [("kto", 1.0, 1.0), ("kto-weighted", 1.5, 0.7), ("kto-withdrawn", 1.0, 1.0)]
)
def test_kto_is_trls(
    case: str,
    good_weight: float,
    bad_weight: float,
    backbone: Backbone,
    withdrawn: Backbone,
    trl: Answers,
) -> None:
    """Loss and estimate of the KL, from each prompt with the reply to the one before; where that is below 0, too."""
    policy = withdrawn if case == "kto-withdrawn" else backbone
    mismatched = [(prompt, LABELLED[index - 1][1]) for index, (prompt, _) in enumerate(LABELLED)]
    batches = [collate(examples, policy.pad_id) for examples in (LABELLED, mismatched)]
    own, drift = (policy.reply_log_probs(batch) for batch in batches)
    with torch.no_grad():
        anchor, drift_anchor = (policy.reply_log_probs(batch, "base") for batch in batches)
    loss, metrics = kto_loss(
        own, anchor, torch.tensor([good for _, _, good in LABELS]), drift, drift_anchor, beta=0.3,
        desirable_weight=good_weight, undesirable_weight=bad_weight,
    )  # fmt: skip
    loss.backward()
    seen = trl.of(case)
    assert unpadded(seen["input_ids"], policy.pad_id) == tokens_of(LABELLED)
    assert bool(seen["kl"] > 0) == (case != "kto-withdrawn")
    assert_agrees(torch.tensor([metrics["reference_kl"]]), seen["kl"])
    assert_agrees(loss, seen["loss"])
    assert_gradients_agree(policy, "policy", trl.gradients(case))
