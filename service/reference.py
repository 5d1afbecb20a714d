"""`docs/settings.md`, `docs/api.md`, `docs/commands.md` and `docs/manifest.schema.json`, written from the code, so that
they can't be out of date.

`hone reference` writes them; a test compares them with what it would write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from service import errors, wire
from service.adapters.manifest import manifest_schema
from service.parts import OPERATORS_ONLY
from service.settings import ENVIRONMENT_PREFIX, Settings

_WRITTEN = "<!-- Written by `hone reference`. Change the code, not this page. -->\n"


def settings_page() -> str:
    """Every setting with its default, its bounds and what it does."""
    lines = [
        "# Settings\n",
        _WRITTEN,
        "In `hone.toml` in the home folder, each section a table; then the environment; then the flags of a command.",
        f"The later wins. An unknown key is an error, and so is a variable `{ENVIRONMENT_PREFIX}…` that says no",
        "setting.\n",
        "```toml\n[server]\nport = 8001\n```\n",
        f"The same in the environment: `{ENVIRONMENT_PREFIX}SERVER__PORT=8001`.\n",
    ]
    for name, section in Settings.model_fields.items():
        if name == "home":
            lines.append(f"`--home`, `HONE_HOME` (else `~/.hone`): {section.description}\n")
            continue
        model = section.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        lines += [f"## `[{name}]`\n", f"{model.__doc__}\n", "| setting | default | meaning |", "| --- | --- | --- |"]
        for key, field in model.model_fields.items():
            lines.append(f"| `{name}.{key}` | `{_default(field)}` | {field.description}{_bounds(field)} |")
        lines.append("")
    return "\n".join(lines)


def api_page(routes: FastAPI) -> str:
    """Every route of `routes`, the feedback schema, the errors."""
    return "\n".join([_API_HEAD, *_routes(routes), *_feedback(), *_bodies(), *_errors()]) + "\n"


def commands_page(tree: Any) -> str:
    """Every command of a Typer application (as its click command tree), with its arguments and options."""
    lines = ["# Commands\n", _WRITTEN]
    lines.append("Every command takes `--home` and `--json`. An error is one line on stderr and an exit code.")
    lines.append(
        "With `--json` the error is one line of JSON on stdout in place of the result, with the same exit code:"
    )
    lines.append('`{"error": {"message", "type", "param", "code"}}`, the error body of the HTTP API (api.md).\n')
    for path, command in ((("hone",), tree), *_leaves(tree, ())):
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        lines += [f"## `{' '.join([*path, *map(_usage, arguments)])}`\n", " ".join((command.help or "").split()) + "\n"]
        lines += [f"- `{_name(argument)}`: {argument.help}" for argument in arguments]
        for option in command.params:
            if option.param_type_name == "option" and not option.hidden and option.name not in ("home", "as_json"):
                flags = "`, `".join((*option.opts, *option.secondary_opts))
                lines.append(f"- `{flags}`: {option.help}{_else(option)}")
        lines.append("")
    return "\n".join(lines)


def write(folder: Path, routes: FastAPI, tree: Any) -> list[Path]:
    """Write the pages and the schema into `folder`; returns their paths."""
    pages = {
        "settings.md": settings_page(),
        "api.md": api_page(routes),
        "commands.md": commands_page(tree),
        "manifest.schema.json": json.dumps(manifest_schema(), indent=1) + "\n",
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


_API_HEAD = f"""# HTTP API

{_WRITTEN}
Any OpenAI client works: set its base URL to `http://127.0.0.1:8000/v1`. The models are `hone` (the live adapter),
`hone:v12` (that version) and `hone:base` (no adapter). A running service shows the full schema at `/docs`.
A value of another type than its field's, like a number in quotes, is refused (400), as OpenAI does.

A chat completion's `id` is its exchange: send feedback about it later. `system_fingerprint` is the adapter that
answered. Streams end with `data: [DONE]`, after the exchange has been stored; a failure in the middle is
`data: {{"error": …}}`. `logprobs: true` and `return_token_ids: true` show what is otherwise kept to the store.
`{{"hone": {{"conversation_id": "…"}}}}` keeps a conversation on one adapter while a canary runs: send a random one for
each; without it a conversation is known by its caller and how it begins. The answer names it in the header
`X-Hone-Conversation`.

`best_of: N` samples N replies in one request to the engine and answers the `n` of them that people would like best,
best first, as the judge of the adapter that answers sees it (a small model of the comparisons that it learned from, see
[learning](learning.md)); it is at least `n` and at most `chat.max_choices`. `chat.best_of` says the same for requests
that don't. `usage` counts the tokens of all samples; the exchange keeps what was answered, and N as its `best_of`. A
streamed reply begins when all samples are whole, and then comes at once. An adapter without a judge, and `hone:base`,
answer 400 to a `best_of` above `n`, and pass the setting over.

`{{"hone": {{"constitutional": true}}}}` has the reply drafted, criticised under the constitution's principles and
revised before it is answered, where the revision is found better ([constitution](constitution.md)); it is one reply,
without log-probabilities. The answer's `hone` object says by which constitution, whether it was revised, and how that
ended. A stream tells at once what goes on, in chunks with an empty `delta` and a `hone` object (`stage`: draft,
critique, revision or verdict; `round`, `principle`, and the `text` that came since the chunk before); after
`"stage": "decided"` the reply follows. The exchange keeps draft, critiques and revisions. `usage` counts the prompt
once, and as completion the tokens of all that was written: drafts, critiques and revisions.

