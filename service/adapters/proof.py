"""Proof that an engine serves an adapter: the log-probabilities of probes, trainer against engine.

An adapter can load without an error and change nothing, or be answered by another one's weights. So the engine scores
replies whose log-probabilities the trainer knows, under the adapter, the bare base and the adapter that is live:
    gap    mean |engine's adapter - trainer's adapter| per token must be within the tolerance, and
    other  where base or live adapter can be told apart from the trainer's adapter at all (their distance to it is more
           than twice the noise, which is mean |engine's base - trainer's base|), the gap must be clearly smaller
           than that distance.
To score, vLLM computes the whole text anew: of what its prefix cache would answer this proves nothing. That names are
never used again, and the cache's salt (`service.adapters.replica`), keep that cache right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.adapters.manifest import Probe

_LEAST_NOISE = 1e-4  # nats: below that, two engines' float32 sums differ too
_CLEARLY = 0.75

Logprobs = Sequence[Sequence[float]]
"""For each probe, the log-probability of each token of its reply."""


@dataclass(frozen=True)
class Verdict:
    served: bool
    words: str  # one or two sentences for people
    engine_at_fault: bool = False  # it disagrees about the bare base already


def judge(
    probes: Sequence[Probe],
    adapter: Logprobs,
    base: Logprobs,
    others: Mapping[str, Logprobs],
    tolerance: float,
) -> Verdict:
    """Does the engine serve the adapter that these probes are of?

    `adapter`, `base`: what the engine says under each; `others`: likewise, by name, for what must not be what answers.
    """
    trainer = [probe.logprobs for probe in probes]
    gap = mean_gap(adapter, trainer)
    noise = mean_gap(base, [probe.base_logprobs for probe in probes])
    if not noise <= tolerance:
        return Verdict(False, _too_far("the bare base", noise, tolerance), True)
    if not gap <= tolerance:
        return Verdict(False, _too_far("the adapter", gap, tolerance))
    for name, logprobs in {"base": base, **others}.items():
        distance = mean_gap(logprobs, trainer)
        if distance > 2 * max(noise, _LEAST_NOISE) and gap > _CLEARLY * distance:
            return Verdict(False, f"The engine loaded it, but answers like {name}.")
    return Verdict(
        True,
        f"Proved: engine and trainer agree within {gap:.4f} nats per token; without the adapter they would differ by "
        f"{mean_gap(base, trainer):.4f}. KL of trainer to engine: {kl_per_token(trainer, adapter):.1e} nats per token.",
    )


def kl_per_token(trainer: Logprobs, engine: Logprobs) -> float:
    """Mean KL(trainer ‖ engine) per token, in nats, estimated from what both say of the same tokens.

    The estimator r - 1 - log r with r = engine / trainer (Schulman, "Approximating KL Divergence", k3): never negative,
    of low variance, and unbiased where the tokens were drawn from the trainer; a probe's mostly weren't.
    """
    ratios = [b - a for left, right in zip(trainer, engine, strict=True) for a, b in zip(left, right, strict=True)]
    return sum(math.expm1(ratio) - ratio for ratio in ratios) / len(ratios)


def mean_gap(one: Logprobs, other: Logprobs) -> float:
    """Mean absolute difference over all tokens of all probes, in nats."""
    gaps = [abs(a - b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)]
    return sum(gaps) / len(gaps)


def _too_far(of: str, gap: float, tolerance: float) -> str:
    return (
        f"The engine's log-probabilities of {of} differ from the trainer's by {gap:.4f} nats per token, "
        f"above rollout.probe_tolerance ({tolerance})."
    )
