"""Commands that ask a running service over HTTP, as an operator: by a key, or by the secret of the service's home."""

from __future__ import annotations

from typing import Any

import httpx2

from service.auth import Sessions, load_secret
from service.errors import EngineUnavailable, HoneError, NotFound, by_code
from service.settings import Settings

CALLER = "command line"
TIMEOUT = httpx2.Timeout(600.0, connect=5.0)
"""Seconds: a model is asked meanwhile."""
LOOK = 5.0
"""Seconds that a service has to say that it is there."""
_EXIT_CODES = {400: 2, 401: 3, 403: 3, 413: 2}
"""By status, of what a proxy before the service says, or a newer service."""


class Refused(HoneError):
    """What the service answered in place of a result, with its own code and words."""

    def __init__(self, status: int, answer: Any) -> None:
        error = answer.get("error") if isinstance(answer, dict) else None
        told = error if isinstance(error, dict) else {}
        super().__init__(str(told.get("message") or f"The service answered {status}."), param=told.get("param"))
        self.status = status  # type: ignore[misc]  # this one error carries somebody else's
        self.code = str(told.get("code") or self.code)  # type: ignore[misc]  # likewise
        self.kind = str(told.get("type") or self.kind)  # type: ignore[misc]  # likewise
        known = by_code().get(str(told.get("code")))
        self.exit_code = known.exit_code if known else _EXIT_CODES.get(status, 1)  # type: ignore[misc]  # likewise


def service_over(settings: Settings) -> str | None:
    """The address of the service over this home, where one answers on this machine; None: none does."""
    from service.stack import running_at

    address = running_at(settings.home) or settings.server.local_url
    headers = {"authorization": f"Bearer {Sessions(load_secret(settings.home)).sign(CALLER, 'operator')}"}
    try:  # a service over another home refuses what this one's secret signed
        answer = httpx2.get(f"{address}/v1/whoami", headers=headers, timeout=LOOK, trust_env=False)
        return address if answer.status_code == 200 and answer.json()["caller"] == CALLER else None
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError):
        return None


def ask_as_operator(
    settings: Settings, method: str, path: str, body: dict[str, Any], url: str | None = None, key: str | None = None
) -> Any:
    """The service's answer. `url`: else that of the `hone up` over this home, or of the settings; `key`: else a session
    that this home's secret signs, which only a service on this machine takes. Raises NotFound where none runs."""
    from service.stack import running_at

    address = (url or running_at(settings.home) or settings.server.local_url).rstrip("/")
    why = "`hone up` starts one over this home; --url and --key name another."
    if key is None and not settings.home.exists():  # no service has ever run there: nothing is to be made
        raise NotFound(f"No service runs over {settings.home}, and this needs one.", why)
    token = key or Sessions(load_secret(settings.home)).sign(CALLER, "operator")
    try:
        response = httpx2.request(
            method, f"{address}{path}", json=body, headers={"authorization": f"Bearer {token}"}, timeout=TIMEOUT,
            trust_env=False,
        )  # fmt: skip
    except httpx2.TimeoutException as error:
        raise EngineUnavailable(f"The service at {address} did not answer in time.") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise NotFound(f"No service answers at {address}, and this needs one.", why) from error
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if response.status_code >= 400 or answer is None:
        raise Refused(response.status_code, answer)
    return answer
