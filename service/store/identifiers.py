"""Identifiers that sort by the time they were made and that nobody can guess.

`prefix-` + 11 base-32 digits of the UTC time in microseconds + 15 random ones (75 bits), Crockford's alphabet in lower
case, which is also its sort order in ASCII: `ORDER BY id` is the order of creation, as far as the clocks agree.
"""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_DIGITS, _RANDOM_DIGITS = 11, 15


def new_id(prefix: str) -> str:
    """A fresh identifier, e.g. `fb-01k9q2v5w8x…` for the prefix `fb`."""
    moment = _digits(time.time_ns() // 1000, _TIME_DIGITS)
    return f"{prefix}-{moment}{_digits(secrets.randbits(5 * _RANDOM_DIGITS), _RANDOM_DIGITS)}"


def _digits(number: int, count: int) -> str:
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(5 * (count - 1), -1, -5))
