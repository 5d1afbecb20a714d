"""One of several processes that share out trainings of a tiny model; what came of each is saved for a test to compare.

python -m tests.learner.sharing RANK WORLD MEETING MODEL OUTPUT SHARDING
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from learner import parallel
from learner.backbone import Backbone
from learner.batch import Example, TokenIds, collate
from learner.methods import answers, ppo, preference, raft, retention, rollouts
from learner.methods.anchor_scores import AnchorScores
from learner.methods.optimizer import Stepper
from learner.sampling import Reply, sample
from learner.stage_checkpoint import StageCheckpoint
from service.settings import PpoSettings, RaftSettings
from tests.learner.shared_work import put_together
from tests.learner.short_trainings import METHODS, PROMPTS, REPLIES, Enough
from tests.learner.tiny_backbone import SETTINGS, moved
from tests.learner.tiny_model import PAD
from tests.learner.toy_rewards import Counting

Load = Callable[..., Backbone]
"""Gives a new backbone; takes settings that are to be others."""

UPDATES = 3
EXAMPLES = [(prompt, REPLIES[place % 4]) for place, prompt in enumerate(PROMPTS[:6])]


def main() -> None:
    rank, world, meeting, model, output, sharding = sys.argv[1:]
    torch.set_num_threads(1)
    settings = SETTINGS.model_copy(update={"processes": int(world), "sharding": sharding})

    def load(**more: object) -> Backbone:
        return moved(Backbone.load(model, settings.model_copy(update=more)))

    if int(world) > 1:
        parallel.join(int(rank), int(world), Path(meeting))
    answers.MAX_NEW_TOKENS = rollouts.MAX_NEW_TOKENS = 12
    preference.PAIRS_PER_STEP = 4
    found: dict[str, Any] = {"facts": facts(load), "put together": put_together()}
    found |= {"parts": parts(load), "uneven": uneven(load)}
    for again in ("", " again"):
        found["sampled" + again] = sampled(load)
    for module in (answers, retention, rollouts, sys.modules["learner.sampler"]):
        module.sample = one_by_one  # type: ignore[attr-defined]
    for name, train in METHODS.items():
        found[name] = trained(load, train)
    for name in ("ppo", "raft"):
        found[f"{name} gone on with"] = gone_on_with(load, name, Path(meeting).with_name(f"{world}-{name}"))
    torch.save(found, output)
    parallel.leave()


def one_by_one(backbone: Backbone, prompts: Sequence[TokenIds], *, seed: int = 0, **how: Any) -> list[list[Reply]]:
    """The same replies, however many processes there are: each prompt has a seed of its own."""
    with parallel.alone():
        rows = [sample(backbone, [prompt], seed=seed + place, **how)[0] for place, prompt in enumerate(prompts)]
    return [[replace(reply, prompt=place) for reply in row] for place, row in enumerate(rows)]


def trained(load: Load, train: Callable[[Backbone], object]) -> dict[str, Any]:
    """Gradients of some updates that are not carried out, then metrics and weights of as many that are."""
    gradients, metrics = list[Tensor](), list[dict[str, float]]()
    update = Stepper.update

    def recorded(self: Stepper, scale: float = 1.0) -> dict[str, float]:
        if parallel.world() > 1:
            self._sum_up()
        gradients.append(torch.cat([torch.zeros(0) if p.grad is None else p.grad.flatten() for p in self._parameters]))
        for parameter in self._parameters:
            parameter.grad = None
        if len(gradients) == UPDATES:
            raise Enough
        return {}

    def told(self: Stepper, scale: float = 1.0) -> dict[str, float]:
        metrics.append(update(self, scale))
        if len(metrics) == UPDATES:
            raise Enough
        return metrics[-1]

    for instead in (recorded, told):
        backbone = load()
        Stepper.update = instead  # type: ignore[method-assign]
        try:
            train(backbone)
        except Enough:
            pass
        finally:
            Stepper.update = update  # type: ignore[method-assign]
    roles = [role for role in ("policy", "reward", "value") if backbone.has(role)]
    state = {f"{role} {name}": tensor for role in roles for name, tensor in backbone.adapter_state(role).items()}  # type: ignore[arg-type]
    return {"gradients": gradients, "metrics": metrics, "state": state}


def gone_on_with(load: Load, method: str, path: Path) -> dict[str, Any]:
    """Weights of a training that is never broken, and of one that dies after two iterations and goes on; and the steps
    that the latter has taken at last."""
    settings = {"iterations": 4, "prompts": 4, "replies": 3, "minibatch": 6, "max_new_tokens": 8}
    found: dict[str, Any] = {}

    def run(checkpoint: StageCheckpoint, dies_at: int = 1 << 30) -> list[int]:
        backbone, steps = load(), list[int]()

        def told(phase: str, step: int, _: int, metrics: Mapping[str, float]) -> None:
            if metrics:
                steps.append(step)
            if step == dies_at:
                raise Enough

        if method == "ppo":
            how = PpoSettings.model_validate(settings | {"stop_kl": 10.0})
            ppo.train(backbone, Counting(), PROMPTS, how, told, checkpoint=checkpoint)
        else:
            raft.train(
                backbone, Counting(), PROMPTS, RaftSettings.model_validate(settings), told, checkpoint=checkpoint
            )
        roles = ("policy", "value") if method == "ppo" else ("policy",)
        found["state"] = {f"{role} {name}": one for role in roles for name, one in backbone.adapter_state(role).items()}  # type: ignore[arg-type]
        return steps

    steps = run(StageCheckpoint())
    straight = found["state"]
    with suppress(Enough):
        run(StageCheckpoint(path, "this"), dies_at=steps[-1] - 1)
    again = run(StageCheckpoint(path, "this"))
    return {"straight": straight, "state": found["state"], "steps": len(steps), "steps again": len(again)}


def sampled(load: Load) -> list[list[TokenIds]]:
    replies = sample(load(), PROMPTS, per_prompt=3, max_new_tokens=8, seed=5)
    assert [[reply.prompt for reply in row] for row in replies] == [[place] * 3 for place in range(len(PROMPTS))]
    return [[reply.token_ids for reply in row] for row in replies]


def facts(load: Load) -> dict[str, Any]:
    """What is computed without gradients."""
    backbone = load()
    examples = [(prompt, REPLIES[place % 4]) for place, prompt in enumerate(PROMPTS)]
    return {
        "scores": backbone.score(examples, "policy"),
        "few": backbone.score(examples[:1], "base"),
        "none": backbone.score([], "base"),
        "anchor": AnchorScores(backbone).of(examples),
    }


def parts(load: Load) -> dict[str, Any]:
    """How many of the base's weights are here, as a whole and in part, before and after a step, and of the first layer
    while the second is at work; and what the first process alone computes, for which it takes the others' parts."""
    backbone = load(gradient_checkpointing=True)
    layers = backbone.model.get_base_model().get_decoder().layers
    held, during = [_held(backbone.model)], list[tuple[int, int]]()
    hook = layers[1].register_forward_hook(lambda *_: during.append(_held(layers[0])))

    def loss(some: Sequence[Example]) -> tuple[Tensor, dict[str, float]]:
        return -backbone.log_probs(collate(some, PAD)).sum() / len(some), {}

    stepper = Stepper(backbone.trainable(), 0.1)
    stepper.add("examples", EXAMPLES, loss)
    held.append(_held(backbone.model))
    hook.remove()
    step, by_first = stepper.update(), parallel.from_first(lambda: backbone.score(EXAMPLES, "policy"))
    return {"held": held, "during": during, "layer": sum(_held(layers[0])), "step": step, "by first": by_first}


