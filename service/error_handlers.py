"""Every error as an OpenAI error body: ours, FastAPI's own (404, 405, unreadable bodies), and bugs."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from service.errors import (
    BadInput,
    Conflict,
    Forbidden,
    HoneError,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthorized,
    unexpected,
)
from service.routes.body_route import is_json
from service.validation_messages import in_words
from service.wire import FEEDBACK_KINDS

_OURS: dict[int, type[HoneError]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 413: TooLarge}
_NO_OBJECT = ("missing", "model_attributes_type", "model_type", "dict_type")
_NOT_AN_OBJECT = "The body must be a JSON object."
log = structlog.get_logger(__name__)


def install(app: FastAPI) -> None:
    """The one place that turns what was raised into an answer."""
    app.add_exception_handler(HoneError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


def bad_input(errors: list[ErrorDetails] | list[Any]) -> BadInput:
    """The first of pydantic's findings, in one sentence, with the path of the field at fault as `param`."""
    # A list that lost an item to an error is also reported as too short: the cause comes first, so the first is told.
    first = errors[0]
    path = list(first["loc"])
    if path and path[0] in ("body", "query", "path", "header"):
        del path[0]
    if path and path[0] in FEEDBACK_KINDS:  # the union's tag: no field of the body
        del path[0]
    if first["type"] == "json_invalid":
        why = str(first.get("ctx", {}).get("error", ""))
        return BadInput("The body isn't valid JSON.", f"{why}, at character {path[0]}." if path else why)
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return BadInput(f"kind: must be one of {', '.join(FEEDBACK_KINDS)}.", param="kind")
    if "param" in (first.get("ctx") or {}) and not path:
        return BadInput(f"{first['msg']}.", param=str(first["ctx"]["param"]))
    if not path:
        said = in_words(first)
        return BadInput(_NOT_AN_OBJECT if first["type"] in _NO_OBJECT else f"{said[:1].upper()}{said[1:]}.")
    param = str(path[0]) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[1:])
    return BadInput(f"{param}: {in_words(first)}.", param=param)


def answer(error: HoneError) -> JSONResponse:
    """The answer. OpenAI's clients send 409 and 5xx again unasked: `x-should-retry` says whether that can help."""
    headers = {"x-should-retry": "true" if error.retry_after is not None else "false"}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HoneError)
    if error.status >= 500:
        log.warning("request failed", path=request.url.path, status=error.status, error=str(error))
    return answer(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    refusal, said = bad_input(list(error.errors())), request.headers.get("content-type", "")
    if refusal.message == _NOT_AN_OBJECT and not is_json(said):
        refusal.hint = f"Send it with the header content-type: application/json{said and ', not ' + said}."
    return answer(refusal)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        allowed = _methods_at(request) or _listed((error.headers or {}).get("allow", ""))
        return answer(_nothing_there(request)) if not allowed else _other_methods(request, allowed)
    ours = _OURS.get(error.status_code, BadInput if error.status_code < 500 else HoneError)(str(error.detail))
    response = answer(ours)
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


def _methods_at(request: Request) -> list[str]:
    """What the routes of this path take: starlette tells those of one route only, and none where pages are mounted."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    partial = (route for route in routes if route.matches(request.scope)[0] == Match.PARTIAL)
    return sorted({method for route in partial for method in route.methods or ()})


def _listed(allow: str) -> list[str]:
    return sorted(method.strip() for method in allow.split(",") if method.strip())


def _nothing_there(request: Request) -> NotFound:
    hint = "See /docs. A client's base URL ends in /v1."
    return NotFound(f"There is nothing at {request.method} {request.url.path}.", hint)


def _other_methods(request: Request, allowed: list[str]) -> JSONResponse:
    words = f"{request.url.path} takes {' and '.join(allowed)}, not {request.method}."
    response = answer(MethodNotAllowed(words, "See /docs."))
    response.headers["allow"] = ", ".join(allowed)
    return response


async def _bug(request: Request, error: Exception) -> JSONResponse:
    log.error("bug", path=request.url.path, exc_info=error)
    return answer(unexpected(error))
