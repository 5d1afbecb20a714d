"""Which parts of Hone this installation has: the service needs no torch, the learner and the embedded engine do."""

from __future__ import annotations

import importlib.util
from importlib import metadata

from service.errors import SettingsError

LEARNER_EXTRA = "pip install '.[learner]' in the project's folder"
"""Not by Hone's name, under which a package index may hold somebody else's."""


def require_learner_packages(part: str, otherwise: str = "") -> None:
    """Raises SettingsError where `part` can't run for want of torch; `otherwise`: what may be done instead."""
    if importlib.util.find_spec("torch") is None:
        raise SettingsError(f"{part} is not installed here.", f"{LEARNER_EXTRA}{otherwise}.")


def torch_uses_gpus() -> bool:
    """Whether the installed torch can compute on a GPU: its builds for CPUs alone say so in their version."""
    try:
        return "+cpu" not in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False
