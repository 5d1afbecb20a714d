"""Learn a preference from few comparisons, without learning to cheat.

Comparisons alone are too few and too far from what the policy says to train on directly: plain DPO either stays near
50 % or wins with empty replies. So: (1) fit a preference model to all comparisons; (2) sample several replies to each
of the prompts people really ask, from the policy as it is; (3) let the preference model grade them; (4) move the policy
towards anchor · exp(grade / τ), the optimum of reward under a KL budget (arXiv 2305.18290), by listwise DPO on these
replies; (2) to (4) again from where the policy then is (on-policy, as arXiv 2402.04792); (5) measure on prompts kept
aside, and hold back the adapter's strength until it is inside the limits.

What is graded is what the model says itself now and then, so the policy re-weights habits instead of finding holes in
the preference model. τ is set by a KL budget, not by the size of the rewards, so it does not matter how sure the few
comparisons made the preference model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from learner.backbone import Backbone, Role
from learner.batch import Pair, Progress, TokenIds, collate, shuffled_batches
from learner.evaluate.agreement import agreement, consensus, words
from learner.losses import listwise_loss
from learner.methods.optimizer import Stepper, within_length
from learner.methods.preference_model import PreferenceModel, fit_preferences
from learner.sampling import sample
from service.settings import LearnerSettings

PHASE = "dpo"
ITERATIONS = 2
PROMPTS = 128
REPLIES = 8
TRAINED_REPLIES = 4
EPOCHS = 2
GROUPS_PER_STEP = 8
BUDGET = 1.5
LIKELIHOOD = 0.1
CONSENSUS = 1.0
FLUENCY = -0.05
MAX_NEW_TOKENS = 128
KAPPA = 0.1
SHARP = 0.2


@dataclass(frozen=True)
class Graded:
    """A sampled reply with all that the loss needs to know of it."""

    reply: TokenIds
    anchor: float  # log-probability under the anchor
    utility: float  # in units of τ: how much likelier than under the anchor it should be


@dataclass(frozen=True)
class Group:
    prompt: TokenIds
    replies: tuple[Graded, ...]


@dataclass(frozen=True)
class PreferenceResult:
    steps: int
    pairs: int
    too_long: int
    skipped_steps: int
    metrics: dict[str, float]


def train(
    backbone: Backbone,
    pairs: Sequence[Pair],
    prompts: Sequence[TokenIds],
    settings: LearnerSettings,
    progress: Progress,
) -> PreferenceResult:
    fitting, too_long = within_length(pairs, backbone.max_length)
    if not fitting:
        return PreferenceResult(0, 0, too_long, 0, {})
    rng = Random(settings.seed)
    judge = fit_preferences(backbone, fitting)
    asked = list(dict.fromkeys([*prompts, *(pair.prompt_token_ids for pair in fitting)]))
    asked = [prompt for prompt in asked if len(prompt) + MAX_NEW_TOKENS <= backbone.max_length]
    stepper = Stepper(backbone.trainable(), settings.dpo_learning_rate, warmup=5)
    steps = ITERATIONS * EPOCHS * -(-PROMPTS // GROUPS_PER_STEP)
    step = 0
    metrics: dict[str, float] = {"judge_accuracy": judge.fit.accuracy, "judge_log_score": judge.fit.log_score}
    probe = rng.sample(asked, min(64, len(asked)))
    own = [r for row in sample(backbone, probe, role="base", per_prompt=4, seed=settings.seed) for r in row]
    least = sum(r.log_prob for r in own) / sum(len(r.token_ids) for r in own) + FLUENCY
    for iteration in range(ITERATIONS):
        chosen = rng.sample(asked, min(PROMPTS, len(asked)))
        groups = rollouts(backbone, judge, chosen, settings.seed + iteration, iteration == 0, least)
        for _ in range(EPOCHS):
            for indices in shuffled_batches(len(groups), GROUPS_PER_STEP, rng):
                step += 1
                done = step / steps
                loss, metrics = listwise_step(backbone, [pick(groups[i], rng) for i in indices], SHARP)
                metrics |= stepper.step(loss, scale=1.0 - 0.9 * done)
                progress(PHASE, step, steps, metrics)
    return PreferenceResult(step, len(fitting), too_long, stepper.skipped, metrics)


def rollouts(backbone: Backbone, judge: PreferenceModel, prompts: Sequence[TokenIds], seed: int, mix: bool, least: float) -> list[Group]:
    """Sample the policy (and with `mix` the base) and grade what they say."""
    if mix and backbone.has("parent"):
        half = REPLIES // 2
        one = sample(backbone, prompts, per_prompt=half, seed=seed, max_new_tokens=MAX_NEW_TOKENS)
        two = sample(backbone, prompts, role="base", per_prompt=half, seed=seed, max_new_tokens=MAX_NEW_TOKENS)
        sampled = [x + y for x, y in zip(one, two, strict=True)]
    else:
        sampled = sample(backbone, prompts, per_prompt=REPLIES, seed=seed, max_new_tokens=MAX_NEW_TOKENS)
    examples = [(prompts[r.prompt], r.token_ids) for row in sampled for r in row]
    flat = [r for row in sampled for r in row]
    grades = judge.score(examples).reshape(len(prompts), -1)
    anchor = backbone.score(examples, "anchor").reshape(len(prompts), -1)
    texts = backbone.decode([reply for _, reply in examples])
    sizes = torch.tensor([len(reply) for _, reply in examples]).reshape(len(prompts), -1)
    good = torch.tensor([r.ended and bool(t.strip()) for r, t in zip(flat, texts, strict=True)]).reshape(len(prompts), -1)
    agreed = agreements([texts[i * REPLIES : (i + 1) * REPLIES] for i in range(len(prompts))])
    utility = grades / temperature(grades, BUDGET) + CONSENSUS * agreed
    utility = torch.where(good, utility, utility.min(1, keepdim=True).values - 3.0)
    excess = anchor - least * sizes
    strength = multiplier(utility, excess)
    print("   iter: fluency of samples %.3f target %.3f lambda %.3f; grade win of targets %.3f" % (
        float(anchor.sum() / sizes.sum()) - least - FLUENCY, FLUENCY, strength, gain(utility + strength * excess, grades)))
    utility = utility + strength * excess
    groups = []
    for i, prompt in enumerate(prompts):
        groups.append(Group(prompt, tuple(
            Graded(r.token_ids, float(anchor[i, k]), float(utility[i, k])) for k, r in enumerate(sampled[i]))))  # fmt: skip
    return groups


def gain(utility: Tensor, grades: Tensor) -> float:
    """Chance that a reply drawn from the targets beats one drawn from the samples."""
    w = torch.softmax(utility, -1)
    d = grades.unsqueeze(2) - grades.unsqueeze(1)
    won, lost = (d > 1e-6).float().mean(2), (d < -1e-6).float().mean(2)
    return float((w * won).sum() / ((w * won).sum() + (w * lost).sum()))


def multiplier(utility: Tensor, excess: Tensor, most: float = 2.0) -> float:
    """Least λ for which replies drawn by softmax(utility + λ excess) have an excess of 0 or more on average."""
    def mean(strength: float) -> float:
        return float((torch.softmax(utility + strength * excess, -1) * excess).sum(-1).mean())
    if mean(0.0) >= 0:
        return 0.0
    low, high = 0.0, most
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < 0 else (low, middle)
    return high


def agreements(texts: Sequence[Sequence[str]]) -> Tensor:
    held = Counter(word for row in texts for text in row for word in words(text))
    total = sum(len(row) for row in texts)
    found = []
    for row in texts:
        background = held - Counter(word for text in row for word in words(text))
        agreed = consensus(row, background, total - len(row))
        found.append(agreement(row, agreed) or [1.0] * len(row))
    return torch.tensor(found)


def pick(group: Group, rng: Random) -> Group:
    """Best, worst and some others: most of what there is to learn, for half of the work."""
    ranked = sorted(group.replies, key=lambda graded: graded.utility)
    if len(ranked) <= TRAINED_REPLIES:
        return group
    return Group(group.prompt, (ranked[0], ranked[-1], *rng.sample(ranked[1:-1], TRAINED_REPLIES - 2)))


def listwise_step(backbone: Backbone, groups: Sequence[Group], sharpness: float) -> tuple[Tensor, dict[str, float]]:
    replies = [(group.prompt, graded.reply) for group in groups for graded in group.replies]
    batch = collate(replies, backbone.pad_id)
    logits, ids, rows = backbone.logits(batch)
    with torch.no_grad():
        base_logits, _, _ = backbone.logits(batch, "anchor")
    log_p, log_q = torch.log_softmax(logits, -1), torch.log_softmax(base_logits, -1)
    token = log_p.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    log_probs = torch.zeros(len(replies)).index_add(0, rows, token).reshape(len(groups), -1)
    anchor = torch.tensor([[g.anchor for g in group.replies] for group in groups])
    utility = torch.tensor([[g.utility for g in group.replies] for group in groups])
    targets = torch.softmax(utility, -1)
    loss, metrics = listwise_loss(log_probs, anchor, targets, torch.ones_like(targets, dtype=torch.bool))
    w = targets.flatten()[rows]
    p = log_p.exp()
    kl = (w * (p * (log_p - log_q)).sum(-1)).sum() / w.sum()
    ce = -(w * (p * log_q).sum(-1)).sum() / w.sum()
    ce_base = -(w * (log_q.exp() * log_q).sum(-1)).sum() / w.sum()
    per_reply = float(w.sum()) / len(groups)
    nll = -(w * token).sum() / w.sum()
    metrics |= {"nll": nll.item(), "kl": kl.item(), "ce": ce.item() - ce_base.item()}
    return loss + LIKELIHOOD * nll + per_reply * (KAPPA * kl + sharpness * ce), metrics


def temperature(grades: Tensor, budget: float) -> float:
    """τ so that KL(softmax(grades / τ) ‖ uniform) is `budget` nats on average over the prompts: (P, K) → number."""
    low, high = 1e-4, 1e4
    for _ in range(60):
        middle = (low * high) ** 0.5
        log_p = torch.log_softmax(grades / middle, -1)
        kl = (log_p.exp() * log_p).sum(-1).mean() + torch.tensor(float(grades.shape[-1])).log()
        low, high = (middle, high) if kl > budget else (low, middle)
    return middle
