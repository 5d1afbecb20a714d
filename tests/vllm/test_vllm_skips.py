"""Where vLLM can't run, its tests say why they are skipped; this one runs everywhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fixtures import engines


@pytest.mark.parametrize(
    ("system", "machine", "flags", "is_installed", "reason"),
    [
        ("darwin", "x86_64", "avx avx2 fma", True, "vLLM's CPU build needs Linux on x86-64; this is darwin on x86_64"),
        ("linux", "aarch64", "avx avx2 fma", True, "vLLM's CPU build needs Linux on x86-64; this is linux on aarch64"),
        ("linux", "x86_64", "avx avx2_of_another fma", True, "vLLM's CPU build needs a processor with AVX2"),
        ("linux", "x86_64", "avx avx2 fma", False, "vLLM is not installed in .venv-vllm: run `make vllm`"),
        ("linux", "x86_64", "avx avx2 fma", True, None),
    ],
)
def test_why_vllm_cannot_run_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    machine: str,
    flags: str,
    is_installed: bool,
    reason: str | None,
) -> None:
    processor, python = tmp_path / "cpuinfo", tmp_path / "python"
    processor.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n")
    if is_installed:
        python.touch()
    monkeypatch.setattr(engines, "sys", SimpleNamespace(platform=system))
    monkeypatch.setattr(engines, "platform", SimpleNamespace(machine=lambda: machine))
    monkeypatch.setattr(engines, "Path", {"/proc/cpuinfo": processor}.__getitem__)
    monkeypatch.setattr(engines, "VLLM_PYTHON", python)
    assert engines.why_vllm_cannot_run() == reason
