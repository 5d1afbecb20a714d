"""`hone doctor`: what is installed, reachable, writable; what to do about what is not."""

from __future__ import annotations

from dataclasses import asdict

import typer

from service.commands.options import Home, Json, say, settings_from, show

_MARKS = {True: "ok ", False: "BAD", None: " · "}


def doctor(home: Home = None, as_json: Json = False) -> None:
    """Check this machine and this home; exit code 1 when something has to be done."""
    settings = settings_from(home)
    from service.doctor import examine

    findings = list(examine(settings))

    def plain() -> None:
        for finding in findings:
            advice = f"  → {finding.advice}" if finding.advice else ""
            say(f"{_MARKS[finding.ok]}  {finding.check:<14}{finding.found}{advice}")

    show([asdict(finding) for finding in findings], as_json, plain)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)
