"""Rejection-sampling fine-tuning: of several sampled replies the best becomes what the policy learns to say.

RAFT (Dong et al., arXiv 2304.06767), in rounds, as Llama 2 does it (arXiv 2307.09288, section 3.2.3): the policy
answers each prompt several times; the reply with the highest reward, less β times how much likelier the policy finds it
than the anchor, joins the best replies of the rounds before; and the policy learns all of these by supervised
fine-tuning. The best of N is at most log N - (N - 1) / N nats from what it was drawn from (Stiennon et al., arXiv
2009.01325, appendix G.3), so a round moves the policy little, whatever holes the reward has.

    result = raft.train(backbone, judge, prompts, settings.raft, progress, seed=0)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from random import Random
from typing import Any

from torch import Tensor

from learner.backbone import Backbone
from learner.batch import WAITING, Example, Progress, TokenIds, collate, shuffled_batches
from learner.importance import policy_log_probs
from learner.losses import sft_loss
from learner.methods.optimizer import Stepper, reply_tokens
from learner.methods.rollouts import Judge, figures_of, grade
from learner.micro_batches import set_sizes, sizes
from learner.sampler import InProcessSampler, Sampler, Tell
from learner.sampling import Reply, with_room
from learner.stage_checkpoint import StageCheckpoint, set_random
from service.settings import RaftSettings

log = logging.getLogger("hone.learner")

PHASE = "raft"


@dataclass(frozen=True)
class RaftResult:
    steps: int
    replies: int  # sampled
    best: int  # prompts whose best reply was learned
    too_long: int  # prompts left out, because a reply to them does not fit the model
    skipped_steps: int
    left_out: int  # prompts that were asked and are no more, because engines went away over them
    ungraded: int  # of the sampled replies, those without a finite reward, which are never the best
    metrics: dict[str, float] = field(default_factory=dict)  # of the last round


@dataclass(frozen=True)
class Scored:
    """A sampled reply, with its reward less what it costs to say it."""

    prompt: TokenIds
    reply: TokenIds
    worth: float


@dataclass(frozen=True)
class _Round:
    """What was sampled in one."""

    scored: list[Scored]  # the replies that came to an end and have a finite reward
    measured: dict[str, float]  # of all that have a finite reward
    replies: int
    ungraded: int  # of them


def train(
    backbone: Backbone,
    judge: Judge,
    prompts: Sequence[TokenIds],
    settings: RaftSettings,
    progress: Progress,
    *,
    seed: int = 0,
    sampler: Sampler | None = None,
    checkpoint: StageCheckpoint | None = None,
) -> RaftResult:
    """Train the policy in place. Same seed, same result.

    A reply that was cut at the length limit, or has no finite reward, is never the best. `sampler`: where the policy's
    replies come from; None: from the backbone. `checkpoint`: where it is kept how far the training is, and what it goes
    on from; the result is that of one unbroken training. Raises TrainingFailed when the loss stays without a
    finite value, what `rollouts.grade` raises, and what the sampler raises.
    """
    sampler = sampler or InProcessSampler(backbone)
    asked, too_long = with_room(sampler, prompts, settings.max_new_tokens)
    each = min(settings.prompts, len(asked))
    steps = sum(
        settings.epochs * -(-min(len(asked), each * (number + 1)) // settings.minibatch)
        for number in range(settings.iterations)
    )
    stepper = Stepper(backbone.trainable(), settings.learning_rate, warmup=4, in_4_bits=backbone.in_4_bits)
    rng, draws = Random(seed + 1), Random(seed)
    best: dict[TokenIds, Scored] = {}
    step, replies, ungraded, begin, measured = 0, 0, 0, 0, dict[str, float]()
    checkpoint = checkpoint or StageCheckpoint()

    def tell(waits: bool) -> None:
        progress(WAITING if waits else PHASE, step, steps, {})

    def state() -> dict[str, Any]:
        return {
            "policy": backbone.adapter_state(), "stepper": stepper.state(), "fitting": sizes(backbone.fitting),
            "rng": rng.getstate(), "draws": draws.getstate(), "best": [astuple(one) for one in best.values()],
            "step": step, "replies": replies, "ungraded": ungraded, "rounds": number + 1, "measured": measured,
        }  # fmt: skip

    if kept := checkpoint.part(PHASE):
        backbone.load_adapter_state(kept["policy"])
        stepper.load_state(kept["stepper"])
        set_sizes(backbone.fitting, kept["fitting"])
        set_random(rng, kept["rng"])
        set_random(draws, kept["draws"])
        best = {tuple(prompt): Scored(tuple(prompt), tuple(reply), worth) for prompt, reply, worth in kept["best"]}
        step, replies, ungraded = kept["step"], kept["replies"], kept["ungraded"]
        begin, measured = kept["rounds"], kept["measured"]
        log.info("It goes on after round %d of %d.", begin, settings.iterations)
    for number in range(begin, settings.iterations if asked else 0):
        progress(PHASE, step, steps, {})
        chosen = draws.sample(asked, each)
        sampled = _sampled(backbone, judge, chosen, settings, seed + 1000 * number, sampler, tell)
        scored, measured = sampled.scored, sampled.measured
        replies, ungraded = replies + sampled.replies, ungraded + sampled.ungraded
        for one in scored:
            if one.prompt not in best or one.worth > best[one.prompt].worth:
                best[one.prompt] = one
        if sampler.left_out:
            measured["left_out"] = sampler.left_out
        if ungraded:
            measured["ungraded"] = ungraded
        measured["best"] = sum(one.worth for one in best.values()) / max(1, len(best))
        for examples in _batches(list(best.values()), settings, rng):
            metrics = stepper.add("best replies", examples, partial(_loss, backbone), weight=reply_tokens)
            metrics |= stepper.update(1 - 0.9 * step / steps)
            step += 1
            progress(PHASE, step, steps, measured | metrics)
        checkpoint.keep(PHASE, state, now=number + 1 == settings.iterations)
    return RaftResult(step, replies, len(best), too_long, stepper.skipped, sampler.left_out, ungraded, measured)


def _loss(backbone: Backbone, examples: Sequence[Example]) -> tuple[Tensor, dict[str, float]]:
    batch = collate(examples, backbone.pad_id)
    return sft_loss(backbone.log_probs(batch), batch.reply_mask.to(backbone.device))


def _batches(best: Sequence[Scored], settings: RaftSettings, rng: Random) -> Iterator[list[Example]]:
    for _ in range(settings.epochs):
        for indices in shuffled_batches(len(best), settings.minibatch, rng):
            yield [(best[index].prompt, best[index].reply) for index in indices]


def _sampled(
    backbone: Backbone,
    judge: Judge,
    prompts: Sequence[TokenIds],
    settings: RaftSettings,
    seed: int,
    sampler: Sampler,
    tell: Tell,
) -> _Round:
    """Have the policy reply, and the judge grade."""
    rows = sampler.sample(
        prompts, per_prompt=settings.replies, max_new_tokens=settings.max_new_tokens, seed=seed, tell=tell
    )
    sampled: list[Reply] = [reply for row in rows for reply in row]
    of_all, graded = grade(judge, [(prompts[reply.prompt], reply.token_ids) for reply in sampled])
    rewards, replies = of_all.cpu()[graded], [sampled[place] for place in graded]
    examples = [(prompts[reply.prompt], reply.token_ids) for reply in replies]
    policy = policy_log_probs(backbone, replies, examples)
    kl = [own - anchor for own, anchor in zip(policy, backbone.score(examples, "anchor").tolist(), strict=True)]
    scored = [
        Scored(*example, reward - settings.kl_coefficient * nats)
        for example, reply, reward, nats in zip(examples, replies, rewards.tolist(), kl, strict=True)
        if reply.ended
    ]
    tokens = sum(len(reply.token_ids) for reply in replies)
    measured = {
        "reward": rewards.mean().item(),
        "kl_per_reply": sum(kl) / len(kl),
        "sampled_kl": sum(kl) / max(1, tokens),
        "length": tokens / len(replies),
        "ended": len(scored) / len(replies),
        **figures_of(judge),
    }
    return _Round(scored, measured, len(sampled), len(sampled) - len(replies))
