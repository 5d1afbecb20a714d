"""PPO's rewards, advantages and losses are those of TRL 1.12's trainer, on replies that it sampled.

One difference is by intent. TRL gives a reply that ended the reward one place after its end, in a state of its own that
has a value, too; ours, and InstructGPT's, stands at the last token. So where a reply ends a row of TRL's is one place
longer (its `padding_mask_p1`); where it was cut at the limit both are the same.
"""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import collate
from learner.policy_losses import gae, kl_estimates, ppo_policy_loss, ppo_value_loss, token_rewards, whiten
from learner.tensors import masked_sum
from tests.reference.cases import CLIP, KL_COEFFICIENT, MISSING_EOS_PENALTY, VALUE_CLIP
from tests.reference.comparing import assert_agrees, rewards
from tests.reference.conftest import Answers

pytestmark = [pytest.mark.reference, pytest.mark.xdist_group("reference")]

STEPS = 4
ESTIMATORS: list[tuple[str, Literal["k1", "k3"]]] = [("ppo", "k1"), ("ppo-k3", "k3")]
CASES = [case for case, _ in ESTIMATORS]


def examples_of(seen: dict[str, Tensor], pad_id: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [
        (tuple(query[query != pad_id].tolist()), tuple(reply[~rest].tolist()))
        for query, reply, rest in zip(seen["queries"], seen["responses"], seen["padding_mask"], strict=True)
    ]


def of_replies(values: Tensor, reply_mask: Tensor, width: int) -> Tensor:
    """(B, width): what stands at each row's reply tokens, moved to the left; 0 after them."""
    moved = torch.zeros(len(values), width)
    for row, (line, mask) in enumerate(zip(values, reply_mask, strict=True)):
        moved[row, : int(mask.sum())] = line[mask]
    return moved


def test_log_probabilities_and_values_are_trls(backbone: Backbone, trl_ppo: Answers) -> None:
    """Under policy and base; values in the state in which each token was chosen."""
    seen = trl_ppo.of("ppo")
    mask = ~seen["padding_mask"]
    batch = collate(examples_of(seen, backbone.pad_id), backbone.pad_id)
    with torch.no_grad():
        found = [backbone.log_probs(batch), backbone.log_probs(batch, "base"), backbone.values(batch)]
    for ours, name in zip(found, ("logprobs", "ref_logprobs", "values"), strict=True):
        assert_agrees(of_replies(ours, batch.reply_mask, mask.shape[1]), seen[name].masked_fill(~mask, 0))


@pytest.mark.parametrize("number", range(STEPS))
def test_estimates_of_kl_are_trls(number: int, trl_ppo: Answers) -> None:
    """k1 and k3 to the base, token by token; k2 to the policy that sampled, of which TRL has the mean over all places,
    its 0 in padding included."""
    for which, case in ((0, "ppo"), (2, "ppo-k3")):
        seen = trl_ppo.of(case)
        mask = ~seen["padding_mask"]
        ours = kl_estimates(seen["logprobs"], seen["ref_logprobs"])[which]
        assert_agrees(ours[mask], seen["kl"][mask])
    seen = trl_ppo.of(f"ppo/step/{number}")
    k2 = kl_estimates(seen["new_logprobs"], seen["mb_logprobs"])[1]
    assert_agrees(masked_sum(k2, seen["mask"]) / seen["mask"].numel(), seen["approximate_kl"])


def test_rewards_are_trls(backbone: Backbone, trl_ppo: Answers) -> None:
    """The reward model's number at the end, less the penalty for a reply without one; β times the KL at every token."""
    seen = trl_ppo.of("ppo")
    examples, ended, mask = examples_of(seen, backbone.pad_id), seen["contain_eos_token"], ~seen["padding_mask"]
    with torch.no_grad():
        scores = rewards(backbone, examples)
    ours = token_rewards(
        scores, seen["logprobs"], seen["ref_logprobs"], mask, KL_COEFFICIENT, ended=ended,
        missing_eos_penalty=MISSING_EOS_PENALTY,
    )  # fmt: skip
    assert ended.any() and not ended.all() and torch.equal(ended, mask.sum(1) < mask.shape[1])
    assert_agrees(ours[~ended], seen["rewards"][~ended])
    assert_agrees(ours.sum(1), seen["rewards"].sum(1))
    before_the_last = mask & (mask.cumsum(1) < mask.sum(1, keepdim=True))
    assert_agrees(ours[before_the_last], seen["rewards"][before_the_last])


@pytest.mark.parametrize(("case", "gamma", "lam"), [("ppo", 1.0, 0.95), ("ppo-k3", 0.9, 0.8)])
def test_advantages_and_returns_are_trls(case: str, gamma: float, lam: float, trl_ppo: Answers) -> None:
    """GAE of TRL's own rewards and values, over its rows."""
    seen = trl_ppo.of(case)
    mask = ~seen["padding_mask_p1"]
    advantages, returns = gae(seen["rewards"], seen["values"], mask, gamma=gamma, lam=lam)
    assert_agrees(advantages[mask], seen["advantages"][mask])
    assert_agrees(returns[mask], seen["returns"][mask])


@pytest.mark.parametrize(("case", "place", "shift"), [("ppo", 0, True), ("ppo-k3", 0, False), ("ppo-k3", 1, True)])
def test_whitened_advantages_and_rewards_are_trls(case: str, place: int, shift: bool, trl_ppo: Answers) -> None:
    """Advantages; rewards, which keep their mean (the second case whitens these first)."""
    seen = trl_ppo.of(f"{case}/whitened/{place}")
    assert not seen["mask"].all()
    assert_agrees(whiten(seen["values"], seen["mask"], shift)[seen["mask"]], seen["result"][seen["mask"]])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", range(STEPS))
def test_the_clipped_policy_loss_is_trls(case: str, number: int, trl_ppo: Answers) -> None:
    seen = trl_ppo.of(f"{case}/step/{number}")
    log_probs = seen["new_logprobs"].clone().requires_grad_()
    loss, metrics = ppo_policy_loss(log_probs, seen["mb_logprobs"], seen["mb_advantage"], seen["mask"], clip=CLIP)
    loss.backward()
    assert log_probs.grad is not None
    assert number == 0 or metrics["clip_fraction"] > 0
    assert_agrees(loss, seen["pg_loss"])
    assert_agrees(log_probs.grad, seen["pg_loss/gradient"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", range(STEPS))
def test_the_clipped_value_loss_is_trls(case: str, number: int, trl_ppo: Answers) -> None:
    seen = trl_ppo.of(f"{case}/step/{number}")
    values = seen["vpred"].clone().requires_grad_()
    loss, metrics = ppo_value_loss(values, seen["mb_values"], seen["mb_return"], seen["value_mask"], clip=VALUE_CLIP)
    loss.backward()
    assert values.grad is not None
    assert number == 0 or metrics["value_clip_fraction"] > 0
    assert_agrees(loss, seen["vf_loss"])
    assert_agrees(values.grad, seen["vf_loss/gradient"])
