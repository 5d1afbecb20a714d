"""Values as the JSON that the tables hold."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson


def as_json(value: Any) -> str:
    """What JSON can't say and PostgreSQL refuses, NaN and infinities, becomes null."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # halves of surrogate pairs, whole numbers above 64 bits
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
