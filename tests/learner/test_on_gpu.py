"""On a GPU the backbone computes what it does on a CPU, to the precision of bfloat16; skipped where there is none."""

from __future__ import annotations

from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.backbone import Backbone
from learner.batch import Example, collate
from learner.methods.adamw import make_adamw, moments, set_moments
from learner.sampling import sample
from service.settings import SPROUT, LearnerSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def on(device: str, quantise: str = "none") -> Backbone:
    """`sprout` with an adapter that does something, the same on every device."""
    made = Backbone.load(SPROUT, LearnerSettings.model_validate({"quantise": quantise}), device=device)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.trainable():
            parameter.add_((torch.randn(parameter.shape, generator=generator) * 0.02).to(parameter))
    return made


def examples() -> list[Example]:
    """Three replies to each of eight prompts."""
    draws = Random(0)

    def words(most: int) -> tuple[int, ...]:
        return tuple(draws.randrange(8, 2000) for _ in range(draws.randint(1, most)))

    return [(prompt, words(40)) for prompt in [words(200) for _ in range(8)] for _ in range(3)]


@pytest.mark.parametrize("quantise", ["none", "nf4"])
def test_log_probabilities_and_gradients_are_those_of_a_cpu(quantise: str) -> None:
    found = []
    for device in ("cuda", "cpu"):
        backbone = on(device, quantise)
        assert backbone._packs
        batch = collate(examples(), backbone.pad_id)
        log_probs = backbone.log_probs(batch)
        gradients = torch.autograd.grad(log_probs.mean(), backbone.trainable())
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        flat = torch.cat([gradient.flatten().cpu() for gradient in gradients])
        found.append((log_probs.detach().cpu()[batch.reply_mask], flat))
    (on_gpu, gpu_slopes), (on_cpu, cpu_slopes) = found
    assert (on_gpu - on_cpu).abs().mean() < 0.2  # of tokens at -16 nats; 0.1 with bfloat16 on a CPU
    assert F.cosine_similarity(gpu_slopes, cpu_slopes, dim=0) > 0.98  # 0.991 there
    assert 0.97 < gpu_slopes.norm() / cpu_slopes.norm() < 1.03


@pytest.mark.parametrize("role", ["policy", "base"])
def test_packed_rows_are_scored_as_padded_ones(role: str) -> None:
    packed, padded = on("cuda"), on("cuda")
    padded._packs = False
    padded.model.get_base_model().set_attn_implementation("sdpa")
    batch = collate(examples(), packed.pad_id)
    with torch.no_grad():
        gap = (packed.log_probs(batch, role) - padded.log_probs(batch, role)).abs()  # type: ignore[arg-type]
    assert gap[batch.reply_mask.cuda()].mean() < 0.2


@pytest.mark.parametrize("quantise", ["none", "nf4"])
def test_replies_are_sampled_from_the_policy_that_scores_them(quantise: str) -> None:
    backbone = on("cuda", quantise)
    prompts = [example[0][:30] for example in examples()[::3]]
    replies = [reply for some in sample(backbone, prompts, per_prompt=20, max_new_tokens=24) for reply in some]
    scored = backbone.score([(prompts[reply.prompt], reply.token_ids) for reply in replies], "policy")
    lengths = torch.tensor([float(len(reply.token_ids)) for reply in replies])
    gaps = (torch.tensor([reply.log_prob for reply in replies]) - scored) / lengths
    assert gaps.mean().abs() < 0.01
    assert gaps.abs().mean() < 0.05
    again = [reply for some in sample(backbone, prompts, per_prompt=20, max_new_tokens=24) for reply in some]
    assert [reply.token_ids for reply in again] == [reply.token_ids for reply in replies]


def test_adamw_in_pages_steps_as_torchs_does_and_goes_on_from_a_copy() -> None:
    """Of a matrix that is large enough for pages, and of one that isn't."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((512, 256), (16, 8))]
    slopes = [[torch.randn(one.shape, generator=generator) for one in start] for _ in range(6)]

    def made(values: list[Tensor], in_4_bits: bool) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
        own = [nn.Parameter(value.cuda()) for value in values]
        return make_adamw(own, 0.05, in_4_bits=in_4_bits), own

    def move(optimizer: torch.optim.Optimizer, own: list[nn.Parameter], steps: list[list[Tensor]]) -> None:
        for some in steps:
            for parameter, slope in zip(own, some, strict=True):
                parameter.grad = slope.cuda()
            optimizer.step()
        torch.cuda.synchronize()

    (usual, by_torch), (paged, own) = made(start, False), made(start, True)
    move(usual, by_torch, slopes)
    move(paged, own, slopes[:3])
    again, others = made([parameter.detach().cpu() for parameter in own], True)
    set_moments(again, moments(paged))
    for optimizer, parameters in ((paged, own), (again, others)):
        move(optimizer, parameters, slopes[3:])
        assert optimizer.state[parameters[0]]["state1"].is_paged
    for one, other, expected in zip(own, others, by_torch, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-4)  # six steps of up to 0.05 each
