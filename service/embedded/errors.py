"""Errors of the embedded engine: each says what is wrong and what to do."""

from service.errors import BadInput, HoneError


class EngineError(HoneError):
    """The engine cannot start, or has stopped."""

    status, code, exit_code = 503, "engine_unavailable", 8


class AdapterRefused(BadInput):
    """An adapter's files cannot be served."""

    code = "adapter_refused"
