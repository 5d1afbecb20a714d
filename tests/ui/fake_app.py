"""The fake service over HTTP: the one place that puts its routes together."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from tests.ui.fake_chat_routes import add_chat_routes
from tests.ui.fake_constitution_routes import add_constitution_routes
from tests.ui.fake_feedback_routes import add_feedback_routes
from tests.ui.fake_operator_routes import add_operator_routes
from tests.ui.fake_service import FakeService, Refused


def fake_app(fake: FakeService) -> FastAPI:
    app = FastAPI()

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        body = {"message": error.message, "type": "error", "param": None, "code": error.code}
        return JSONResponse({"error": body}, error.status)

    add_chat_routes(app, fake)
    add_feedback_routes(app, fake)
    add_operator_routes(app, fake)
    add_constitution_routes(app, fake)
    return app
