"""`hone …`: parses, assembles, starts; no logic.

Every command has `--home` and `--json`. An error is one line on stderr and an exit code (`service.errors`).
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from typer.exceptions import Abort, TyperException

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
        code = app(standalone_mode=False)
    except HoneError as error:
        _end(str(error), error.exit_code)
    except TyperException as error:  # a word that no command or option knows, or one that is missing
        _end(error.format_message(), error.exit_code)
    except Abort:
        _end("Stopped.", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _end(words: str, code: int) -> NoReturn:
    """Whoever asked for nothing has been shown the help: then there is nothing to add."""
    if words:
        sys.stderr.write(f"hone: {' '.join(words.split())}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
