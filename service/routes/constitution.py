"""The constitution, for operators: what is in effect, what was, another one, and what one would make of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from service.chat.constitutional import Rules
from service.chat.streaming import CallerLeft, until_caller_leaves
from service.chat.token_count import TokenCount
from service.chat.trial import Trial
from service.constitution import Constitution, parse
from service.constitution.principles import Principle, built_in
from service.constitution.room import crowded, warnings
from service.constitution.versions import BUILT_IN_NAME, Version, built_in_version, stored_version
from service.errors import HoneError, NotFound
from service.parts import FOR_OPERATORS, Operator, Parts, Wired
from service.routing import ALIAS, resolve
from service.store.queries import constitutions as queries
from service.store.tables import ConstitutionRow
from service.wire import (
    ConstitutionRequest,
    ConstitutionVersion,
    ConstitutionView,
    PrincipleView,
    TryRequest,
    TryResult,
)

router = APIRouter(prefix="/v1/constitution", tags=["constitution"])
NOT_COUNTED = "Whether it leaves room in the model's context was not checked: {why}."


@router.get("", openapi_extra=FOR_OPERATORS)
async def get_constitution(parts: Wired, operator: Operator) -> ConstitutionView:
    """The one in effect; 503 where this Hone can't read it."""
    return _view(parts, await parts.principles.in_effect())


@router.put("", openapi_extra=FOR_OPERATORS)
async def put_constitution(body: ConstitutionRequest, parts: Wired, operator: Operator) -> ConstitutionView:
    """Checks a file and puts it in effect, for every chat from now on: a new version, unless it says what the one in
    effect says. To go back to an older one, send its text."""
    checked, warned = await _checked(parts, body.text)
    sha256 = checked.constitution.sha256
    row, is_new = await parts.transactions.write(
        queries.put_in_effect, body.text, sha256, operator.name, body.note, built_in().sha256
    )
    version = stored_version(row.name, row.text) if row is not None else built_in_version()
    return _view(parts, version).model_copy(update={"is_new": is_new, "warnings": warned})


@router.post("/check", openapi_extra=FOR_OPERATORS)
async def check_constitution(body: ConstitutionRequest, parts: Wired, operator: Operator) -> ConstitutionView:
    """Checks a file as if it were put in effect; its `name` is empty, as nothing takes effect."""
    version, warned = await _checked(parts, body.text)
    return _view(parts, version).model_copy(update={"warnings": warned})


@router.get("/versions", openapi_extra=FOR_OPERATORS)
async def list_versions(parts: Wired, operator: Operator) -> list[ConstitutionVersion]:
    """Every one that was put in effect, newest first; without any, the one that comes with Hone is."""
    rows = await parts.transactions.read(queries.list_constitutions)
    return [_version(row).model_copy(update={"text": ""}) for row in rows]


@router.get("/versions/{name}", openapi_extra=FOR_OPERATORS)
async def get_version(name: str, parts: Wired, operator: Operator) -> ConstitutionVersion:
    """One of them, with its text; `c0` comes with Hone."""
    if name == BUILT_IN_NAME:
        return _built_in(parts)
    row = await parts.transactions.read(queries.get_constitution, name)
    if row is None:
        raise NotFound(f"There is no constitution {name!r}.", "GET /v1/constitution/versions lists them.")
    return _version(row)


@router.post("/try", response_model=TryResult, openapi_extra=FOR_OPERATORS)
async def try_constitution(
    body: TryRequest, request: Request, parts: Wired, operator: Operator
) -> TryResult | Response:
    """What each principle makes of a reply to a prompt: critique, revision, and a verdict between draft and revision,
    asked in both orders. Nothing is stored, and nothing takes effect."""
    if body.constitution is not None:
        version = Version("", body.constitution, parse(body.constitution))
    else:
        version = await parts.principles.in_effect()
    try:
        return await until_caller_leaves(request.receive, _try(parts, body, version))
    except CallerLeft:
        return Response(status_code=499)  # nobody reads it; nginx's number for the log


async def _try(parts: Parts, body: TryRequest, version: Version) -> TryResult:
    constitution = version.constitution
    principles = constitution.principles if body.principle is None else (constitution.principle(body.principle),)
    await _room(parts, constitution, principles)
    base, route = await parts.asking.base(), await parts.transactions.read(resolve, ALIAS)
    rules = Rules(version, principles, parts.principles.settings)
    trial = Trial(parts.asking, route, base, parts.settings.chat, rules, body.prompt)
    draft = await trial.draft()
    return TryResult(
        constitution=version.name,
        sha256=constitution.sha256,
        adapter=route.adapter,
        prompt=body.prompt,
        draft=draft.text.strip(),
        trials=await trial.under_each(draft),
    )


async def _checked(parts: Parts, text: str) -> tuple[Version, tuple[str, ...]]:
    """And what to warn of. Raises BadInput for a file that is wrong, that by the settings has no principle to serve by,
    or leaves the model no room for anything."""
    version = Version("", text, parse(text))
    rules = Rules.of(version, parts.settings.constitution)
    return version, await _room(parts, version.constitution, rules.principles)


async def _room(parts: Parts, constitution: Constitution, principles: Sequence[Principle]) -> tuple[str, ...]:
    """What to warn of the room that these principles leave. Raises BadInput where there is none."""
    if (context := parts.replicas.context) is None:
        return (NOT_COUNTED.format(why="no engine has answered yet"),)
    try:
        found = await crowded(constitution, principles, context, TokenCount(parts.asking, context))
    except HoneError as error:
        return (NOT_COUNTED.format(why=str(error).rstrip(".")),)
    return warnings(found)


def _built_in(parts: Parts) -> ConstitutionVersion:
    """Of the one that comes with Hone no more is known than since when it is here."""
    version, created = built_in_version(), parts.started_at
    sha256, note = version.constitution.sha256, "Comes with Hone."
    return ConstitutionVersion(
        name=version.name, sha256=sha256, created_at=created, created_by="hone", note=note, text=version.text
    )


def _version(row: ConstitutionRow) -> ConstitutionVersion:
    return ConstitutionVersion.model_validate({name: getattr(row, name) for name in ConstitutionVersion.model_fields})


def _view(parts: Parts, version: Version) -> ConstitutionView:
    constitution = version.constitution
    return ConstitutionView(
        name=version.name,
        sha256=constitution.sha256,
        title=constitution.title,
        text=version.text,
        principles=tuple(
            PrincipleView(name=one.name, rule=one.rule, tags=one.tags, weight=one.weight)
            for one in constitution.principles
        ),
        serve=parts.settings.constitution.serve,
    )
