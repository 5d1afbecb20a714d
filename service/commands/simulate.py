"""`hone simulate`: people with a stated taste use a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.options import Home, Json


def simulate(
    taste: Annotated[str, typer.Option(help="short, warm, sure, safe, teach, or FILE.py:function.")],
    url: Annotated[str | None, typer.Option(help="A running service; without one, simulate starts its own.")] = None,
    key: Annotated[str | None, typer.Option(help="An operator's key of that service.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of chats and feedback, with learning between.")] = 3,
    comparisons: Annotated[int, typer.Option(min=1, help="Comparisons in each round.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw what was learned (a .png file); else simulate-TASTE.png.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """People with a taste chat, compare and teach over HTTP only; prints what was learned, round by round.

    Without `--url` it starts a service in a temporary home. KL per token is to the base, whatever `learner.anchor` the
    service at `--url` has. `--home` is not used.
    """
    from learner.simulate import Options
    from learner.simulate import simulate as run

    options = Options(
        taste=taste,
        url=url,
        key=key,
        rounds=rounds,
        comparisons=comparisons,
        seed=seed,
        as_json=as_json,
        picture=picture,
    )
    raise typer.Exit(run(options))
