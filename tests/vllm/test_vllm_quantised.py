"""vLLM and bases in four bits: it has none of itself, and needs none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from learner.dequantise import dequantise
from service.engine_program import VLLM_PYTHON
from service.settings import SPROUT, RolloutSettings
from tests.bench.quantised import fit, train
from tests.fixtures.engines import SMALL, serving_sprout, why_vllm_cannot_run

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]


@pytest.fixture(autouse=True)
def _where_vllm_runs() -> None:
    if (reason := why_vllm_cannot_run()) is not None:
        pytest.skip(reason)


def test_an_adapter_that_was_trained_in_four_bits_is_served_over_the_dequantised_base(tmp_path: Path) -> None:
    """QLoRA on the CPU: what it writes passes the proof before which nothing goes live."""
    trained = train(tmp_path / "qlora", "nf4", lessons=6, replies=12)
    dequantise(SPROUT, tmp_path / "sprout-nf4", lambda done, of, name: None)
    with serving_sprout("vllm", tmp_path / "home", SMALL | {"weights": str(tmp_path / "sprout-nf4")}) as engine:
        served = fit(engine, trained)
    assert served.proof == "served" and served.gap < RolloutSettings().probe_tolerance


def test_bitsandbytes_is_not_in_vllm_itself() -> None:
    """If it is again, an engine may quantise the base as it loads it, and docs/quantised.md should say how."""
    code = """
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
print(*QUANTIZATION_METHODS)
"""
    ended = subprocess.run([VLLM_PYTHON, "-c", code], capture_output=True, text=True, check=True)
    methods = ended.stdout.splitlines()[-1].split()
    assert "fp8" in methods and "bitsandbytes" not in methods
