"""Trainings round subnormal numbers to zero, and what else runs in their process takes no notice of it."""

from __future__ import annotations

import subprocess
import sys

from tests.fixtures.waiting import PATIENCE

WARNED_OF = """
import warnings, numpy, torch
{how}
assert not (torch.tensor([1e-38]) * 0.01).any()
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    found = [numpy.finfo(kind).smallest_subnormal for kind in (numpy.float32, numpy.float64)]
print(len(warned), [one.tobytes().hex() for one in found])  # nothing computed with them would last
"""


def told(how: str) -> str:
    """In a process of its own: it must not be rounded in the tests'."""
    command = [sys.executable, "-c", WARNED_OF.format(how=how)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.strip()


def test_numpy_is_asked_what_its_floats_are_like_before_there_are_no_subnormal_ones() -> None:
    smallest = ["01000000", "0100000000000000"]  # the last bit alone
    assert told("from learner.subnormals import flush_subnormals; flush_subnormals()") == f"0 {smallest}"
    assert not told("torch.set_flush_denormal(True)").startswith("0 ")  # what it is there for
