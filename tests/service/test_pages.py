"""The place of the pages in the service: what no page is, and what is said while they don't start."""

import httpx2
import pytest
from fastapi import FastAPI

from service import error_handlers, pages
from service.pages import Pages


def ask(mounted: Pages, path: str) -> httpx2.AsyncClient:
    app = FastAPI()
    error_handlers.install(app)
    app.add_api_route("/v1/runs", lambda: None, methods=["GET", "DELETE"])
    app.mount("/", mounted)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=f"http://127.0.0.1{path}")


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


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
