"""`hone constitution run`: one stage of Constitutional AI, as a run like any other."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from service.commands.options import Home, Json
from service.commands.processes import Parent, learn
from service.settings import Method

Stage = Literal["supervised", "feedback"]
METHODS: dict[Stage, Method] = {"supervised": "sl-cai", "feedback": "rl-cai"}


def run(
    stage: Annotated[
        Stage,
        typer.Argument(
            help="supervised: learn own revisions (sl-cai); feedback: learn a judge's preferences (rl-cai)."
        ),
    ],
    home: Home = None,
    promote: Annotated[bool | None, typer.Option(help="Whether to promote what passes.")] = None,
    parent: Parent = None,
    as_json: Json = False,
) -> None:
    """Run a stage of the constitution, now: the model writes what it learns from. Needs no feedback, and no service."""
    learn(home=home, once=True, method=METHODS[stage], promote=promote, parent=parent, as_json=as_json)
