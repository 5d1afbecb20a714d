"""`hone …`: parses, assembles, starts; no logic.

Every command has `--home` and `--json`. An error is one line on stderr and an exit code (`service.errors`); with
`--json` it is the HTTP API's error body, one line on stdout in place of the result.
"""

from __future__ import annotations

import errno
import json
import sys
from importlib import metadata
from typing import Annotated, NoReturn

import typer
from typer.exceptions import Abort, TyperException

from service.commands import (
    adapters,
    base,
    constitution,
    doctor,
    engines,
    feedback,
    keys,
    processes,
    reference,
    simulate,
    up,
)
from service.errors import BadInput, HoneError, Stopped, StoreError

app = typer.Typer(
    name="hone",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        try:
            version = metadata.version("hone")
        except metadata.PackageNotFoundError:  # the code is run where it lies
            version = "(not installed)"
        sys.stdout.write(f"hone {version}\n")
        raise typer.Exit


@app.callback()
def hone(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is; then end."),
    ] = False,
) -> None:
    """A chat service that learns from the people who use it."""


app.command()(up.up)
app.command()(processes.serve)
app.command()(processes.learn)
app.command()(processes.ui)
app.command()(simulate.simulate)
app.add_typer(adapters.app, name="adapters")
app.add_typer(base.app, name="base")
app.add_typer(constitution.app, name="constitution")
app.add_typer(engines.app, name="engines")
app.add_typer(feedback.app, name="feedback")
app.add_typer(keys.app, name="keys")
app.command()(doctor.doctor)
app.command(hidden=True)(reference.reference)

PLAINER = {
    "Value error, ": "",
    "Input should be a valid integer, unable to parse string as an integer": "it must be a whole number.",
    "Input should be a valid number, unable to parse string as a number": "it must be a number.",
}
"""What the parser says of a value, in a person's words."""

FREE_SPACE = "Free some space, or choose a place that has more."
GIVE_RIGHTS = "Give Hone's user the right to it, or choose another place."
ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), FREE_SPACE) | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), GIVE_RIGHTS
)
"""What to do about a file that can't be read or written, by the system's number of the error."""


def main() -> None:
    try:
        code = app(standalone_mode=False)
    except HoneError as error:
        _end(error)
    except TyperException as error:  # a word that no command or option knows, or one that is missing
        words = " ".join(error.format_message().split())
        for said, plainer in PLAINER.items():
            words = words.replace(said, plainer)
        if not words:  # whoever asked for nothing has been shown the help: there is nothing to add
            sys.exit(error.exit_code)
        _end(BadInput(words))
    except Abort:
        _end(Stopped("Stopped."))
    except (ConnectionError, TimeoutError):  # who speaks to others tells of it: what comes to here is a bug
        raise
    except OSError as error:
        where = "" if error.filename is None else f"Can't read or write {error.filename}: "
        _end(StoreError(f"{where}{error.strerror or error}.", ADVICE.get(error.errno or 0, "")))
    sys.exit(code if isinstance(code, int) else 0)


def _end(error: HoneError) -> NoReturn:
    if "--json" in sys.argv[1:]:  # read here, because what can't be understood has no parsed options
        sys.stdout.write(json.dumps(error.body()) + "\n")
    else:
        sys.stderr.write(f"hone: {' '.join(str(error).split())}\n")
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
