"""`hone adapters`: what there is, why, and what should serve.

These commands write what is wanted to the store; a running service brings the engine there, and so does the next start.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.options import (
    Home,
    Json,
    Reason,
    Wait,
    as_text,
    existing_store,
    open_store,
    say,
    say_beside,
    settings_from,
    show,
    table,
)
from service.commands.report import report_lines
from service.errors import AdapterBroken, BadInput, NotFound
from service.settings import Settings

if TYPE_CHECKING:
    from service.store.session import Store

app = typer.Typer(
    no_args_is_help=True, help="Adapters: list, show, promote, roll back, canary, reject, import, export."
)
ACTOR = "command line"
COLUMNS = ("name", "state", "parent", "run_id", "created_at", "reason")
LISTED = ("name", "state", "parent", "created_at", "reason")  # as much as a terminal shows; `show` has the rest
LOOK_SECONDS = 0.1
Name = Annotated[str, typer.Argument(help="The version: v1, v2, …", metavar="NAME")]


@app.command("list")
def list_adapters(home: Home = None, as_json: Json = False) -> None:
    """Every adapter, newest first; `requested`: on its way to live."""
    from service.store.queries import adapters

    store = existing_store(settings_from(home))
    with store.read() as tx:
        rows = [_row(row) for row in adapters.list_adapters(tx)]
        desired = _serving(tx)

    def plain() -> None:
        canary = f"; canary: {desired['canary']} ({desired['canary_share']:.0%})" if desired["canary"] else ""
        requested = f"; on its way: {desired['requested']}" if desired["requested"] else ""
        say(f"live: {desired['live']}{requested}{canary}")
        table(LISTED, [row | {"parent": row["parent"] or "base"} for row in rows], "There are no adapters yet.")

    show({"serving": desired, "adapters": rows}, as_json, plain)


@app.command("show")
def show_adapter(name: Name, home: Home = None, as_json: Json = False) -> None:
    """One adapter: its report, and who did what to it and why."""
    from service.store.queries import adapters

    store = existing_store(settings_from(home))
    with store.read() as tx:
        row = adapters.get_adapter(tx, name)
        if row is None:
            raise NotFound(f"There is no adapter {name!r}.", "`hone adapters list` shows them.")
        fields = ("at", "action", "actor", "reason")
        history = [{field: getattr(event, field) for field in fields} for event in adapters.events(tx, name)]
        result = _row(row) | {"report": row.report, "history": history}

    def plain() -> None:
        known = result | {"parent": row.parent or "base"}
        about = [(column.replace("_", " "), as_text(known[column])) for column in COLUMNS]
        measured = list(report_lines(row.report or {}))
        width = max(len(label) for label, _ in (*about, *measured)) + 2
        for part in (about, measured):
            for label, text in part:
                say_beside(f"{label:<{width}}", text)
            say("")
        table(fields, history, "Nothing has happened to it.")

    show(result, as_json, plain)


@app.command()
def promote(name: Name, reason: Reason = "", wait: Wait = 60.0, home: Home = None, as_json: Json = False) -> None:
    """Make an adapter live, once the engine has been proven to serve it."""
    from service.adapters.registry import Registry
    from service.store.queries import adapters, serving

    if name == adapters.BASE:
        raise NotFound(adapters.BASE_IS_NO_ADAPTER, "`hone adapters rollback base` makes it live.")
    settings = settings_from(home)
    store = existing_store(settings)
    Registry.of(settings, store).check(name)  # what an engine still holds may be broken on the disk
    with store.begin() as tx:
        serving.request_live(tx, name, ACTOR, reason or "Promoted.")
    _await(store, name, wait, as_json)


@app.command()
def rollback(
    to: Annotated[str | None, typer.Argument(help="A version, or base; else what was live before.")] = None,
    reason: Reason = "",
    wait: Wait = 60.0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Go back to what was live before, or to a named version."""
    from service.adapters.registry import Registry
    from service.adapters.rollback import way_back
    from service.store.queries import serving

    settings = settings_from(home)
    store = existing_store(settings)
    target = way_back(Registry.of(settings, store), to)
    with store.begin() as tx:
        serving.request_rollback(tx, target, ACTOR, reason)
    _await(store, target, wait, as_json)


