"""A route for what is asked most: documented like every other, but its requests are handled by hand.

What FastAPI does around an endpoint (dependencies, exit stacks, the body's type) takes longer than all that the service
itself does before it asks an engine.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from service.errors import BadInput


class BodyRoute(APIRoute):
    """Calls `endpoint(body, request)` and sends the response that it returns. Raises what FastAPI would."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self.endpoint(await self._body(request), request)
        await response(scope, receive, send)

    async def _body(self, request: Request) -> Any:
        assert self.body_field is not None
        body, errors = self.body_field.validate(await _content(request), loc=("body",))
        if errors:
            raise RequestValidationError(errors)
        return body


async def _content(request: Request) -> Any:
    """What the body says; its bytes where it doesn't claim to be JSON: no model takes those."""
    try:
        content = await request.body()
        return json.loads(content) if content and is_json(request.headers.get("content-type", "")) else content or None
    except json.JSONDecodeError as error:
        found = {"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}
        raise RequestValidationError([found]) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"The body is no UTF-8 text: byte {error.start} can't be read.") from error
    except RecursionError as error:
        raise BadInput("The body is nested too deeply.") from error
    except (ValueError, ClientDisconnect) as error:  # a number of 5,000 digits
        raise BadInput("The body can't be read as JSON.") from error


def is_json(content_type: str) -> bool:
    """Whether a body with this header is read as JSON."""
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))
