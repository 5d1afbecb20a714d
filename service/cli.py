"""`hone …`: parses, assembles, starts; no logic.

Every command has `--home` and `--json`. An error is one line on stderr and an exit code (`service.errors`).
"""

from __future__ import annotations

import sys

import typer

from service.commands import adapters, doctor, feedback, keys, processes, reference, simulate, up
from service.errors import HoneError

app = typer.Typer(
    name="hone",
    help="A chat service that learns from the people who use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(up.up)
app.command()(processes.serve)
app.command()(processes.learn)
app.command()(processes.ui)
app.command()(simulate.simulate)
app.add_typer(adapters.app, name="adapters")
app.add_typer(feedback.app, name="feedback")
app.add_typer(keys.app, name="keys")
app.command()(doctor.doctor)
app.command(hidden=True)(reference.reference)


def main() -> None:
    try:
        app()
    except HoneError as error:
        sys.stderr.write(f"hone: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
