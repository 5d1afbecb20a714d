"""Every error that a person or a program may see, with its HTTP status, its OpenAI error code and what to do about it.

One handler (`service.error_handlers`) turns a `HoneError` into the OpenAI error body; the command line prints it as one
line, or that body with `--json`, and exits with `exit_code`. Anything else that is raised is a bug and answers 500.
"""

from __future__ import annotations

from typing import ClassVar

_ENDS = (".", "!", "?", ":", "…")


def sentences(*parts: str) -> str:
    """What is said one after the other; what others say (an engine, a database) may lack its full stop."""
    said = [part.strip() for part in parts if part.strip()]
    ended = [part if part.rstrip("\"')")[-1:] in _ENDS else f"{part}." for part in said[:-1]]
    return " ".join([*ended, *said[-1:]])


class HoneError(Exception):
    """`message` says what is wrong, `hint` what to do about it; `param` names the field of the request at fault."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"  # OpenAI's `type`
    code: ClassVar[str] = "internal_error"  # OpenAI's `code`: stable, for programs
    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str, hint: str = "", *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.retry_after = retry_after  # seconds; sent as Retry-After

    def __str__(self) -> str:
        return sentences(self.message, self.hint)

    def body(self) -> dict[str, dict[str, str | None]]:
        """The OpenAI error body."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def unexpected(error: Exception) -> HoneError:
    """What people are told of a bug; the log has the rest."""
    return HoneError("Something went wrong inside Hone; its log has the details.", f"({type(error).__name__})")


class BadInput(HoneError):
    status, kind, code, exit_code = 400, "invalid_request_error", "invalid_request", 2


class MethodNotAllowed(BadInput):
    status, code = 405, "method_not_allowed"


class TooLarge(BadInput):
    status, code = 413, "request_too_large"


class Unauthorized(HoneError):
    status, kind, code, exit_code = 401, "authentication_error", "invalid_api_key", 3


class Forbidden(HoneError):
    status, kind, code, exit_code = 403, "permission_error", "forbidden", 3


class NotFound(HoneError):
    status, kind, code, exit_code = 404, "invalid_request_error", "not_found", 4


class ModelNotFound(NotFound):
    code = "model_not_found"


class Conflict(HoneError):
    status, kind, code, exit_code = 409, "invalid_request_error", "conflict", 5


class LeaseLost(Conflict):
    """Another learner has taken this run over, or it was cancelled: whoever holds the old fence must stop."""

    code = "lease_lost"


class AdapterBroken(HoneError):
    """An adapter folder that is missing a file, truncated, of another shape, or not what its manifest says."""

    status, kind, code, exit_code = 422, "invalid_request_error", "adapter_broken", 6


class SettingsError(HoneError):
    status, code, exit_code = 500, "bad_settings", 2


class StoreError(HoneError):
    """The database can't be opened, read or written: disk full, read-only, or from a newer version."""

    status, code, exit_code = 503, "store_unavailable", 7


class ConstitutionUnusable(HoneError):
    """The constitution in effect can't be read, or has no principle to serve by: a newer Hone put it in effect, or the
    settings changed. No reply goes out unguarded in its stead."""

    status, code, exit_code = 503, "constitution_unusable", 11


class AdapterUnreachable(StoreError):
    """Adapters' files, or the place they are shared at, can't be read or written, or arrive otherwise than published.

    That may pass and says nothing about the adapter: it is tried again.
    """

    code = "adapter_unreachable"


class EngineUnavailable(HoneError):
    status, code, exit_code = 503, "engine_unavailable", 8


class EngineAway(EngineUnavailable):
    """The engine itself is in doubt: it can't be reached, broke off or fell silent."""


class EnginesBusy(HoneError):
    """Every engine that is ready has as many requests under way as it may have."""

    status, kind, code, exit_code = 429, "rate_limit_error", "engines_busy", 8


class EngineRefused(HoneError):
    """The engine answered with an error of its own; `status` is the engine's."""

    code = "engine_error"

    def __init__(self, message: str, status: int, *, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status = status  # type: ignore[misc]  # this one error carries somebody else's status
        self.kind = "invalid_request_error" if status < 500 else "server_error"  # type: ignore[misc]  # likewise


class ContextExceeded(EngineRefused):
    """Prompt and reply are longer than the model's context; code and status are OpenAI's."""

    status, code = 400, "context_length_exceeded"


class PagesUnavailable(HoneError):
    """The pages could not be built; the API answers all the same."""

    status, code = 503, "pages_unavailable"


class ProgramEnded(HoneError):
    """A program of `hone up` that could not start; `exit_code` is its own."""

    code = "program_ended"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code if 0 < exit_code < 256 else 1  # type: ignore[misc]  # here it is somebody else's


class Stopped(HoneError):
    """A command that was interrupted."""

    code, exit_code = "stopped", 130


class PortInUse(HoneError):
    """The address to listen on is taken, or isn't ours."""

    code, exit_code = "port_in_use", 10


class TrainingFailed(HoneError):
    """A run that ends without a candidate: its message is stored with the run as the reason."""

    code, exit_code = "training_failed", 9


class ProcessLost(HoneError):
    """One of the processes that share a training has died, or doesn't answer; another attempt has new ones."""

    code, exit_code = "process_lost", 9


def by_code(root: type[HoneError] = HoneError) -> dict[str, type[HoneError]]:
    """The errors above, by their code; other processes' (the embedded engine's) come and go with what is imported."""
    known = {root.code: root}
    for child in root.__subclasses__():
        if child.__module__ == __name__:
            known |= by_code(child)
    return known
