"""`hone doctor`: what is installed, reachable, writable; what to do about what is not."""

from __future__ import annotations

from dataclasses import asdict

import typer

from service.commands.options import Home, Host, Json, Port, say_beside, settings_from, show

_MARKS = {True: "ok ", False: "BAD", None: " · "}


def doctor(home: Home = None, host: Host = None, port: Port = None, as_json: Json = False) -> None:
    """Check this machine and this home; exit code 1 when something has to be done.

    Hone is looked for at --host and --port, else where the `hone up` of this home listens, else where the settings say.
    """
    settings = settings_from(home, server__host=host, server__port=port)
    from service.doctor import examine
    from service.stack import engines_at, running_at

    elsewhere = host is not None or port is not None
    findings = list(examine(settings, running_at(settings.home), elsewhere, engines_at(settings.home)))

    def plain() -> None:
        for finding in findings:
            advice = f" → {finding.advice}" if finding.advice else ""
            say_beside(f"{_MARKS[finding.ok]}  {finding.check:<14}", f"{finding.found}{advice}")

    show([asdict(finding) for finding in findings], as_json, plain)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)
