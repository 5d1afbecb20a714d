"""Judges, as they go with adapters."""

from __future__ import annotations

from service.adapters.judge import Judge

SHORT = {"length": {"characters": -0.5}}


def judge(weights: object) -> Judge:
    return Judge.model_validate({"comparisons": 10, "accuracy": 0.8, "weights": weights})
