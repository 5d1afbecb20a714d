"""What pydantic finds wrong with a field, in plain words that follow the field's name: "must be at most 10, not 11"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LONGEST_SHOWN = 40
"""Characters of a value that is told back."""

_WHOLE = "must be a whole number"
_OBJECT = "must be an object"
_LIST = "must be a list"
_TYPES = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": "is too large",
    "int_from_float": _WHOLE,
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "list_type": _LIST,
    "tuple_type": _LIST,
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}
_OTHERS = {
    "missing": "is missing",
    "extra_forbidden": "is not known here; leave it out",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
}


def in_words(error: Mapping[str, Any]) -> str:
    """One of pydantic's findings without its field, as half a sentence; our own validators' words stay as they are."""
    kind, context = str(error["type"]), error.get("ctx") or {}
    if kind in ("too_short", "too_long") and isinstance(error.get("input"), str):
        kind = f"string_{kind}"
    if context.get("min_length") == 1 and kind in _OTHERS:
        return "must not be empty"
    if kind in _TYPES:
        return _TYPES[kind].format(**context) + _told_back(error.get("input"))
    if kind in _OTHERS:
        return _OTHERS[kind].format(**context)
    return str(error["msg"]).removeprefix("Value error, ")


def _told_back(value: Any) -> str:
    """The value, if it is short enough to be recognised in."""
    if not isinstance(value, str | int | float | bool | None):
        return ""
    shown = json.dumps(value, ensure_ascii=False)
    return f", not {shown}" if len(shown) <= LONGEST_SHOWN else ""
