"""Subnormal numbers, with which processors are many times slower than with others, count as zero in a training."""

from __future__ import annotations

import numpy
import torch


def flush_subnormals() -> None:
    """Round them to zero in this thread from now on, and in those that torch starts from it: products of probabilities
    near 0 would take most of a backward pass.

    numpy works out what its floats are like when it is first asked, keeps that for the whole process, and warns where
    it finds no subnormal ones. So it is asked before there are none.
    """
    for kind in (numpy.float32, numpy.float64):
        numpy.finfo(kind)
    torch.set_flush_denormal(True)
