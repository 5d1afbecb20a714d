"""The commands and their documentation, which comes from the code and can be copied."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.exceptions import TyperException

from service import cli, reference
from service.app import api_description
from tests.deploy.reading import parse_command

ROOT = Path(__file__).resolve().parents[2]


def commands() -> dict[str, Any]:
    tree = typer.main.get_command(cli.app)
    return {" ".join(path): command for path, command in reference._leaves(tree, ())}


def test_every_command_of_the_design_is_there() -> None:
    alone = {"up", "serve", "learn", "ui", "simulate", "doctor", "feedback stats"}
    of_keys = {f"keys {verb}" for verb in ("create", "list", "revoke")}
    verbs = ("list", "show", "promote", "rollback", "canary", "reject", "import", "export")
    assert {f"hone {name}" for name in alone | of_keys | {f"adapters {verb}" for verb in verbs}} <= set(commands())


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_takes_home_and_json_and_explains_itself(name: str) -> None:
    command = commands()[name]
    options = {flag for parameter in command.params for flag in getattr(parameter, "opts", ())}
    assert {"--home", "--json"} <= options
    assert command.help and all(
        parameter.help for parameter in command.params if not getattr(parameter, "hidden", False)
    )


@pytest.mark.parametrize("page", ["settings.md", "api.md", "commands.md", "manifest.schema.json"])
def test_the_documentation_is_up_to_date(page: str, tmp_path: Path) -> None:
    reference.write(tmp_path, api_description(), typer.main.get_command(cli.app))
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == (tmp_path / page).read_text(encoding="utf-8"), "run `hone reference`"


def test_the_commands_page_says_what_may_be_left_out_and_what_then_holds() -> None:
    page = reference.commands_page(typer.main.get_command(cli.app)).splitlines()
    assert {
        "## `hone adapters export NAME [FILE_OR_URL]`",
        "## `hone serve [URL …]`",
        "- `NAME`: The version; without one, the canary ends.",
        "- `--name`: The caller that the key stands for: all who use it are one person. Required.",
        "- `--role`: user or operator. Default: `user`.",
        "- `--seed`: Seed of every random choice. Default: `0`.",
        "- `--learner`, `--no-learner`: Start the learner, too. Default: `--learner`.",
        "- `--once`: One run, now; then end.",
        "- `--version`: Say which version this is; then end.",
        "- `--reason`: Why; kept in the adapter's history.",
    } <= set(page)


def written_out(text: str) -> list[list[str]]:
    """The words after `hone` of every command that can be copied: on a line of its own, or with its flags in a text."""
    alone = re.findall(r"^ *(?:\.venv/bin/)?hone (.+)", text, re.MULTILINE)
    within = re.findall(r"`(?:\.venv/bin/)?hone ([a-z][^`\n]* --[^`\n]+)`", text)
    return [shlex.split(words, comments=True) for words in (*alone, *within)]


def test_every_command_that_is_written_out_can_be_copied() -> None:
    """In the documentation, and in what errors advise."""
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    code = (path for part in ("service", "learner", "ui") for path in (ROOT / part).rglob("*.py"))
    said = [(path, words) for path in (*pages, *code) for words in written_out(path.read_text(encoding="utf-8"))]
    assert len(said) > 20
    for path, words in said:
        try:
            parse_command(words)
        except TyperException as error:
            pytest.fail(f"{path.relative_to(ROOT)} says `hone {shlex.join(words)}`: {error.format_message()}")


@pytest.mark.parametrize(
    "text",
    [
        "    hone up --prot 8001  # it's elsewhere",
        "```sh\nhone adapters promote\n```",
        "`hone keys create --role user`",
    ],
)
def test_a_command_that_could_not_be_copied_is_found(text: str) -> None:
    (words,) = written_out(text)
    with pytest.raises(TyperException):
        parse_command(words)


def test_every_command_that_the_documentation_names_exists() -> None:
    known = set(commands()) | {"hone reference"}
    groups = {name.rsplit(" ", 1)[0] for name in known if name.count(" ") == 2}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
            words = code.removeprefix(".venv/bin/").split()
            if words[:1] != ["hone"] or len(words) == 1 or not words[1].isalpha():
                continue
            name = " ".join(words[:3] if f"hone {words[1]}" in groups and len(words) > 2 else words[:2])
            assert name in known | groups, f"{page.name} names `{code}`"
