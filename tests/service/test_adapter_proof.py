"""The proof that an engine serves what was trained: which log-probabilities are taken for the adapter's own."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from service.adapters.manifest import Probe
from service.adapters.proof import judge, kl_per_token

_PROBES = (
    Probe(prompt_token_ids=(1,), token_ids=(2, 3), logprobs=(-1.0, -2.0), base_logprobs=(-1.5, -2.5)),
    Probe(prompt_token_ids=(1,), token_ids=(4,), logprobs=(-3.0,), base_logprobs=(-3.5,)),
)
_TRAINED, _BASE = ((-1.0, -2.0), (-3.0,)), ((-1.5, -2.5), (-3.5,))


def _shifted(logprobs: tuple[tuple[float, ...], ...], by: float) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(value + by for value in reply) for reply in logprobs)


@pytest.mark.parametrize(
    ("adapter", "base", "others", "served"),
    [
        (_TRAINED, _BASE, {}, True),
        (_shifted(_TRAINED, 0.04), _shifted(_BASE, 0.04), {}, True),
        (_shifted(_TRAINED, 0.06), _BASE, {}, False),  # too far from the trainer
        (_TRAINED, _shifted(_BASE, 0.06), {}, False),  # another base
        (_shifted(_TRAINED, 0.02), _BASE, {"v1": _shifted(_TRAINED, 0.02)}, False),  # it is v1 that answers
        (_shifted(_TRAINED, 0.002), _BASE, {"v1": _shifted(_TRAINED, 0.02)}, True),
        (_TRAINED, _BASE, {"v1": _TRAINED}, True),  # a twin of v1: nothing to tell apart
        (_shifted(_TRAINED, float("nan")), _BASE, {}, False),
        (_TRAINED, _shifted(_BASE, float("nan")), {}, False),
    ],
)
def test_the_judge_wants_the_trainers_numbers_and_nobody_elses(
    adapter: Any, base: Any, others: Any, served: bool
) -> None:
    assert judge(_PROBES, adapter, base, others, tolerance=0.05).served is served


def test_what_is_as_good_as_never_said_is_not_held_against_an_engine_but_saying_it_is() -> None:
    """A correction that the base would never give: -15 or -15.3 is the same, and -7 is not."""
    [probe] = _PROBES[:1]
    never = [-15.0] * len(probe.token_ids)
    corrected = (probe.model_copy(update={"base_logprobs": never}),)
    adapter = [probe.logprobs]
    assert judge(corrected, adapter, [[value - 0.3 for value in never]], {}, tolerance=0.05).served
    another = judge(corrected, adapter, [[-7.0] * len(never)], {}, tolerance=0.05)
    assert not another.served and another.engine_at_fault
    assert not judge(corrected, [never], [never], {}, tolerance=0.05).served


def test_what_is_never_said_does_not_hide_that_the_base_answers() -> None:
    """Four tokens of -15 that the engine takes for -14 are no measure of how far off it is on the others."""
    base = [-2.0] * 96 + [-15.0] * 4
    trained = [value + (0.04 if place % 2 else -0.04) for place, value in enumerate(base)]
    probe = Probe(prompt_token_ids=(1,), token_ids=range(100), logprobs=trained, base_logprobs=base)
    engine_base = [[-2.0] * 96 + [-14.0] * 4]
    verdict = judge((probe,), engine_base, engine_base, {}, tolerance=0.05)
    assert not verdict.served and "answers like base" in verdict.words


def test_the_kl_of_trainer_to_engine_is_estimated_token_by_token() -> None:
    """By hand, with two tokens: the engine gives half, and twice, the trainer's probability; r - 1 - ln r of each."""
    trainer, engine = [[-1.0], [-2.0]], [[-1.0 - 0.693147], [-2.0 + 0.693147]]
    assert kl_per_token(trainer, engine) == pytest.approx(((0.5 - 1 + 0.693147) + (2 - 1 - 0.693147)) / 2, abs=1e-6)
    assert kl_per_token(trainer, trainer) == 0
    assert "KL of trainer to engine: 0.0e+00 nats" in judge(_PROBES, _TRAINED, _BASE, {}, tolerance=0.05).words


def test_noise_between_engine_and_trainer_is_not_taken_for_an_adapter_that_does_nothing() -> None:
    """Trained hardly at all, on an engine that differs from the trainer by as much: there is nothing to tell apart."""
    hardly = tuple(p.model_copy(update={"base_logprobs": tuple(v - 0.004 for v in p.logprobs)}) for p in _PROBES)
    assert judge(hardly, _shifted(_TRAINED, 0.003), _shifted(_TRAINED, -0.001), {}, tolerance=0.05).served


@pytest.mark.parametrize("answers", ["the adapter", "base", "v1"])
def test_in_bfloat16_the_direction_tells_what_answers_where_the_gap_does_not(answers: str) -> None:
    """Errors of 0.025 a token, an adapter that moves 0.04, and one before it that moved 0.04 otherwise."""
    rng = Random(0)

    def draw(size: float) -> list[float]:
        return [rng.gauss(0.0, size) for _ in range(200)]

    def off(values: Sequence[float]) -> tuple[tuple[float, ...]]:
        return (tuple(value + error for value, error in zip(values, draw(0.025), strict=True)),)

    base = [-2.0 + value for value in draw(0.3)]
    trained, before = ([b + value for b, value in zip(base, draw(0.04), strict=True)] for _ in range(2))
    probe = Probe(prompt_token_ids=(1,), token_ids=range(200), logprobs=trained, base_logprobs=base)
    engine_base, engine_v1 = off(base), off(before)
    found = {"the adapter": off(trained), "base": engine_base, "v1": engine_v1}[answers]
    verdict = judge((probe,), found, engine_base, {"v1": engine_v1}, tolerance=0.05)
    assert verdict.served is (answers == "the adapter"), verdict.words
    assert answers == "the adapter" or f"answers like {answers}" in verdict.words


def test_what_can_not_be_told_apart_is_not_said_to_be_proved() -> None:
    twin = judge(_PROBES, _TRAINED, _BASE, {"v1": _TRAINED}, tolerance=0.05)
    assert twin.words.startswith("Proved: engine") and "can't be told from v1." in twin.words
    idle = tuple(p.model_copy(update={"base_logprobs": p.logprobs}) for p in _PROBES)
    vain = judge(idle, _TRAINED, _TRAINED, {}, tolerance=0.05)
    assert vain.served and vain.words.startswith("Engine and trainer agree")
    assert "it can't be told from base." in vain.words
    assert (twin.untold, vain.untold) == (("v1",), ("base",))
    assert judge(_PROBES, _TRAINED, _BASE, {"v1": _BASE}, tolerance=0.05).untold == ()
