"""What holds of every route: errors, methods, the page of schemas, health and metrics."""

import re

import pytest

from tests.service.chatting import ask
from tests.service.conftest import Running


def test_health_and_metrics_tell_how_things_are(running: Running) -> None:
    health = running.get("/health")
    assert (health.status_code, health.json()["engine"]) == (200, "ok")
    running.post("/v1/chat/completions", ask())
    text = running.get("/metrics").text
    assert 'hone_live_adapter{adapter="base"} 1.0' in text
    assert 'hone_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert 'hone_tokens_total{adapter="base",kind="completion"}' in text


def test_every_error_has_openais_body(running: Running) -> None:
    for response in (running.get("/nothing"), running.http.put("/health"), running.http.get("/v1/feedback?limit=x")):
        assert response.status_code in (400, 404, 405)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/health", "GET"),
        ("PATCH", "/v1/runs", "GET, POST"),
        ("POST", "/v1/feedback/fb-x", "DELETE, GET, PUT"),
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/adapters/v1/promote", "POST"),
    ],
)
def test_a_method_that_a_route_does_not_take_is_405_with_those_that_it_does(
    running: Running, method: str, path: str, allowed: str
) -> None:
    response = running.http.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    error = response.json()["error"]
    words = f"{path} takes {allowed.replace(', ', ' and ')}, not {method}. See /docs."
    assert (error["code"], error["message"]) == ("method_not_allowed", words)


def test_the_schemas_page_needs_no_other_site(running: Running) -> None:
    """A machine without the internet shows it too, and whoever runs one is told of to nobody."""
    page = running.http.get("/docs")
    assert page.status_code == 200 and "//" not in "".join(re.findall(r'(?:src|href)="([^"]+)"', page.text))
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert running.http.get(asset).status_code == 200, asset
    assert running.http.get("/openapi.json").json()["info"]["title"] == "Hone"


def test_a_body_that_is_no_text_is_told_where_it_breaks(running: Running) -> None:
    head = {"content-type": "application/json"}
    broken = running.http.post("/v1/chat/completions", content=b'{"model": "\xff"}', headers=head)
    assert broken.status_code == 400
    assert broken.json()["error"]["message"] == "The body is no UTF-8 text: byte 11 can't be read."
    deep = running.http.post("/v1/chat/completions", content=b"[" * 100_000, headers=head)
    assert deep.status_code == 400 and "nested too deeply" in deep.json()["error"]["message"]
