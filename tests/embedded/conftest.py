"""Models on disk shared by the whole run, engines by the test."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from service.embedded.arguments import COMPILERS
from service.embedded.kernel import Kernel, load_kernel
from tests.embedded.models import save_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random model of a family, made once."""
    made: dict[str, Path] = {}

    def folder(family: str = "llama") -> Path:
        if family not in made:
            made[family] = save_model(tmp_path_factory.mktemp(family), family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def compiled(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    if not any(map(shutil.which, COMPILERS)):
        pytest.skip("no C compiler here, so there is no kernel")
    made = load_kernel()
    assert made is not None, "there is a C compiler, and it does not take the kernel"
    return made
