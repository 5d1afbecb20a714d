"""`hone base`: what can be made of a base model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from service.commands.options import Home, Json, Model, say, settings_from, show

app = typer.Typer(no_args_is_help=True, help="The base model: dequantise.")


@app.callback()
def _group() -> None:
    """Keeps `dequantise` a subcommand while it is the only one."""


@app.command()
def dequantise(
    out: Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist yet.", metavar="FOLDER")],
    model: Model = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the base in bfloat16 as it is in NF4, for an engine to serve what learner.quantise trained against."""
    from rich.console import Console
    from rich.progress import Progress

    from service.adapters.fingerprint import model_folder
    from service.installed import require_learner_packages

    require_learner_packages("The learner, whose work this is,")
    settings = settings_from(home, engine__model=model)
    source = model_folder(settings.model_path)
    from learner.dequantise import dequantise as write  # it loads torch, which takes its time

    bar = Progress(console=Console(stderr=True), disable=as_json)
    task = bar.add_task("dequantising")

    def progress(done: int, of: int, name: str) -> None:
        bar.start()  # once there is something to show, so that an error is one line
        bar.update(task, completed=done, total=of, description=name)

    try:
        written = write(source, out, progress)
    finally:
        if bar.live.is_started:
            bar.stop()
    line = (
        f"{out} holds {settings.engine.model} as NF4 gives it back: {written.dequantised} of {written.tensors} tensors."
    )
    show(asdict(written) | {"folder": str(out)}, as_json, lambda: say(f"{line} Serve it with engine.weights."))
