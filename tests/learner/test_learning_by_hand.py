"""What docs/learning.md shows of learning from Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from learner.loading import ADAPTER_WEIGHTS

ROOT = Path(__file__).parents[2]


def test_the_documented_lines_train_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "learning.md").read_text(encoding="utf-8")
    (script,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "learner.backbone" in block]
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "docs/learning.md", "exec"), {"__name__": "by_hand"})
    weights = load_file(tmp_path / "my-adapter" / ADAPTER_WEIGHTS)
    assert any(bool((tensor != 0).any()) for name, tensor in weights.items() if "lora_B" in name)
