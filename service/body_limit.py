"""Refuses bodies above a size, before reading them where the length is stated, while reading where it is not."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.error_handlers import answer
from service.errors import TooLarge


class BodyLimit:
    """Pure ASGI middleware: a body of more than `max_bytes` gets 413."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        stated = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not stated.isdigit() or int(stated) > self.max_bytes:
            response = answer(self._too_large())
            response.headers["connection"] = "close"  # what follows on this connection is the body that nobody reads
            return await response(scope, receive, send)
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self.max_bytes:
                    # FastAPI turns any other error while it reads a body into a 400 of its own.
                    raise HTTPException(413, str(self._too_large()), {"connection": "close"})
            return message

        return await self.app(scope, counted, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The body is larger than {self.max_bytes} bytes.", "Send less, or raise the setting server.max_body_bytes."
        )
