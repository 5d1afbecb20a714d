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
from collections.abc import Iterator, Mapping, Sequence
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
from service.errors import TrainingFailed
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
    on from; the result is that of one unbroken training. Raises TrainingFailed when no reply comes to an end, or the
    loss stays without a finite value, what `rollouts.grade` raises, and what the sampler raises.
    """
    sampler = sampler or InProcessSampler(backbone)
    asked, too_long = with_room(sampler, prompts, settings.max_new_tokens)
    course = _Course(backbone, judge, asked, settings, progress, seed, sampler)
    if asked:
        course.learn(checkpoint or StageCheckpoint())
    return RaftResult(
        course.step, course.replies, len(course.best), too_long, course.skipped, sampler.left_out, course.ungraded,
        course.measured,
    )  # fmt: skip


class _Course:
    """The rounds of one training, and what they hand on to each other."""

    def __init__(
        self, backbone: Backbone, judge: Judge, asked: Sequence[TokenIds], settings: RaftSettings, progress: Progress,
        seed: int, sampler: Sampler,
    ) -> None:  # fmt: skip
        self._backbone, self._judge, self._asked, self._settings = backbone, judge, asked, settings
        self._progress, self._seed, self._sampler = progress, seed, sampler
        self._each = min(settings.prompts, len(asked))
        self._steps = sum(
            settings.epochs * -(-min(len(asked), self._each * (number + 1)) // settings.minibatch)
            for number in range(settings.iterations)
        )
        small = backbone.in_4_bits
        self._stepper = Stepper(backbone.trainable(), settings.learning_rate, warmup=4, in_4_bits=small)
        self._rng, self._draws = Random(seed + 1), Random(seed)
        self.best: dict[TokenIds, Scored] = {}
        self.measured: dict[str, float] = {}
        self.step = self.replies = self.ungraded = self._rounds = 0
        self._first_reward = 0.0  # mean of the first round's replies

    @property
    def skipped(self) -> int:
        """Steps without a finite loss or gradient."""
        return self._stepper.skipped

    def learn(self, checkpoint: StageCheckpoint) -> None:
        """All rounds, or those that an earlier attempt left."""
        if kept := checkpoint.part(PHASE):
            self._load_state(kept)
            log.info("It goes on after round %d of %d.", self._rounds, self._settings.iterations)
        while self._rounds < self._settings.iterations:
            self._round()
            checkpoint.keep(PHASE, self._state, now=self._rounds == self._settings.iterations)
        self._stepper.end()
        if not self.best:
            raise TrainingFailed(
                f"None of {self.replies} replies came to an end within {self._settings.max_new_tokens} tokens.",
                "Raise raft.max_new_tokens.",
            )

    def _round(self) -> None:
        """Sample, grade, keep the best, and learn all of these."""
        self._tell(waits=False)
        chosen = self._draws.sample(self._asked, self._each)
        seed = self._seed + 1000 * self._rounds
        sampled = _sampled(self._backbone, self._judge, chosen, self._settings, seed, self._sampler, self._tell)
        self.replies, self.ungraded = self.replies + sampled.replies, self.ungraded + sampled.ungraded
        for one in sampled.scored:
            if one.prompt not in self.best or one.worth > self.best[one.prompt].worth:
                self.best[one.prompt] = one
        self.measured = sampled.measured
        if self._rounds == 0:
            self._first_reward = self.measured["reward"]
        self.measured["reward_gained"] = self.measured["reward"] - self._first_reward
        if self._sampler.left_out:
            self.measured["left_out"] = self._sampler.left_out
        if self.ungraded:
            self.measured["ungraded"] = self.ungraded
        self.measured["best"] = sum(one.worth for one in self.best.values()) / max(1, len(self.best))
        for examples in _batches(list(self.best.values()), self._settings, self._rng):
            metrics = self._stepper.add("best replies", examples, partial(_loss, self._backbone), weight=reply_tokens)
            metrics |= self._stepper.update(1 - 0.9 * self.step / self._steps)
            self.step += 1
            self._progress(PHASE, self.step, self._steps, self.measured | metrics)
        self._rounds += 1

    def _tell(self, waits: bool) -> None:
        self._progress(WAITING if waits else PHASE, self.step, self._steps, {})

    def _state(self) -> dict[str, Any]:
        """All that decides later rounds; between two of them."""
        return {
            "policy": self._backbone.adapter_state(), "stepper": self._stepper.state(),
            "fitting": sizes(self._backbone.fitting), "rng": self._rng.getstate(), "draws": self._draws.getstate(),
            "best": [astuple(one) for one in self.best.values()], "step": self.step, "replies": self.replies,
            "ungraded": self.ungraded, "rounds": self._rounds, "measured": self.measured,
            "first_reward": self._first_reward,
        }  # fmt: skip

    def _load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._backbone.load_adapter_state(state["policy"])
        self._stepper.load_state(state["stepper"])
        set_sizes(self._backbone.fitting, state["fitting"])
        set_random(self._rng, state["rng"])
        set_random(self._draws, state["draws"])
        best = (Scored(tuple(prompt), tuple(reply), worth) for prompt, reply, worth in state["best"])
        self.best = {one.prompt: one for one in best}
        self.step, self.replies, self.ungraded = state["step"], state["replies"], state["ungraded"]
        self._rounds, self.measured, self._first_reward = state["rounds"], state["measured"], state["first_reward"]


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
