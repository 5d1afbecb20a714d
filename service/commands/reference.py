"""`hone reference` (hidden): writes the documentation that comes from the code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.options import Home, Json, say, show


def reference(
    folder: Annotated[Path, typer.Argument(help="Where the pages go.")] = Path("docs"),
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write docs/settings.md, docs/api.md, docs/commands.md and docs/manifest.schema.json."""
    from service.app import api_description
    from service.cli import app
    from service.reference import write

    paths = [str(path) for path in write(folder, api_description(), typer.main.get_command(app))]
    show(paths, as_json, lambda: say("\n".join(paths)))
