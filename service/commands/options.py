"""The options that commands share, the settings that they make up, and how results are printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from service.errors import BadInput
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from service.store.session import Store  # SQLAlchemy takes its time to import

Home = Annotated[
    Path | None,
    typer.Option("--home", help="The folder that holds all state (HONE_HOME; else ~/.hone).", metavar="DIR"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
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


def show(result: Any, as_json: bool, plain: Callable[[], None]) -> None:
    """Print `result` as one line of JSON, or have `plain` print it for people."""
    if as_json:
        sys.stdout.write(orjson.dumps(result, default=str).decode() + "\n")
    else:
        plain()


def say(line: str) -> None:
    """One line for people, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], empty: str) -> None:
    """Print rows as a table, by column name; `empty` when there are none."""
    if not rows:
        say(empty)
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        shown.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
    Console(soft_wrap=not sys.stdout.isatty()).print(shown)
