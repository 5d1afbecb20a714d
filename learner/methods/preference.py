"""Learn a preference from few comparisons, without learning to cheat.

Comparisons alone are too few and too far from what the policy says to train on directly: plain DPO either stays near
50 % or wins with empty replies. So: (1) fit a preference model to all comparisons; (2) sample several replies to each
of the prompts people really ask, from the policy as it is; (3) let the preference model grade them; (4) move the policy
towards anchor · exp(grade / τ), the optimum of reward under a KL budget (arXiv 2305.18290), by listwise DPO on these
replies; (2) to (4) again from where the policy then is (on-policy, as arXiv 2402.04792); (5) measure on prompts kept
aside, and hold back the adapter's strength until it is inside the limits.

What is graded is what the anchor says itself now and then, so the policy re-weights habits instead of finding holes in
the preference model. τ is set by a KL budget, not by the size of the rewards, so it does not matter how sure the few
comparisons made the preference model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from learner.backbone import Backbone
from learner.batch import Pair, Progress, TokenIds, collate, shuffled_batches
from learner.losses import dpo_loss, listwise_loss
from learner.methods.optimizer import Stepper, within_length
from learner.methods.preference_model import Fit, PreferenceModel, fit_preferences
from learner.sampling import sample
from service.settings import LearnerSettings

PHASE = "dpo"
ITERATIONS = 2
PROMPTS = 160
REPLIES = 8
TRAINED_REPLIES = 4
EPOCHS = 2
BUDGET = 1.3
LIKELIHOOD = 0.1
PAIRS_WEIGHT = 0.2
FLUENCY = 1.0
@dataclass(frozen=True)
class Group:
    """Graded replies to one prompt."""

    prompt: TokenIds
    replies: tuple[TokenIds, ...]
    anchor: Tensor  # (K,) log-probabilities of the replies under the anchor
    utility: Tensor  # (K,) what the policy should find likelier: in nats, before the temperature


def rollouts(backbone, judge, prompts, per_prompt, seed, role, max_new_tokens=128):
    sampled = sample(backbone, prompts, role=role, per_prompt=per_prompt, seed=seed, max_new_tokens=max_new_tokens)
    examples = [(p, r.token_ids) for p, rs in zip(prompts, sampled, strict=True) for r in rs]
    grades = judge.score(examples)
    anchor = torch.tensor([r.log_prob for rs in sampled for r in rs]) if role == "base" else backbone.score(examples, "anchor")
    texts = backbone.decode([r for _, r in examples])
    ended = [r.ended and bool(t.strip()) for r, t in zip([r for rs in sampled for r in rs], texts, strict=True)]
    return examples, grades, anchor, torch.tensor(ended), texts


def temperature(utilities: Tensor, budget: float) -> float:
    """τ so that KL(softmax(u/τ) ‖ uniform) averages `budget` over groups (G, K)."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        log_p = torch.log_softmax(utilities / middle, -1)
        kl = (log_p.exp() * (log_p + torch.log(torch.tensor(float(utilities.shape[-1]))))).sum(-1).mean()
        if kl > budget:
            low = middle
        else:
            high = middle
    return middle
