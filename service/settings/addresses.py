"""The addresses that settings and commands name: an engine's, one way written, and what of any may be told.

Hone sends an engine no key, so an engine's address holds no user and no password.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

USUAL_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[\w.:%-]+", re.ASCII)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def engine_addresses(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Each as `engine_address` has it. Raises ValueError, also where two lead to one engine."""
    plain = tuple(map(engine_address, urls))
    engines = [engine_at(url) for url in plain]
    for at, (url, engine) in enumerate(zip(plain, engines, strict=True)):
        if engine in engines[:at]:
            first = plain[engines.index(engine)]
            raise ValueError(f"{url} is named twice" if url == first else f"{first} and {url} are the same engine")
    return plain


def engine_address(url: str) -> str:
    """In lower case as far as case says nothing, without the usual port, a `/` at the end, and `/v1`: people know an
    engine's address with that or without. Raises ValueError, whose words hold no password."""
    if "@" in url:
        raise ValueError(
            f"{without_credentials(url)!r} is given with a user or a password, and Hone sends an engine neither: leave "
            "them out, and keep the engine where only Hone reaches it"
        )
    parts = _parts(url)
    if parts is None:
        raise ValueError(f"{url!r} is no address of an engine, such as http://127.0.0.1:8001")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, USUAL_PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}" + parts.path.rstrip("/").removesuffix("/v1").rstrip("/")


def engine_at(address: str) -> tuple[str, int, str]:
    """What all addresses of one engine have in common; `address` is as `engine_address` has it.

    This machine's loopback has several names, and one port doesn't speak http and https.
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    return _LOOPBACK[0] if host in _LOOPBACK else host, parts.port or USUAL_PORTS[parts.scheme], parts.path


def without_credentials(address: str) -> str:
    """Without a user and a password, even where a `/` in those is not encoded."""
    return re.sub(r"^(\w+://)?.*@", r"\1", address, flags=re.DOTALL)


def _parts(url: str) -> SplitResult | None:
    """Those of an address that can be called; else None."""
    try:
        parts = urlsplit(url)
        is_callable = parts.scheme in USUAL_PORTS and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:  # a port that is no number, or too large
        return None
    is_plain = _HOST.fullmatch(parts.hostname or "") and url.isascii() and url.isprintable() and " " not in url
    return parts if is_callable and is_plain else None
