"""The pages as an app of their own: sessions, headers, and what Gradio would do if nobody told it otherwise."""

from __future__ import annotations

import json
import re

import httpx2
import pytest

from tests.fixtures.serving import serve
from tests.ui.fake_service import FakeService
from ui.app import create_app


@pytest.fixture
def fake(running: tuple[str, FakeService]) -> FakeService:
    """The one service of this file, as if it had just started."""
    vars(running[1]).update(vars(FakeService()))
    return running[1]


@pytest.fixture
def pages(running: tuple[str, FakeService], fake: FakeService) -> str:
    return running[0]


def get(url: str, cookie: str | None = None, **headers: str) -> httpx2.Response:
    sent = {**headers, **({"Cookie": f"hone_session={cookie}"} if cookie else {})}
    return httpx2.get(url, headers=sent, trust_env=False)


def test_each_browser_gets_an_identity_of_its_own(fake: FakeService, pages: str) -> None:
    cookies = [get(f"{pages}{path}").headers["set-cookie"] for path in ("/", "/", "/operator/")]
    assert [cookie.split(";")[0] for cookie in cookies] == [f"hone_session=browser-{n}" for n in (1, 2, 3)]
    assert all("HttpOnly" in cookie and "SameSite=Lax" in cookie and "Secure" not in cookie for cookie in cookies)


def test_a_session_that_is_good_is_kept_and_one_that_is_not_is_replaced(fake: FakeService, pages: str) -> None:
    assert "set-cookie" not in get(pages, cookie="browser-1").headers
    assert get(pages, cookie="stale").headers["set-cookie"].startswith("hone_session=browser-")
    assert get(pages, cookie="name:local").headers["set-cookie"].startswith("hone_session=browser-")


def test_nothing_but_pages_gets_a_session(fake: FakeService, pages: str) -> None:
    for path in ("/config", "/theme.css", "/operator/config"):
        assert "set-cookie" not in get(pages + path).headers
    assert fake.sessions == 0


def test_a_key_is_exchanged_for_its_owners_session_and_leaves_the_address(fake: FakeService, pages: str) -> None:
    answer = get(f"{pages}/operator?key=right")
    assert answer.status_code == 303 and answer.headers["location"] == "/operator/"
    assert answer.headers["set-cookie"].startswith("hone_session=the-operator;")
    wrong = get(f"{pages}/?key=wrong")
    assert wrong.status_code == 401 and wrong.text == "This key is not in force."


def test_where_keys_are_asked_for_the_page_opens_and_no_identity_is_made_up(fake: FakeService, pages: str) -> None:
    fake.keys_only = True
    answer = get(pages)
    assert answer.status_code == 200 and "set-cookie" not in answer.headers


def test_the_pages_open_while_the_service_is_away() -> None:
    with serve(create_app("http://127.0.0.1:9")) as url:
        assert get(url).status_code == 200


def test_the_operators_page_is_found_without_its_slash(fake: FakeService, pages: str) -> None:
    answer = get(f"{pages}/operator")
    assert answer.is_redirect and answer.headers["location"].endswith("/operator/")


def test_other_sites_may_not_read_anything(fake: FakeService, pages: str) -> None:
    for path in ("/", "/config", "/operator/config", "/gradio_api/queue/join"):
        answer = get(pages + path, Origin="https://elsewhere.example")
        assert "access-control-allow-origin" not in answer.headers


def test_nothing_is_uploaded_and_no_event_skips_the_queue_or_is_advertised(fake: FakeService, pages: str) -> None:
    for page in (pages, f"{pages}/operator"):
        upload = httpx2.post(
            f"{page}/gradio_api/upload", files={"files": ("x.txt", b"more than a byte")}, trust_env=False
        )
        assert upload.status_code >= 400
        assert get(f"{page}/gradio_api/info").json()["named_endpoints"] == {}


def test_the_pages_ask_nothing_of_other_hosts_and_keep_no_history(fake: FakeService, pages: str) -> None:
    for path in ("/", "/operator/"):
        html = get(pages + path).text
        config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", html).group(1))  # type: ignore[union-attr]
        assert config["analytics_enabled"] is False and not config.get("run_history")
        assert "fonts.googleapis.com" not in html
    assert "http" not in re.sub(r"https?://(www\.w3\.org|gradio\.s3)[^\s\"')]*", "", get(f"{pages}/theme.css").text)


def test_the_style_that_the_sign_in_page_shares_is_for_everybody_and_fetches_nothing(
    fake: FakeService, pages: str
) -> None:
    answer = get(f"{pages}/pieces.css")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/css")
    assert "--hone-paper" in answer.text and "url(" not in answer.text and "@import" not in answer.text
    assert "set-cookie" not in answer.headers and fake.sessions == 0
