"""`hone keys`: who may use the service from other machines, and who may operate it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from service.commands.options import Home, Json, existing_store, open_store, say, settings_from, show, table
from service.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")
COLUMNS = ("prefix", "role", "created_at", "revoked_at", "name")


@app.command()
def create(
    name: Annotated[str, typer.Option(help="The caller that the key stands for: all who use it are one person.")],
    role: Annotated[str, typer.Option(help="user or operator.")] = "user",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown once: only its hash is kept."""
    from service.store.queries import keys

    if role not in ("user", "operator"):
        raise BadInput(f"There is no role {role!r}.", "Choose user or operator.")
    if ":" in name:
        raise BadInput("A key's name has no colon: that is how callers without a key are told apart.")
    chosen: Literal["user", "operator"] = "operator" if role == "operator" else "user"
    store = open_store(settings_from(home))
    with store.begin() as tx:
        secret = keys.create_key(tx, chosen, name)
    show({"key": secret, "role": role, "name": name}, as_json, lambda: say(secret))


@app.command("list")
def list_keys(home: Home = None, as_json: Json = False) -> None:
    """Every key, by prefix; revoked ones too."""
    from service.store.queries import keys

    store = existing_store(settings_from(home))
    with store.read() as tx:
        rows = [{column: getattr(key, column) for column in COLUMNS} for key in keys.list_keys(tx)]
    show(rows, as_json, lambda: table(COLUMNS, rows, "There are no keys. `hone keys create --name YOU` makes one."))


@app.command()
def revoke(
    prefix: Annotated[str, typer.Argument(help="The key's prefix, as `hone keys list` shows it.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Put a key out of force, and every browser session that was made from it."""
    from service.store.queries import keys

    store = existing_store(settings_from(home))
    with store.begin() as tx:
        key = keys.revoke_key(tx, prefix)
        result = {"prefix": key.prefix, "name": key.name, "revoked_at": key.revoked_at}
    show(result, as_json, lambda: say(f"The key {prefix} of {result['name']} is revoked."))
