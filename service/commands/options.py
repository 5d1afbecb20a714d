"""The options that commands share, the settings that they make up, and how results are printed."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from service.errors import BadInput, NotFound
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from service.store.session import Store  # SQLAlchemy takes its time to import


def _seconds(given: float) -> float:
    """Raises BadInput for what is no time to wait: below nothing, without end, or no number."""
    if not 0 <= given < math.inf:
        raise BadInput(f"--wait is a number of seconds, from 0 on, not {given:g}.", param="wait")
    return given


Home = Annotated[
    Path | None,
    typer.Option("--home", help="The folder that holds all state (HONE_HOME; else ~/.hone).", metavar="DIR"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Wait = Annotated[
    float,
    typer.Option(
        "--wait", callback=_seconds, help="Seconds to wait for a running service to do it.", metavar="SECONDS"
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the adapter's history.")]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on (setting server.host).")]
Port = Annotated[int | None, typer.Option("--port", help="Port to listen on; 0: any free one (setting server.port).")]
EngineUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-url",
        help="URL of an engine that runs elsewhere; more may follow (setting engine.urls).",
        metavar="URL",
    ),
]
MoreEngineUrls = Annotated[
    list[str] | None, typer.Argument(help="More engines, after the first.", metavar="URL", show_default=False)
]
Model = Annotated[
    str | None, typer.Option("--model", help="Base model: sprout, a folder or a hub name (setting engine.model).")
]
_WHOLE_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}  # an address or a path stays in one piece


def settings_from(home: Path | None, **flags: Any) -> Settings:
    """The settings under the flags that were given: `server__port=8001`; None means not given."""
    overrides: dict[str, dict[str, Any]] = {}
    for name, value in flags.items():
        section, _, key = name.partition("__")
        if value is not None:
            overrides.setdefault(section, {})[key] = value
    return load_settings(home, overrides)


def engine_urls(first: list[str] | None, more: list[str] | None) -> list[str] | None:
    """The engines of `--engine-url URL URL …`. Raises BadInput for a word that follows no --engine-url."""
    if more and not first:
        raise BadInput(f"What is {more[0]!r}?", "The addresses of engines go after --engine-url.")
    return [*first, *(more or ())] if first else None


def open_store(settings: Settings) -> Store:
    """The store, for a short command: moving the WAL into the database is left to the service."""
    from service.store.session import Store

    return Store.open(settings.store_url, checkpoints=False)


def existing_store(settings: Settings) -> Store:
    """The same for a command that looks up or changes what is there. Raises NotFound before the first start."""
    if not settings.store_is_made:
        raise NotFound(
            f"Nothing is stored under {settings.home} yet.", "`hone up` makes it there; --home names another home."
        )
    return open_store(settings)


def show(result: Any, as_json: bool, plain: Callable[[], None]) -> None:
    """Print `result` as one line of JSON, or have `plain` print it for people."""
    if as_json:
        sys.stdout.write(orjson.dumps(result, default=str).decode() + "\n")
    else:
        plain()
    sys.stdout.flush()


def say(line: str) -> None:
    """One line for people, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say_beside(label: str, text: str) -> None:
    """Text for people beside a label, in a column of its own where the terminal is too narrow for one line."""
    width = max(40, shutil.get_terminal_size().columns)
    rest = " " * len(label)
    lines = textwrap.wrap(text, width, initial_indent=label, subsequent_indent=rest, **_WHOLE_WORDS)
    say("\n".join(lines) or label.rstrip())


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], empty: str) -> None:
    """Print rows as a table, by column name; `empty` when there are none. The last column takes what width is left."""
    if not rows:
        say(empty)
        return
    cells = [[column.replace("_", " ") for column in columns], *([as_text(row[c]) for c in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for *first, last in cells:
        beside = "".join(f"{cell:<{width}}  " for cell, width in zip(first, widths, strict=False))
        say_beside(beside, last)


def as_text(value: Any) -> str:
    """A cell for people: times to the minute, in UTC; None is nothing."""
    if value is None:
        return ""
    return f"{value:%Y-%m-%d %H:%MZ}" if isinstance(value, datetime) else " ".join(str(value).split())
