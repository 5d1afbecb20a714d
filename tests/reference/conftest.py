"""A tiny model with adapters, which both sides load, and TRL's answers: one process a version for the whole session."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from learner.adapted_model import HEAD, HeadRole
from learner.backbone import Backbone
from service.settings import LearnerSettings
from tests.learner.tiny_model import build_tiny_model

ROOT = Path(__file__).resolve().parents[2]
TRL = ROOT / ".venv-trl"
TRL_1_12 = TRL / "trl-1.12"
SETTINGS = LearnerSettings(rank=4, alpha=8.0)
POLICIES = {"policy": 0, "withdrawn": 3}
"""Seeds. Under `policy` replies to other prompts became likelier than they were to the base, under `withdrawn` less."""
HEADS: tuple[HeadRole, ...] = ("reward", "value")
MOST_SECONDS = 240
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


@dataclass(frozen=True, repr=False)
class Answers:
    """What one version of TRL says to the cases."""

    tensors: Mapping[str, Tensor]

    def of(self, case: str) -> dict[str, Tensor]:
        """All that it says to one of them, by name."""
        return {name.removeprefix(f"{case}/"): t for name, t in self.tensors.items() if name.startswith(f"{case}/")}

    def gradients(self, case: str) -> dict[str, Tensor]:
        """By the weights of the adapter."""
        return {name.removeprefix("gradient/"): t for name, t in self.of(case).items() if name.startswith("gradient/")}


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which both sides find the model and the adapters."""
    if not (TRL / "installed").exists():
        pytest.skip("TRL is not installed in .venv-trl: run `make trl`")
    folder = tmp_path_factory.mktemp("reference")
    build_tiny_model(folder / "model")
    backbone = Backbone.load(folder / "model", SETTINGS)
    for name, seed in POLICIES.items():
        draw(backbone.trainable(), seed)
        save_file(backbone.adapter_state(), folder / f"{name}.safetensors")
        backbone.save_adapter(folder / name)
    for seed, role in enumerate(HEADS, start=1):
        backbone.add_head(role)
        draw(backbone.trainable(role), seed)
        state = backbone.adapter_state(role)
        save_file(state | {f"{HEAD}bias": torch.zeros(1)}, folder / f"{role}.safetensors")  # TRL's heads have none
    return folder


def draw(parameters: list[torch.nn.Parameter], seed: int) -> None:
    """Set them at random, far from where they have no effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def backbone(shared: Path) -> Backbone:
    """The policy, with reward and value."""
    made = Backbone.load(shared / "model", SETTINGS, parent=shared / "policy")
    for role in HEADS:
        made.add_head(role)
        made.load_adapter_state(load_file(shared / f"{role}.safetensors"), role)
    return made


@pytest.fixture
def withdrawn(shared: Path) -> Backbone:
    return Backbone.load(shared / "model", SETTINGS, parent=shared / "withdrawn")


@pytest.fixture(scope="session")
def trl(shared: Path) -> Answers:
    """Of TRL 1.16."""
    return _ask(shared, "trl_losses", {})


@pytest.fixture(scope="session")
def trl_ppo(shared: Path) -> Answers:
    """Of TRL 1.12, the last with PPO."""
    return _ask(shared, "trl_ppo", {"PYTHONPATH": str(TRL_1_12)})


def _ask(folder: Path, module: str, environment: Mapping[str, str]) -> Answers:
    command = [str(TRL / "bin" / "python"), "-W", "ignore", "-m", f"tests.reference.{module}", str(folder)]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **QUIET, **environment}, capture_output=True, text=True,
        timeout=MOST_SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    return Answers(load_file(folder / f"{module}.safetensors"))
