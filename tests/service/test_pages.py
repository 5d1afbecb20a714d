"""The place of the pages in the service: what no page is, and what is said while they don't start."""

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.routing import Route

from service import error_handlers, pages
from service.pages import Pages


def mount(mounted: Pages) -> FastAPI:
    app = FastAPI()
    error_handlers.install(app)
    app.add_api_route("/v1/runs", lambda: None, methods=["GET", "DELETE"])
    app.mount("/", mounted)
    return app


def client(app: FastAPI, path: str = "") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=f"http://127.0.0.1{path}")


def ask(mounted: Pages, path: str) -> httpx2.AsyncClient:
    return client(mount(mounted), path)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/nothing", "/chat/completions", "/models"])
async def test_a_client_with_a_wrong_address_hears_of_it_in_its_own_terms(path: str) -> None:
    async with ask(Pages("http://127.0.0.1:1"), path) as http:
        response = await http.post("")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert "/v1" in response.json()["error"]["message"]


@pytest.mark.anyio
async def test_pages_hide_no_route_of_the_api_that_takes_other_methods() -> None:
    async with ask(Pages("http://127.0.0.1:1"), "") as http:
        response = await http.post("/v1/runs")
    assert (response.status_code, response.headers["allow"]) == (405, "DELETE, GET")
    assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.anyio
async def test_pages_that_can_not_be_built_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_url: str) -> None:
        raise ImportError("no module named gradio")

    monkeypatch.setattr(pages, "_build", build)
    mounted = Pages("http://127.0.0.1:1")
    assert mounted.state == "starting"
    async with mounted.running(), ask(mounted, "/") as http:
        response = await http.get("")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "pages_unavailable")
    assert "no module named gradio" in response.json()["error"]["message"] and "don't start" in mounted.state


def small_pages(_url: str) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/", lambda: HTMLResponse("<h1>Hone</h1>"), methods=["GET"])
    app.add_api_route("/lost", lambda: HTMLResponse("<h1>No such page</h1>", 404), methods=["GET"])
    return app


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allowed"),
    [
        ("GET", "/nothing", 404, "not_found", None),
        ("POST", "/v2/chat/completions", 404, "not_found", None),
        ("POST", "/", 405, "method_not_allowed", "GET"),
        ("PUT", "/login", 405, "method_not_allowed", "POST"),
    ],
)
async def test_what_neither_a_route_nor_a_page_knows_has_openais_error_body(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str, status: int, code: str, allowed: str | None
) -> None:
    monkeypatch.setattr(pages, "_build", small_pages)
    mounted = Pages("http://127.0.0.1:1")
    app = mount(mounted)
    app.router.routes.insert(0, Route("/login", lambda request: HTMLResponse(""), methods=["POST"]))
    async with mounted.running(), client(app) as http:
        response = await http.request(method, path)
    error = response.json()["error"]
    assert (response.status_code, error["code"], response.headers.get("allow")) == (status, code, allowed)
    assert path in error["message"] and set(error) == {"message", "type", "param", "code"}


@pytest.mark.anyio
async def test_pages_and_what_they_ask_of_their_own_server_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_build", small_pages)
    mounted = Pages("http://127.0.0.1:1")
    async with mounted.running(), client(mount(mounted)) as http:
        assert (await http.get("/")).text == "<h1>Hone</h1>"
        assert (await http.get("/lost")).text == "<h1>No such page</h1>"
        assert (await http.get("/gradio_api/nothing")).json() == {"detail": "Not Found"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
