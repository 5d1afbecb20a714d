"""Advantages and losses of RLOO and GRPO are those of TRL 1.16's trainers, on replies that these sampled.

TRL's policy moves between the steps, so ratios of later steps differ from 1 and are clipped: there its own
log-probabilities go into our loss.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Example, collate
from learner.policy_losses import grpo_advantages, kl_estimates, ppo_policy_loss, rloo_advantages, token_rewards
from learner.tensors import masked_mean, masked_sum
from tests.reference.cases import ASKED, REPLIES, worth
from tests.reference.comparing import assert_agrees
from tests.reference.conftest import Answers

pytestmark = [pytest.mark.reference, pytest.mark.xdist_group("reference")]

STEPS = 4  # two for each half of the replies
KL = 0.2


def step(trl: Answers, case: str, number: int) -> dict[str, Tensor]:
    return trl.of(f"{case}/{number}")


def examples_of(seen: dict[str, Tensor]) -> list[Example]:
    return [
        (tuple(prompt[asked.bool()].tolist()), tuple(reply[said.bool()].tolist()))
        for prompt, asked, reply, said in zip(
            seen["prompt_ids"], seen["prompt_mask"], seen["completion_ids"], seen["completion_mask"], strict=True
        )
    ]


def all_replies(trl: Answers, case: str) -> tuple[list[Example], Tensor]:
    """Of one draw, those to one prompt after the other, with TRL's advantages."""
    steps = [step(trl, case, number) for number in (0, 1)]
    found = [example for seen in steps for example in examples_of(seen)]
    groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, (prompt, _) in enumerate(found):
        groups[prompt].append(index)
    assert len(groups) == len(ASKED) and {len(group) for group in groups.values()} == {REPLIES}
    order = [index for group in groups.values() for index in group]
    advantages = torch.cat([seen["advantages"] for seen in steps])
    return [found[index] for index in order], advantages[order]


def scores_of(examples: list[Example]) -> Tensor:
    return torch.tensor([worth(reply) for _, reply in examples])


def test_rloo_advantages_are_trls_with_the_kl_in_the_reward(backbone: Backbone, trl: Answers) -> None:
    """From replies to advantages: log-probabilities, k1 against the base, the reward at the end, the others' mean."""
    examples, advantages = all_replies(trl, "rloo")
    batch = collate(examples, backbone.pad_id)
    with torch.no_grad():
        own, anchor = (backbone.log_probs(batch, role) for role in ("policy", "base"))
    rewards = masked_sum(token_rewards(scores_of(examples), own, anchor, batch.reply_mask, KL), batch.reply_mask, 1)
    assert_agrees(rloo_advantages(rewards.reshape(-1, REPLIES)).flatten(), advantages)


@pytest.mark.parametrize(("case", "scale"), [("grpo", True), ("grpo-tokens", False)])
def test_grpo_advantages_are_trls(case: str, scale: bool, trl: Answers) -> None:
    examples, advantages = all_replies(trl, case)
    assert_agrees(grpo_advantages(scores_of(examples).reshape(-1, REPLIES), scale).flatten(), advantages)


def clipped_somewhere(ratio: Tensor, advantages: Tensor, mask: Tensor) -> bool:
    stopped = ((ratio > 1.2) & (advantages > 0)) | ((ratio < 0.8) & (advantages < 0))
    return bool((stopped & mask).any())


@pytest.mark.parametrize("number", range(STEPS))
def test_rloos_loss_is_trls_with_whole_replies_for_tokens(number: int, trl: Answers) -> None:
    """TRL clips the ratio of a reply, as RLOO's authors do, where ours clips each token's: with a reply's
    log-probability as that of one token both are the same."""
    seen = step(trl, "rloo", number)
    mask = seen["completion_mask"].bool()
    log_probs = seen["log_probs"].clone().requires_grad_()
    whole = masked_sum(log_probs, mask, 1).unsqueeze(1)
    once = torch.ones_like(whole, dtype=torch.bool)
    advantages, old = seen["advantages"].unsqueeze(1), seen["old_logps"].unsqueeze(1)
    loss, _ = ppo_policy_loss(whole, old, advantages, once)
    loss.backward()
    assert log_probs.grad is not None
    assert number < STEPS - 1 or clipped_somewhere((whole - old).exp(), advantages, once)
    assert_agrees(loss, seen["loss"])
    assert_agrees(log_probs.grad, seen["gradient"])


def test_the_first_step_of_rloo_goes_trls_way_times_what_the_means_are_over(trl: Answers) -> None:
    """While the policy is the one that sampled, ours, a mean over tokens, has TRL's gradient, a mean over replies of
    sums over tokens, by the number of replies over that of tokens."""
    seen = step(trl, "rloo", 0)
    mask = seen["completion_mask"].bool()
    log_probs = seen["log_probs"].clone().requires_grad_()
    advantages = seen["advantages"].unsqueeze(1) * mask
    ppo_policy_loss(log_probs, seen["log_probs"], advantages, mask)[0].backward()
    assert log_probs.grad is not None
    assert_agrees(log_probs.grad * mask.sum() / len(mask), seen["gradient"])


@pytest.mark.parametrize("number", range(STEPS))
@pytest.mark.parametrize(("case", "per_sequence", "kl"), [("grpo", True, 0.0), ("grpo-tokens", False, KL)])
def test_grpos_loss_is_trls(case: str, per_sequence: bool, kl: float, number: int, trl: Answers) -> None:
    """Mean over replies of means over tokens, and mean over all tokens (TRL's `bnpo`). GRPO's authors have the KL in
    the loss, where ours is in the reward: the difference is β times the mean of k3."""
    seen = step(trl, case, number)
    mask = seen["completion_mask"].bool()
    log_probs = seen["log_probs"].clone().requires_grad_()
    old, advantages = seen["old_per_token_logps"], seen["advantages"].unsqueeze(1) * mask
    loss, _ = ppo_policy_loss(log_probs, old, advantages, mask, per_sequence=per_sequence)
    if kl:
        loss = loss + kl * masked_mean(kl_estimates(log_probs, seen["ref_per_token_logps"])[2], mask)
    loss.backward()
    assert log_probs.grad is not None
    assert number < STEPS - 1 or clipped_somewhere((log_probs - old).exp(), advantages, mask)
    assert_agrees(loss, seen["loss"])
    assert_agrees(log_probs.grad, seen["gradient"])
