"""Logs: JSON lines into `logs/<process>.log` of the home folder, plain lines for people on the terminal.

structlog renders its own events and those of the standard library (uvicorn, SQLAlchemy, ours that use `logging`) alike.
"""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog

from service.errors import SettingsError

_MAX_BYTES, _BACKUPS = 10_000_000, 3
_TALKATIVE = ("httpx2", "httpcore2", "alembic", "apscheduler")  # one line a request, and the like


def configure(process: str, home: Path, terminal_level: int = logging.WARNING) -> None:
    """Send everything from INFO on to the file, and from `terminal_level` on to stderr. Raises SettingsError."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers[:] = [_file(process, home, shared), _terminal(terminal_level, shared)]


def _file(process: str, home: Path, shared: list[Any]) -> logging.Handler:
    path = home / "logs" / f"{process}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"Can't write {path}: {error.strerror}.", "Choose another --home.") from error
    renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    processors: list[Any] = [_drop_internals, structlog.processors.format_exc_info, renderer]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=processors, foreign_pre_chain=shared))
    return handler


def _terminal(level: int, shared: list[Any]) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    processors: list[Any] = [_drop_internals, _plain]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=processors, foreign_pre_chain=shared))
    return handler


def _drop_internals(logger: Any, name: str, event: dict[str, Any]) -> dict[str, Any]:
    event.pop("_record", None)
    event.pop("_from_structlog", None)
    return event


def _plain(logger: Any, name: str, event: dict[str, Any]) -> str:
    """`event (key: value, …)`: one line, no time, no level."""
    shown = {key: event[key] for key in event if key not in ("event", "level", "logger", "timestamp", "exc_info")}
    details = ", ".join(f"{key}: {value}" for key, value in shown.items())
    return f"{event['event']}{f' ({details})' if details else ''}"
