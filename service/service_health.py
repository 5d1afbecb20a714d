"""What a Hone service says of itself at `/health`: how it and its engines are, and that it is no engine itself."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from service.adapters.engine_answers import read_hones_health
from service.auth import Sessions, load_secret
from service.errors import SettingsError
from service.operator_client import CALLER

ANSWER_SECONDS = 10.0
"""It asks its engines first."""


def health_at(url: str, home: Path | None = None) -> dict[str, Any] | None:
    """None where nobody answers, or no Hone does.

    `home`: the service's, whose secret shows the engines, too, where keys are required.
    """
    headers = {}
    if home is not None and (home / "secret").exists():
        with suppress(SettingsError):  # it can't be read: then only less is told
            headers["authorization"] = f"Bearer {Sessions(load_secret(home)).sign(CALLER, 'operator')}"
    try:
        answer = httpx2.get(f"{url}/health", headers=headers, timeout=ANSWER_SECONDS, trust_env=False)
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return None
    return read_hones_health(answer.content)
