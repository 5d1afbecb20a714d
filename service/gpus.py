"""The GPU that `hone up` gives its engine and its learner, as nvidia-smi tells: torch isn't there to be asked."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

MIB = 2**20
RESERVED = 1024 * MIB
"""What the driver keeps of a card's memory, at most: nvidia-smi counts it in, CUDA doesn't."""
SECONDS = 20.0
"""That nvidia-smi may take; it is slow where the driver has to be loaded first."""


@dataclass(frozen=True)
class Gpu:
    """A card: `total` and `free` in bytes, as the driver counts them."""

    name: str
    total: int
    free: int

    @property
    def usable(self) -> int:
        """What CUDA has to give."""
        return self.total - RESERVED


def first_gpu(environment: Mapping[str, str] = os.environ) -> Gpu | None:
    """The card that programs use that ask for none, by CUDA_VISIBLE_DEVICES; None where none is found.

    Of several visible ones that is CUDA's first, whose order may be another than nvidia-smi's: the one with the least
    memory is taken for it.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    asked = None if visible is None else [one.strip() for one in visible.split(",")]
    if asked is not None and (asked[0] in ("", "-1") or asked[0].startswith("MIG")):
        return None
    found = _cards(asked[:1] if asked else None, environment)
    return min(found, key=lambda gpu: gpu.total, default=None)


def _cards(ids: list[str] | None, environment: Mapping[str, str]) -> list[Gpu]:
    """Those with these indices or UUIDs, or all; none where nvidia-smi is missing, fails or says something else."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [*command, *(f"--id={one}" for one in ids or ())],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
            env=dict(environment),
        )
        rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
        return [Gpu(name, int(total) * MIB, int(free) * MIB) for name, total, free in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
