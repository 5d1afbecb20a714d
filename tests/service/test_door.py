"""The pages' door: who may open which page, and what browsers are known by."""

import time
from collections.abc import Iterator

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.auth import COOKIE, Identities, Sessions, is_loopback
from service.door import Door
from service.store.queries import keys
from service.store.session import Store
from service.transactions import Transactions
from tests.service.callers import new_key
from tests.service.conftest import Running


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def pages(request: pytest.FixtureRequest, sqlite_store: Store) -> Iterator[tuple[Door, Store, bool]]:
    """The door before a page that says its path, on loopback and beyond it."""

    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"page {request.url.path}")

    inside = Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST"])])
    transactions = Transactions(sqlite_store)
    identities = Identities(transactions, Sessions(b"s" * 32), is_loopback(request.param))
    yield Door(inside, identities), sqlite_store, identities.trusts_loopback
    transactions.close()


def browser(door: Door) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(door), base_url="http://127.0.0.1:8000")


@pytest.mark.anyio
async def test_the_chat_page_gives_an_identity_on_loopback_and_asks_for_a_key_elsewhere(
    pages: tuple[Door, Store, bool],
) -> None:
    door, store, on_loopback = pages
    async with browser(door) as http:
        response = await http.get("/")
        if on_loopback:
            assert response.text == "page /"
            cookie = response.headers["set-cookie"]
            assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
            assert "set-cookie" not in (await http.get("/")).headers  # it has one now
            http.cookies.set("hone_session", "hs.stale.one", domain="127.0.0.1")
            assert "set-cookie" in (await http.get("/")).headers
            return
        assert response.status_code == 401 and "<form" in response.text and "page /" not in response.text
        assert (await http.get("/gradio_api/info")).status_code == 401
        assert (await http.post("/gradio_api/queue/join")).status_code == 401
        assert (await http.get("/v1/models")).text == "page /v1/models"  # the API asks for itself
        entered = await http.get(f"/?key={new_key(store, 'user', 'una')}")
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        assert (await http.get("/")).text == "page /"
        assert (await http.get("/gradio_api/info")).status_code == 200


@pytest.mark.anyio
async def test_a_browser_that_comes_back_stays_the_same_for_ever(
    pages: tuple[Door, Store, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    door, store, on_loopback = pages
    days, began = 0, time.time()
    monkeypatch.setattr("service.auth.time.time", lambda: began + days * 24 * 3600)

    async def renewed_after(more: int) -> bool:
        nonlocal days
        days += more
        return "set-cookie" in (await http.get("/")).headers

    def whose() -> str | None:
        session = door.identities.sessions.check(http.cookies.get(COOKIE) or "")
        return session.caller if session is not None else None

    async with browser(door) as http:
        await http.get("/" if on_loopback else f"/?key={new_key(store, 'user', 'una')}")
        first = whose()
        renewed = [await renewed_after(44), await renewed_after(2), await renewed_after(1)]
        assert first is not None and whose() == first
        if not on_loopback:  # made from a key, which says again who one is
            assert renewed == [False, False, False]
            return
        assert renewed == [False, True, False]
        assert await renewed_after(80) and whose() == first
        await renewed_after(91)
        assert whose() != first


@pytest.mark.anyio
async def test_a_page_that_a_proxy_passed_on_needs_a_key(pages: tuple[Door, Store, bool]) -> None:
    door, store, _ = pages
    async with browser(door) as http:
        http.headers["x-forwarded-for"] = "10.0.0.1"
        for path in ("/", "/gradio_api/info"):
            response = await http.get(path)
            assert response.status_code == 401 and "set-cookie" not in response.headers
        await http.get(f"/?key={new_key(store, 'user', 'una')}")
        assert (await http.get("/")).text == "page /"


@pytest.mark.anyio
async def test_the_operator_page_opens_for_operators_alone_and_the_key_leaves_the_address(
    pages: tuple[Door, Store, bool],
) -> None:
    door, store, _ = pages
    user, operator = new_key(store, "user", "una"), new_key(store, "operator", "olga")
    async with browser(door) as http:
        for path in ("/operator", "/operator/", "/operator/gradio_api/call", "/operator?key=hone_x_y"):
            assert (await http.get(path)).status_code in (401, 403)
        assert (await http.post("/operator/gradio_api/queue/join")).status_code == 403
        await http.get(f"/?key={user}")
        assert (await http.get("/operator")).status_code == 403
        opened = await http.get(f"/operator?key={operator}")
        assert (opened.status_code, opened.headers["location"]) == (303, "/operator")
        assert operator not in str(opened.headers)
        assert (await http.get("/operator")).text == "page /operator"
        assert (await http.get("/operator/gradio_api/call")).status_code == 200
        with store.begin() as tx:
            keys.revoke_key(tx, operator.split("_")[1])
        assert (await http.get("/operator")).status_code == 403


def test_signing_in_turns_a_key_into_a_cookie(running: Running) -> None:
    key = new_key(running.store, "operator", "otto")
    with httpx2.Client(base_url=running.url) as http:
        response = http.post("/login", data={"key": key})
        assert (response.status_code, response.headers["location"]) == (303, "/operator")
        assert http.get("/v1/whoami").json() == {"caller": "otto", "role": "operator"}
        assert http.get("/v1/adapters").status_code == 200
    refused = running.http.post("/login", data={"key": "nonsense"})
    assert refused.status_code == 401 and "<form" in refused.text and "not in force" in refused.text


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