def _held(module: nn.Module) -> tuple[int, int]:
    """Weights of the base that are there as a whole, and those of which only these are there."""
    whole = part = 0
    for name, parameter in module.named_parameters():
        if isinstance(parameter, DTensor):
            part += parameter.to_local().numel()
        elif _is_base(name):
            whole += parameter.numel()
    return whole, part


def _is_base(name: str) -> bool:
    return "lora_" not in name


class _Full(torch.autograd.Function):
    """What runs out of memory on the way back, while there is more than one example."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, examples: list[int]) -> Tensor:
        ctx.examples = examples
        return states.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        if ctx.examples[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return gradients[0], None


def uneven(load: Load) -> dict[str, Any]:
    """Gradients of all roles, where the first process runs out of memory within a forward pass and takes its share in
    halves, and the second within a backward pass; with layers that are kept and with such that run again."""
    found: dict[str, Any] = {}
    for name, more in {"kept": {}, "run again": {"gradient_checkpointing": True}}.items():
        backbone, examples = load(**more), [0]
        backbone.add_head("reward", 2)
        backbone.add_head("value")
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():  # an adapter that has no effect yet has no gradient for one of its two factors
            for parameter in [*backbone.trainable("reward"), *backbone.trainable("value")]:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        layers = backbone.model.get_base_model().get_decoder().layers

        def fail(*_: object, examples: list[int] = examples) -> None:
            if torch.is_grad_enabled() and examples[-1] > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        def fail_later(_: nn.Module, __: object, states: Tensor, examples: list[int] = examples) -> Tensor:
            failing: Tensor = _Full.apply(states, examples)  # type: ignore[no-untyped-call]  # torch leaves it
            return failing

        def loss(some: Sequence[Example], backbone: Backbone = backbone, examples: list[int] = examples) -> Any:
            examples.append(len(some))
            batch = collate(some, PAD)
            value = backbone.log_probs(batch).sum() + backbone.rewards(batch).square().sum()
            return (value + backbone.values(batch).square().sum()) / len(some), {}

        if parallel.world() > 1 and parallel.is_first():
            layers[1].mlp.act_fn.register_forward_pre_hook(fail)
        elif parallel.world() > 1:
            layers[0].register_forward_hook(fail_later)
        stepper = Stepper([p for role in ("policy", "reward", "value") for p in backbone.trainable(role)], 0.1)
        stepper.add("examples", EXAMPLES, loss)
        if parallel.world() > 1:
            stepper._sum_up()
        found[name] = [torch.zeros(0) if p.grad is None else p.grad for p in stepper._parameters]
        found[name + " by"] = examples[1:]
    return found


if __name__ == "__main__":
    main()
