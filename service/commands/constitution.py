"""`hone constitution`: the principles in effect, others, and what one would make of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.constitution_run import run
from service.commands.options import Home, Json, existing_store, open_store, say, say_beside, settings_from, show, table
from service.errors import NotFound

if TYPE_CHECKING:
    from service.chat.constitutional import Rules
    from service.constitution.versions import Version
    from service.settings import Settings
    from service.store.tables import ConstitutionRow

app = typer.Typer(no_args_is_help=True, help="The constitution: show, check, versions, import, try, run.")
app.command()(run)
ACTOR = "command line"
COLUMNS = ("name", "created_at", "created_by", "sha256", "note")
File = Annotated[Path, typer.Argument(help="A constitution file (TOML, docs/constitution.md).", metavar="FILE")]


@app.command("show")
def show_constitution(
    name: Annotated[
        str | None, typer.Argument(help="c0, c1, …, or larger, for larger models; else the one in effect.")
    ] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the file, to edit it or to put it back.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """The constitution in effect, or a version that was."""
    settings = settings_from(home)
    if toml and not as_json:
        say(_text(settings, name).rstrip("\n"))
        return
    version = _version(settings, name)
    constitution = version.constitution
    principles = [
        {"name": one.name, "weight": one.weight, "tags": ", ".join(one.tags), "rule": one.rule}
        for one in constitution.principles
    ]

    def plain() -> None:
        say(f"{version.name}: {constitution.title} ({constitution.sha256[:12]})")
        table(("name", "weight", "tags", "rule"), principles, "")

    result = {"name": version.name, "sha256": constitution.sha256, "text": version.text}
    show(result | constitution.model_dump(), as_json, plain)


@app.command()
def check(file: File, home: Home = None, as_json: Json = False) -> None:
    """Say what is wrong with a file; exit code 2 when something is. Nothing takes effect."""
    from service.constitution.principles import read_text

    rules, warned = _checked(settings_from(home), file, read_text(file))
    served, count = len(rules.principles), len(rules.version.constitution.principles)
    sha256 = rules.version.constitution.sha256
    result = {"file": str(file), "sha256": sha256, "principles": count, "served": served, "warnings": warned}
    principles = "1 principle" if count == 1 else f"{count} principles"
    have = "has" if served == 1 else "have"
    line = f"{file} is sound: {principles}, {served} of which {have} a tag that constitution.tags names."
    show(result, as_json, lambda: say("\n".join([line, *warned])))


@app.command()
def versions(home: Home = None, as_json: Json = False) -> None:
    """Every constitution that was put in effect, newest first."""
    from service.store.queries import constitutions

    store = existing_store(settings_from(home))
    with store.read() as tx:
        rows = [{name: getattr(row, name) for name in COLUMNS} for row in constitutions.list_constitutions(tx)]
    shown = [row | {"sha256": row["sha256"][:12]} for row in rows]
    show(rows, as_json, lambda: table(COLUMNS, shown, "None yet: c0, which comes with Hone, is in effect."))


@app.command("import")
def import_constitution(
    file: File,
    note: Annotated[str, typer.Option(help="Why; kept with the version.")] = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Put a file in effect, for every chat from now on; a running service needs no restart."""
    from service.constitution import built_in
    from service.constitution.principles import read_text
    from service.constitution.versions import BUILT_IN_NAME
    from service.store.queries import constitutions

    settings, text = settings_from(home), read_text(file)
    rules, warned = _checked(settings, file, text)
    sha256 = rules.version.constitution.sha256
    with open_store(settings).begin() as tx:
        row, is_new = constitutions.put_in_effect(tx, text, sha256, ACTOR, note, built_in().sha256)
        name = row.name if row is not None else BUILT_IN_NAME
    line = f"{file} is {name}, and in effect." if is_new else f"{name}, which is in effect, says the same already."
    result = {"name": name, "sha256": sha256, "is_new": is_new, "warnings": warned}
    show(result, as_json, lambda: say("\n".join([line, *warned])))


@app.command("try")
def try_constitution(
    prompt: Annotated[str, typer.Argument(help="What a person might ask.", metavar="PROMPT")],
    file: Annotated[Path | None, typer.Option("--file", help="A file to try; else what is in effect.")] = None,
    principle: Annotated[str | None, typer.Option(help="Only this principle.")] = None,
    url: Annotated[str | None, typer.Option(help="A running service; else that of this home.")] = None,
    key: Annotated[str | None, typer.Option(help="An operator's key of that service; else this home's own.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Draft, critique, revision and verdict for one prompt, by a running service. Nothing takes effect."""
    from service.constitution import parse
    from service.constitution.principles import read_text
    from service.operator_client import ask_as_operator

    body: dict[str, Any] = {"prompt": prompt, "principle": principle}
    if file is not None:
        body["constitution"] = read_text(file)
        parse(body["constitution"], str(file))
    result = ask_as_operator(settings_from(home), "POST", "/v1/constitution/try", body, url, key)

    def plain() -> None:
        say_beside(f"{'draft':<12}", result["draft"])
        for one in result["trials"]:
            say(f"\n{one['principle']}")
            odds = one["odds"]
            verdict = f"{one['verdict']} (odds of the revision: {odds:.2f})" if odds is not None else ""
            for name, told in (one | {"verdict": verdict}).items():
                if name in ("critique", "revision", "verdict", "problem") and told:
                    say_beside(f"  {name:<10}", told)

    show(result, as_json, plain)


def _checked(settings: Settings, file: Path, text: str) -> tuple[Rules, tuple[str, ...]]:
    """What chats would be answered by, and what to warn of. Raises BadInput for what can't be put in effect."""
    from service.chat.constitutional import Rules
    from service.commands.constitution_room import room
    from service.constitution import parse
    from service.constitution.versions import Version

    rules = Rules.of(Version("", text, parse(text, str(file))), settings.constitution)
    return rules, room(settings, rules)


def _version(settings: Settings, name: str | None) -> Version:
    """Raises ConstitutionUnusable for one that this Hone can't read, NotFound."""
    from service.chat.principles import version_of
    from service.constitution.versions import LARGER_NAME, for_larger_models

    return for_larger_models() if name == LARGER_NAME else version_of(_row(settings, name))


def _text(settings: Settings, name: str | None) -> str:
    """The file as it was given, also of one that this Hone can't read. Raises NotFound."""
    from service.constitution.versions import LARGER_NAME

    row = None if name == LARGER_NAME else _row(settings, name)
    return row.text if row is not None else _version(settings, name).text


def _row(settings: Settings, name: str | None) -> ConstitutionRow | None:
    """What the store has; None: the one that comes with Hone. Raises NotFound."""
    from service.constitution.versions import BUILT_IN_NAME
    from service.store.queries import constitutions

    if name == BUILT_IN_NAME or (name is None and not settings.store_is_made):
        return None
    with existing_store(settings).read() as tx:
        row = constitutions.in_effect(tx) if name is None else constitutions.get_constitution(tx, name)
    if row is None and name is not None:
        raise NotFound(f"There is no constitution {name!r}.", "`hone constitution versions` lists them.")
    return row