A list that takes `limit` comes in pages: `limit` is the most that one holds (1 to 200), and `after` takes the `next` of
the page before, which is null on the last.

## Who is calling

`Authorization: Bearer KEY`, with a key of `hone keys create`, or a session (cookie `hone_session`). On loopback neither
is needed: callers are then told apart by `user` in the body, or the header `X-Hone-User`. What a proxy passed on
(`Forwarded`, `X-Forwarded-For`, `X-Real-IP`) doesn't count as loopback, and with `server.require_keys` nothing does.
With a key or a session both names are ignored: all who use one key are one caller. What is marked *operator* needs an
operator's key or session everywhere.
"""


def _routes(app: FastAPI) -> Iterator[str]:
    yield "## Routes\n"
    yield "| route | what it does |"
    yield "| --- | --- |"
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            words = " ".join(operation.get("description", operation["summary"] + ".").split())
            operator = "*operator*: " if operation.get(OPERATORS_ONLY) else ""
            yield f"| `{method.upper()} {path}` | {operator}{words}{_query(operation)} |"
    yield ""


def _query(operation: dict[str, Any]) -> str:
    """The parameters that may follow a `?`."""
    asked = [one for one in operation.get("parameters", ()) if one["in"] == "query"]
    named = (
        f"`{one['name']}`" + (f" (else {one['schema']['default']})" if "default" in one["schema"] else "")
        for one in asked
    )
    return f" Query: {', '.join(named)}." if asked else ""


def _feedback() -> Iterator[str]:
    yield "## Feedback\n"
    yield "`POST /v1/feedback` takes one judgement; `kind` says which. A reply is named by exchange and index.\n"
    for kind in get_args(wire.OneOfTheKinds):
        yield from _model(kind.model_fields["kind"].default, kind)
    yield 'A `ReplyRef` is `{"exchange_id": "…", "index": 0}`. The header `Idempotency-Key` makes sending again safe.\n'


def _bodies() -> Iterator[str]:
    yield "## Other bodies\n"
    bodies = (
        wire.HoneOptions,
        wire.ScoreRequest,
        wire.PromoteRequest,
        wire.CanaryRequest,
        wire.RejectRequest,
        wire.RollbackRequest,
    )
    for model in (*bodies, wire.LearnRequest, wire.ConstitutionRequest, wire.TryRequest):
        yield from _model(model.__name__, model)


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield 'OpenAI\'s error body: `{"error": {"message", "type", "param", "code"}}`. `exit` is a command\'s exit code.\n'
    yield "| code | status | exit |"
    yield "| --- | --- | --- |"
    known = errors.by_code()
    for code in sorted(known):
        status = "the engine's" if known[code] is errors.EngineRefused else known[code].status
        yield f"| `{code}` | {status} | {known[code].exit_code} |"


def _model(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"### {title}\n"
    if model.__doc__ and not model.__doc__.startswith("!!"):
        yield " ".join(model.__doc__.split()) + "\n"
    for name, field in model.model_fields.items():
        required = "" if not field.is_required() else ", required"
        yield f"- `{name}` ({_type(field.annotation)}{required}){_bounds(field)} {field.description or ''}".rstrip()
    yield ""


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from _leaves(child, (*(path or ("hone",)), name))


def _usage(argument: Any) -> str:
    words = f"{_name(argument)} …" if argument.nargs == -1 else _name(argument)
    return words if argument.required else f"[{words}]"


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _else(option: Any) -> str:
    """What holds where the option is not given, if that is anything."""
    if option.required:
        return " Required."
    if option.default in (None, "") or (option.default is False and not option.secondary_opts):
        return ""
    flag = {True: option.opts, False: option.secondary_opts}.get(option.default) if option.is_flag else None
    return f" Default: `{flag[0] if flag else option.default}`."


def _default(field: FieldInfo) -> str:
    value = field.get_default()
    return "none" if value is None else json.dumps(value)


def _bounds(field: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "max_length": "at most"}
    found = [
        f"{words[name]} {getattr(rule, name)}{' long' if name == 'max_length' else ''}"
        for rule in _rules(field)
        for name in words
        if getattr(rule, name, None) is not None
    ]
    return f" ({', '.join(found)})" if found else ""


def _rules(field: FieldInfo) -> Iterator[Any]:
    """Of the field, and of the type that it may have beside null."""
    yield from field.metadata
    parts = get_args(field.annotation)
    for part in parts if type(None) in parts else ():
        for rule in getattr(part, "__metadata__", ()):
            yield from getattr(rule, "metadata", (rule,))


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is not None:
        name = str(get_origin(annotation))
        inner = [_type(part) for part in get_args(annotation) if part is not Ellipsis]
        if "Literal" in name:
            return " or ".join(f"`{json.dumps(value)}`" for value in get_args(annotation))
        if "tuple" in name:
            return f"list of {inner[0]}"
        if "Annotated" in name:
            return inner[0]
        return " or ".join(inner)
    return {"str": "text", "int": "integer", "bool": "true or false", "float": "number"}.get(
        getattr(annotation, "__name__", ""), getattr(annotation, "__name__", "").removeprefix("_")
    )
