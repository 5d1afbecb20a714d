"""Proof that an engine serves an adapter: the log-probabilities of probes, trainer against engine.

An adapter can load without an error and change nothing, or be answered by another one's weights. So the engine scores
replies whose log-probabilities the trainer knows, under the adapter, the bare base and the adapter that is live:
    gap    mean |engine's adapter - trainer's adapter| per token must be within the tolerance (what is as good as never
           said counts as _UNSAID: by how much less it is said, no engine in bfloat16 can tell), and
    slope  what the engine says more or less under the adapter than under the base, or under the live adapter, must go
           along with what the trainer's adapter says more or less, token by token: the slope of the one over the other
           is 1 where the adapter answers and 0 where the other does. An engine that computes in bfloat16 is off by as
           much as many an adapter changes, but not in its direction, so over some hundred tokens this tells what the
           gap alone can't. Where even that is within the noise (engine's base - trainer's base), the words say so.
To score, vLLM computes the whole text anew, without its prefix cache. That names are never used again, and the cache's
salt, keep that cache right; that it is right is proved by ordinary requests (`service.adapters.probing`):
    cache gap  mean |log-probability of what the engine goes on with - its score| must be within the tolerance, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.adapters.manifest import Probe

_LEAST_NOISE = 1e-4  # nats: below that, two engines' float32 sums differ too
_UNSAID = -8.0  # nats: one in 3,000. Rounding moves a log-probability of -15, far from all others, by 0.1
_SURELY = 3.0  # standard errors between a slope of 0 and one half of what it should be

Logprobs = Sequence[Sequence[float]]
"""For each probe, the log-probability of each token of its reply."""


@dataclass(frozen=True)
class Verdict:
    served: bool
    words: str  # one or two sentences for people
    engine_at_fault: bool = False  # it disagrees about the bare base already
    cache_at_fault: bool = False  # it agrees where it computes anew
    untold: tuple[str, ...] = ()  # what might answer instead, for all that the probes say: the base, other adapters


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
    trainer_base = [probe.base_logprobs for probe in probes]
    errors = [value**2 for value in _less(_said(base), _said(trainer_base))]
    error = max(sum(errors) / len(errors), _LEAST_NOISE**2)  # mean square of one log-probability's
    untold, instead = [], dict[str, Logprobs]()
    for name, other in {"base": base, **others}.items():
        expected = _less(trainer, trainer_base if name == "base" else other)
        slope = _slope(_less(adapter, other), expected, error, is_exact=name == "base")
        if slope is None:
            untold.append(name)
        elif slope < 0.5:
            instead[name] = other
    if instead:
        nearest = min(instead, key=lambda name: mean_gap(adapter, instead[name]))
        return Verdict(False, f"The engine loaded it, but answers like {nearest}.")
    words = f"engine and trainer agree within {gap:.4f} nats per token"
    if "base" in untold:
        words = words.capitalize()
    else:
        words = f"Proved: {words}; without the adapter they would differ by {mean_gap(base, trainer):.4f}"
    if untold:
        words += f"; on these probes it can't be told from {' and '.join(untold)}"
    kl = f"KL of trainer to engine: {kl_per_token(trainer, adapter):.1e} nats per token."
    return Verdict(True, f"{words}. {kl}", untold=tuple(untold))


def not_as_computed_anew(gap: float, of_base: float, tolerance: float) -> Verdict:
    """Of an adapter that is right when computed anew, while ordinary requests are off by `gap`, above the tolerance, in
    nats per token; under the bare base they are off by `of_base`."""
    words = f"Ordinary requests are answered otherwise than the same text computed anew, by {gap:.4f} nats per token, "
    words += f"above rollout.probe_tolerance ({tolerance}): "
    if of_base <= tolerance:
        words += "the engine's prefix cache holds what was computed under another adapter."
        return Verdict(False, words, cache_at_fault=True)
    return Verdict(False, f"{words}and so is the bare base, so its log-probabilities aren't the model's own.", True)


def _slope(engine: Sequence[float], trainer: Sequence[float], error: float, is_exact: bool) -> float | None:
    """How far the engine's differences go along with the trainer's: 1 entirely, 0 not at all; None: nobody could tell.

    `error`: the mean square of what the engine's log-probabilities are off by. Not `is_exact`: the trainer's
    differences are from the engine's own numbers, and hold its errors, too.
    """
    square = sum(value**2 for value in trainer)
    signal = square - (0.0 if is_exact else error * len(trainer))
    spread = (2 * error * square) ** 0.5  # of the product below, where the differences have nothing in common
    if signal / 2 <= _SURELY * spread:
        return None
    return sum(one * other for one, other in zip(engine, trainer, strict=True)) / signal


def kl_per_token(trainer: Logprobs, engine: Logprobs) -> float:
    """Mean KL(trainer ‖ engine) per token, in nats, estimated from what both say of the same tokens.

    The estimator r - 1 - log r with r = engine / trainer (Schulman, "Approximating KL Divergence", k3): never negative,
    of low variance, and unbiased where the tokens were drawn from the trainer; a probe's mostly weren't.
    """
    ratios = _less(engine, trainer)
    return sum(math.expm1(ratio) - ratio for ratio in ratios) / len(ratios)


def mean_gap(one: Logprobs, other: Logprobs) -> float:
    """Mean absolute difference over all tokens of all probes, in nats; those below _UNSAID are taken to be there."""
    gaps = [abs(difference) for difference in _less(_said(one), _said(other))]
    return sum(gaps) / len(gaps)


def _said(logprobs: Logprobs) -> Logprobs:
    return [[max(value, _UNSAID) for value in row] for row in logprobs]


def _less(one: Logprobs, other: Logprobs) -> list[float]:
    """The differences, token by token."""
    return [a - b for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)]


def _too_far(of: str, gap: float, tolerance: float) -> str:
    return (
        f"The engine's log-probabilities of {of} differ from the trainer's by {gap:.4f} nats per token, "
        f"above rollout.probe_tolerance ({tolerance})."
    )
