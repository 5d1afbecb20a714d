"""Our side of the benchmarks of learning: the steps that `learner.methods` take, on a backbone of their own.

python -m tests.bench.learning_ours WORK
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from random import Random

import torch
from transformers import AutoConfig

from learner.backbone import Backbone
from learner.batch import Demonstration, Label, Pair
from learner.methods import kto, ppo, preference, sft
from learner.methods.anchor_scores import AnchorScores
from learner.methods.bagging import BaggedJudgements
from learner.methods.optimizer import Stepper
from learner.methods.retention import Retention
from learner.methods.reward_model import RewardFit, RewardModel
from learner.sampler import InProcessSampler
from service.settings import LearnerSettings, PpoSettings
from tests.bench.learning_work import LEARNING_RATE, PPO_EPOCHS, Method, Work, serve, timed

Step = Callable[[int], object]
"""Given the number of the batch."""
UNREAD = RewardFit(
    pairs=0, labels=0, too_long=0, steps=0, skipped_steps=0, kept=0, accuracy=None, label_accuracy=None,
    log_likelihood=None, temperature=1.0, members=LearnerSettings().reward_members,
)  # fmt: skip


def load(work: Work) -> Callable[[int], float]:
    settings = LearnerSettings(
        rank=work.rank, alpha=work.alpha, batch_size=work.batch, dpo_learning_rate=LEARNING_RATE,
        sft_learning_rate=LEARNING_RATE, kto_learning_rate=LEARNING_RATE, reward_learning_rate=LEARNING_RATE,
        quantise="nf4" if work.precision == "nf4" else "none",
    )  # fmt: skip
    backbone = Backbone.load(work.model, settings, device=work.device)
    begun = time.perf_counter()
    step = STEPS[work.method](work, backbone, settings)
    numbers = count()
    once = 0.0
    if work.method == "kto":  # the anchor's numbers serve all passes of a training: each step pays its share of them
        once = (time.perf_counter() - begun) * work.batch / work.count / kto.FEWEST_PASSES

    def run(steps: int) -> None:
        for _ in range(steps):
            step(next(numbers))

    return lambda steps: timed(work, run, steps) + once * steps


def _dpo(work: Work, backbone: Backbone, settings: LearnerSettings) -> Step:
    """A step of `learner.methods.pairs_dpo`. The anchor's numbers are computed in every one, or, as the peer's, before
    the clock starts."""
    pairs, stepper = _pairs(work), Stepper(backbone.trainable(), LEARNING_RATE, in_4_bits=backbone.in_4_bits)
    known = AnchorScores(backbone)
    if work.method == "dpo-precomputed":
        known.of([(pair.prompt_token_ids, reply) for pair in pairs for reply in (pair.chosen, pair.rejected)])

    def step(number: int) -> None:
        anchor = known if work.method == "dpo-precomputed" else AnchorScores(backbone)
        some = [pairs[index] for index in _batch(work, number)]
        stepper.add("pairs", some, partial(preference.dpo, backbone, settings, anchor), weight=preference.pair_weights)
        stepper.update()

    return step


def _reward(work: Work, backbone: Backbone, settings: LearnerSettings) -> Step:
    backbone.add_head("reward", settings.reward_members)
    lessons = BaggedJudgements(backbone, _pairs(work), [], [], settings, seed=0)
    stepper = Stepper(backbone.trainable("reward"), LEARNING_RATE, in_4_bits=backbone.in_4_bits)

    def step(number: int) -> None:
        lessons.add(stepper, (_batch(work, number), [], []))
        stepper.update()

    return step


def _sft(work: Work, backbone: Backbone, settings: LearnerSettings) -> Step:
    """Nothing is retained: the peer has nothing like it."""
    taught = [Demonstration(tuple(prompt), tuple(reply)) for prompt, reply, _ in work.examples()]
    nothing, draws = Retention(backbone, [], Random(0)), Random(0)
    course = sft._Course(backbone, taught, [0.0] * len(taught), nothing, settings, draws, _quiet)
    return lambda number: course._take(_batch(work, number), 1.0, 1)


def _kto(work: Work, backbone: Backbone, settings: LearnerSettings) -> Step:
    labels = [
        Label(tuple(prompt), tuple(reply), desirable=index % 2 == 0)
        for index, (prompt, reply, _) in enumerate(work.examples())
    ]
    course = kto._Course(backbone, labels, {}, settings, Random(0), AnchorScores(backbone))
    stepper = Stepper(backbone.trainable(), LEARNING_RATE, in_4_bits=backbone.in_4_bits)

    def step(number: int) -> None:
        course.add(stepper, _batch(work, number))
        stepper.update()

    return step


def _ppo(work: Work, backbone: Backbone, settings: LearnerSettings) -> Step:
    """An iteration is a step. The first ones, in which the value function alone learns, are passed over."""
    backbone.model.generation_config.eos_token_id = []  # nothing ends a reply before its last token
    backbone.add_head("reward", UNREAD.members)
    chosen = PpoSettings(
        iterations=1_000_000, prompts=work.batch // work.sampled_to_a_prompt, replies=work.sampled_to_a_prompt,
        epochs=PPO_EPOCHS, minibatch=work.batch, learning_rate=LEARNING_RATE, value_learning_rate=LEARNING_RATE,
        max_new_tokens=work.reply_tokens, stop_kl=1e9,
    )  # fmt: skip
    judge = RewardModel(backbone, UNREAD)
    course = ppo._Course(backbone, judge, chosen, 0, (), InProcessSampler(backbone))
    prompts = [tuple(prompt) for prompt in work.prompts()]

    def step(number: int) -> None:
        start = number * chosen.prompts % len(prompts)
        course.iterate(chosen.value_warmup + number, prompts[start : start + chosen.prompts], _quiet)

    return step


STEPS: dict[Method, Callable[[Work, Backbone, LearnerSettings], Step]] = {
    "dpo": _dpo, "dpo-precomputed": _dpo, "reward": _reward, "sft": _sft, "kto": _kto, "ppo": _ppo,
}  # fmt: skip


def rate(work: Work) -> float:
    """On a CPU of float32 products of a batch's tokens with a matrix of the model's MLP, on a GPU of large ones in
    bfloat16: the best of a few stretches."""
    if work.device == "cuda":
        rows = inner = columns = 8192
    else:
        config = AutoConfig.from_pretrained(work.model)
        rows, inner, columns = (
            work.batch * (work.prompt_tokens + work.reply_tokens), config.hidden_size, config.intermediate_size,
        )  # fmt: skip
    dtype = torch.bfloat16 if work.device == "cuda" else torch.float32
    left, right = (torch.randn(shape, device=work.device, dtype=dtype) for shape in ((rows, inner), (inner, columns)))
    flop = 2 * rows * inner * columns
    often = 16 if work.device == "cuda" else min(16, max(1, int(2e10 / flop)))

    def multiply(times: int) -> None:
        for _ in range(times):
            torch.mm(left, right)

    best: float = max(often * flop / timed(work, multiply, often) for _ in range(8))
    return best


def _batch(work: Work, number: int) -> list[int]:
    start = number * work.batch % work.count
    return list(range(start, start + work.batch))


def _pairs(work: Work) -> list[Pair]:
    return [Pair(tuple(prompt), tuple(one), tuple(other)) for prompt, one, other in work.examples()]


def _quiet(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
    pass


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as in the learner's process
    serve(load, rate)
