"""An adapter trained in four bits belongs on the dequantised base: there the engine says what the trainer says."""

from __future__ import annotations

from pathlib import Path

from learner.dequantise import dequantise
from service.settings import SPROUT
from tests.bench.quantised import Fit, Trained, fit, train
from tests.fixtures.engines import SMALL, on_gpu, serving_sprout


def test_the_engine_agrees_with_a_qlora_trainer_over_the_dequantised_base_and_not_over_the_other(
    tmp_path: Path,
) -> None:
    trained = train(tmp_path / "qlora", "nf4", lessons=6, replies=12)
    dequantise(SPROUT, tmp_path / "sprout-nf4", lambda done, of, name: None)
    right = _served(trained, tmp_path / "right", str(tmp_path / "sprout-nf4"))
    wrong = _served(trained, tmp_path / "wrong", None)
    gap, kl, times, times_kl = (5e-3, 1e-3, 3, 5) if on_gpu() else (1e-3, 1e-6, 100, 1000)  # bfloat16 on a GPU
    assert right.proof == "served" and right.gap < gap and right.kl < kl
    assert wrong.proof == "refused" and wrong.gap > times * right.gap and wrong.kl > times_kl * right.kl


def _served(trained: Trained, home: Path, weights: str | None) -> Fit:
    with serving_sprout("embedded", home, SMALL | {"weights": weights}) as engine:
        return fit(engine, trained)
