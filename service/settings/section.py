"""What all sections of the settings have in common: frozen, finite, no key that isn't known; and what several check."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def engine_addresses(urls: tuple[str, ...]) -> tuple[str, ...]:
    """People know an engine's address with `/v1` or without. Raises ValueError."""
    plain = tuple(url.rstrip("/").removesuffix("/v1") for url in urls)
    for url in plain:
        if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
            raise ValueError(f"{url!r} is no address of an engine, such as http://127.0.0.1:8001")
    if twice := [url for url in plain if plain.count(url) > 1]:
        raise ValueError(f"{twice[0]} is named twice")
    return plain
