"""`hone feedback`: what people have said so far."""

from __future__ import annotations

import typer

from service.commands.options import Home, Json, existing_store, say, settings_from, show

app = typer.Typer(no_args_is_help=True, help="Feedback: statistics.")


@app.callback()
def _group() -> None:
    """Keeps `stats` a subcommand while it is the only one."""


@app.command()
def stats(home: Home = None, as_json: Json = False) -> None:
    """How much feedback there is, by kind, from how many people, and how much of it is new to the learner."""
    from service.store.queries import feedback

    store = existing_store(settings_from(home))
    with store.read() as tx:
        found = feedback.stats(tx)

    def plain() -> None:
        judgements, people = "judgement" + "s" * (found.total != 1), "person" if found.people == 1 else "people"
        say(f"{found.total} {judgements} of {found.people} {people}; {found.withdrawn} withdrawn.")
        for kind, count in found.by_kind.items():
            say(f"  {kind:<12}{count:>8}")
        say(f"{found.since_last_run} of them are new to the learner.")

    show(found.model_dump(), as_json, plain)
