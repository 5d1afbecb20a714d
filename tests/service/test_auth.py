"""Who is calling: keys, sessions, loopback, and other sites' pages kept out."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.app import create_app
from service.auth import COOKIE, Sessions, is_loopback, load_secret
from service.errors import BadInput, SettingsError
from service.settings import load_settings
from service.store.queries import keys
from service.store.queries.adapters import ACTORS
from service.store.session import Store
from tests.service.callers import new_key
from tests.service.conftest import Running

CHAT = {"model": "hone", "messages": [{"role": "user", "content": "hi"}]}


def who(running: Running, **headers: str) -> tuple[str, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = running.http.get("/v1/whoami", headers=named).json()
    return answer["caller"], answer["role"]


def test_on_loopback_callers_are_told_apart_by_the_name_they_give(running: Running) -> None:
    assert who(running) == ("name:local", "user")
    assert who(running, x_hone_user="ann") == ("name:ann", "user")
    in_a_body = running.post("/v1/chat/completions", CHAT | {"user": "Zoë"}).json()["id"]
    in_a_header = running.http.get(f"/v1/exchanges/{in_a_body}", headers={b"x-hone-user": "Zoë".encode()})
    assert in_a_header.status_code == 200
    assert who(running, authorization="Bearer sk-anything-an-openai-client-sends") == ("name:local", "user")


@pytest.mark.parametrize("name", ACTORS)
def test_no_key_goes_by_the_names_of_the_service_itself(running: Running, name: str) -> None:
    with pytest.raises(BadInput, match=f"can't be named {name}: .*Choose another name"):
        new_key(running.store, "operator", f" {name} ")


def test_a_key_names_its_caller_until_it_is_revoked(running: Running) -> None:
    key = new_key(running.store, "user", "kim")
    assert who(running, authorization=f"Bearer {key}", x_hone_user="ann") == ("kim", "user")
    session = running.app.state.parts.identities.sessions.sign("kim", "user", key.split("_")[1])
    assert who(running, authorization=f"Bearer {session}") == ("kim", "user")
    with running.store.begin() as tx:
        keys.revoke_key(tx, key.split("_")[1])
    for headers in ({"authorization": f"Bearer {key}"}, {"cookie": f"hone_session={session}"}):
        response = running.http.get("/v1/whoami", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"


def test_a_key_that_only_looks_right_is_refused(running: Running) -> None:
    prefix = new_key(running.store, "operator", "kit").split("_")[1]
    for key in (f"hone_{prefix}_wrong", "hone_", "hone_x_y", f"hone_{prefix}"):
        assert running.http.get("/v1/whoami", headers={"authorization": f"Bearer {key}"}).status_code == 401


def test_every_browser_gets_an_identity_of_its_own(running: Running) -> None:
    first, second = (running.post("/v1/sessions", {}).json() for _ in range(2))
    assert first["caller"] != second["caller"] and first["caller"].startswith("browser:")
    assert who(running, authorization=f"Bearer {first['token']}") == (first["caller"], "user")
    assert who(running, cookie=f"hone_session={second['token']}") == (second["caller"], "user")


def test_a_session_that_was_tampered_with_or_has_expired_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(b"s" * 32)
    token = sessions.sign("ann", "user")
    assert sessions.check(token) is not None
    assert Sessions(b"t" * 32).check(token) is None
    payload, signature = token.removeprefix("hs.").split(".")
    forged = Sessions(b"t" * 32).sign("ann", "operator").removeprefix("hs.").split(".")[0]
    for bad in (f"hs.{forged}.{signature}", f"hs.{payload}.", "hs.", "hs..", token[:-1], token + "é", f"hs.{payload}"):
        assert sessions.check(bad) is None
    later = time.time() + 91 * 24 * 3600
    monkeypatch.setattr("service.auth.time.time", lambda: later)
    assert sessions.check(token) is None


def test_what_a_proxy_passed_on_is_not_local(running: Running) -> None:
    response = running.http.get("/v1/whoami", headers={"x-forwarded-for": "10.0.0.1"})
    assert response.status_code == 401
    assert running.http.get("/metrics", headers={"forwarded": "for=10.0.0.1"}).status_code == 401
    browser = running.post("/v1/sessions", {}).json()["token"]
    assert (
        running.http.get("/v1/whoami", headers={"x-real-ip": "::2", "cookie": f"{COOKIE}={browser}"}).status_code == 401
    )
    key = new_key(running.store, "user", "pia")
    assert who(running, x_forwarded_for="10.0.0.1", authorization=f"Bearer {key}") == ("pia", "user")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "hone", "", "10.0.0.1:8000", "["])
def test_a_foreign_host_name_is_refused_on_loopback(running: Running, host: str) -> None:
    response = running.http.get("/health", headers={"host": host})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "hone.localhost"])
def test_names_of_this_machine_are_accepted(running: Running, host: str) -> None:
    assert running.http.get("/health/live", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "http://[", "http://127.0.0.1:1", "http://localhost"]
)
def test_pages_of_other_sites_are_refused(running: Running, origin: str) -> None:
    response = running.http.post("/v1/chat/completions", json=CHAT, headers={"origin": origin})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    preflight = {"origin": origin, "access-control-request-method": "POST"}
    assert running.http.options("/v1/chat/completions", headers=preflight).status_code == 403


def test_our_own_pages_are_accepted_and_plain_forms_are_not(running: Running) -> None:
    own = {"origin": running.url}
    assert running.http.post("/v1/chat/completions", json=CHAT, headers=own).status_code == 200
    form = running.http.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert form.status_code in (400, 415)


def test_a_name_must_be_printable(running: Running) -> None:
    assert running.http.get("/v1/whoami", headers={"x-hone-user": "x" * 200}).status_code == 400
    assert running.post("/v1/chat/completions", CHAT | {"user": "a\nb"}).status_code == 400


def test_without_keys_the_service_refuses_to_listen_beyond_loopback(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {"server": {"host": "0.0.0.0", "pages": False}}, environment={})
    store = Store.open(settings.store_url)
    with pytest.raises(SettingsError, match="without keys"):
        create_app(settings, store, ["http://127.0.0.1:1"])
    key = new_key(store, "user", "una")
    create_app(settings, store, ["http://127.0.0.1:1"])
    with store.begin() as tx:
        keys.revoke_key(tx, key.split("_")[1])
    with pytest.raises(SettingsError):
        create_app(settings, store, ["http://127.0.0.1:1"])
    store.close()


def test_loopback_addresses_are_known() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", ""))


def test_the_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    secret = load_secret(tmp_path / "home")
    assert len(secret) == 32 and load_secret(tmp_path / "home") == secret
    path = tmp_path / "home" / "secret"
    assert path.stat().st_mode & 0o077 == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]
    path.write_bytes(b"short")
    with pytest.raises(SettingsError, match="damaged"):
        load_secret(tmp_path / "home")


def test_a_home_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(SettingsError, match="can't be used"):
        load_secret(tmp_path / "home")


@pytest.mark.parametrize("server", [{"host": "0.0.0.0"}, {"require_keys": True}])
def test_beyond_loopback_and_behind_a_proxy_on_this_machine_nobody_gets_in_without_a_key(
    tmp_path: Path, server: dict[str, Any]
) -> None:
    """The proxy is nginx's bare `proxy_pass`: nothing tells that what it passes on comes from elsewhere."""
    settings = load_settings(tmp_path, {"server": {"pages": False} | server}, environment={})
    store = Store.open(settings.store_url)
    with_key = {"authorization": f"Bearer {new_key(store, 'user', 'una')}"}
    app = create_app(settings, store, ["http://127.0.0.1:1"])
    browser = app.state.parts.identities.sessions.sign_browser()[0]  # of the time when none was needed

    async def ask() -> list[int]:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://hone.example") as http:
            answers = [
                await http.get("/v1/whoami"),
                await http.get("/v1/whoami", headers={"authorization": "Bearer sk-dummy"}),
                await http.get("/v1/whoami", headers={"cookie": f"{COOKIE}={browser}"}),
                await http.get("/v1/whoami", headers=with_key),
                await http.post("/v1/sessions"),
                await http.post("/v1/sessions", headers=with_key),
                await http.get("/metrics"),
                await http.get("/metrics", headers=with_key),
            ]
            return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [401, 401, 401, 200, 401, 403, 401, 403]
    store.close()