@app.command()
def canary(
    name: Annotated[str | None, typer.Argument(help="The version; without one, the canary ends.")] = None,
    share: Annotated[float, typer.Option(help="Share of conversations that it answers.")] = 0.1,
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let an adapter answer a share of new conversations, or end that."""
    from service.adapters.registry import Registry
    from service.store.queries import serving

    settings = settings_from(home)
    store = existing_store(settings)
    if name is not None:
        serving.check_share(share)
        Registry.of(settings, store).check(name)
    with store.begin() as tx:
        if name is None:
            serving.clear_canary(tx, ACTOR, reason or "Ended.")
        else:
            serving.set_canary(tx, name, share, ACTOR, reason or f"Canary for {share:.0%} of conversations.")
        desired = _serving(tx)
    line = f"{name} answers {share:.0%} of new conversations." if name else "There is no canary now."
    show(desired, as_json, lambda: say(line))


@app.command()
def reject(name: Name, reason: Reason = "", home: Home = None, as_json: Json = False) -> None:
    """Take an adapter out, for ever."""
    from service.store.queries import serving

    store = existing_store(settings_from(home))
    with store.begin() as tx:
        result = _row(serving.set_state(tx, name, "rejected", ACTOR, reason or "Rejected."))
    show(result, as_json, lambda: say(f"{name} is rejected."))


@app.command("import")
def import_adapter(
    source: Annotated[
        str, typer.Argument(help="A file that `hone adapters export` wrote, or a URL.", metavar="FILE_OR_URL")
    ],
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Publish an exported adapter as a candidate, under a new name."""
    place = _file_or_place(source)
    settings = settings_from(home)
    registry = _registry(settings, open_store(settings))
    name = registry.import_adapter(place, reason or f"Imported from {Path(source).name}.")
    show({"name": name}, as_json, lambda: say(f"{source} is {name} here."))


@app.command("export")
def export_adapter(
    name: Name,
    target: Annotated[
        str | None,
        typer.Argument(
            help="The file to write, or the URL of a folder for its files: s3://…, gs://…, file://…; else NAME.tar.",
            metavar="FILE_OR_URL",
        ),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write an adapter to one file, or to a folder by URL."""
    target = target or f"{name}.tar"
    settings = settings_from(home)
    _registry(settings, existing_store(settings)).export(name, _file_or_place(target))
    show({"name": name, "archive": target}, as_json, lambda: say(f"{name} is in {target}."))


def _await(store: Store, name: str, wait: float, as_json: bool) -> None:
    """Wait until it is live. Raises AdapterBroken when it was rejected, BadInput when something else is wanted."""
    from service.store.queries import adapters

    deadline = time.monotonic() + wait
    while True:
        with store.read() as tx:
            desired, row = _serving(tx), adapters.get_adapter(tx, name)
        if desired["live"] == name:
            line = f"{name} is live."
            break
        if row is not None and row.state == "rejected":
            raise AdapterBroken(f"{name} did not go live: {row.reason}")
        if desired["requested"] != name:
            with store.read() as tx:
                last = adapters.events(tx, name, limit=1)[0]
            raise (AdapterBroken if last.action == "put aside" else BadInput)(f"{name} did not go live: {last.reason}")
        if time.monotonic() >= deadline:
            line = f"{name} goes live as soon as the service runs and has proven it; {desired['live']} is live now."
            break
        time.sleep(LOOK_SECONDS)
    show(desired, as_json, lambda: say(line))


def _file_or_place(named: str) -> Any:
    from service.adapters.place import Place, is_url

    return Place(named) if is_url(named) else Path(named)


def _registry(settings: Settings, store: Store) -> Any:
    from service.adapters.registry import Registry

    return Registry.of(settings, store, settings.model_path)


def _row(row: Any) -> dict[str, Any]:
    return {column: getattr(row, column) for column in COLUMNS}


def _serving(tx: Any) -> dict[str, Any]:
    from service.store.queries import serving

    row = serving.desired_state(tx)
    return {name: getattr(row, name) for name in ("live", "previous", "requested", "canary", "canary_share")}
