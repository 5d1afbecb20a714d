"""A simulation from end to end, over a service in memory: what it measures, prints, draws and refuses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from learner.simulate import show
from learner.simulate.client import Client, ServiceRefused
from learner.simulate.rounds import Options, simulate
from service.errors import BadInput, SettingsError
from tests.learner.pretend_service import Service


@pytest.mark.parametrize("name", ["picture.jpg", "nowhere/picture.png"])
def test_a_picture_that_can_not_be_drawn_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"picture|write"):
        simulate(Options("short", url="http://127.0.0.1:1", key="k", picture=tmp_path / name))


def test_without_anything_to_draw_the_picture_with_a_simulation_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match=r"needs matplotlib.*pip install '\.\[learner\]'"):
        simulate(Options("short", url="http://127.0.0.1:1", key="k", picture=tmp_path / "picture.png"))


def test_a_running_service_needs_an_operators_key() -> None:
    with pytest.raises(BadInput, match=r"operator's key.*`hone keys create --role operator --name YOU`"):
        simulate(Options("short", url="http://127.0.0.1:1"))


class LearningService(Service):
    """Learns in three looks; its first adapter is shorter than the base. Now and then it is too busy to answer."""

    SAID = "v1 passed every gate."

    def __init__(self) -> None:
        super().__init__()
        self.looks = self.streams = self.streams_while_learning = self.busy = 0
        self.asked: dict[str, set[str]] = {"hone": set()}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else {}
        path = request.url.path
        if path == "/v1/chat/completions":
            self.asked.setdefault(body["model"], set()).add(body["messages"][-1]["content"])
            self.streams += bool(body.get("stream"))
            self.streams_while_learning += bool(body.get("stream")) and 0 < self.looks < 3
            return self._reply(body)
        if path == "/v1/score":
            return httpx2.Response(200, json={"token_logprobs": [[-1.0, -2.0]]})
        if path == "/v1/serving":
            return httpx2.Response(200, json={"live": "v1" if self.looks >= 3 else "base", "requested": "v1"})
        if path.startswith("/v1/runs/"):
            self.looks += 1
            if self.looks == 2 and not self.busy:
                self.busy = 1
                return httpx2.Response(503, json={"error": {"message": "busy"}})
            over = self.looks >= 3
            run = {"state": "succeeded" if over else "running", "phase": "train", "step": 1, "steps": 2}
            return httpx2.Response(200, json=run | {"id": "run-1", "adapter": "v1", "message": self.SAID})
        if path == "/v1/runs":
            return httpx2.Response(202, json={"id": "run-1", "state": "queued"})
        return super().__call__(request)

    def _reply(self, body: dict[str, Any]) -> httpx2.Response:
        if body.get("stream"):
            return httpx2.Response(200, content=self.stream)
        is_taught = body["model"] == "hone:v1" or (body["model"] == "hone" and self.looks >= 3)
        texts = ["7.", "7."] if is_taught else ["Well, it is 7.", "It is 7."]
        logprobs = {"content": [{"logprob": -0.5}, {"logprob": -0.5}]}
        choices = [
            {"index": i, "message": {"content": text}, "logprobs": logprobs}
            for i, text in enumerate(texts[: body.get("n", 1)])
        ]
        return httpx2.Response(200, json={"id": "chatcmpl-1", "system_fingerprint": "base", "choices": choices})


def simulated(monkeypatch: pytest.MonkeyPatch, service: Service, options: Options) -> int:
    transport = httpx2.MockTransport(service)
    monkeypatch.setattr("learner.simulate.rounds.Client", lambda url, key: Client(url, key, transport))
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the tests' own process keeps its SIGTERM
    return simulate(options)


def test_a_simulation_measures_what_it_says_and_prints_the_agreed_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = LearningService()
    picture = tmp_path / "picture.png"
    wanted = Options(
        "short", "http://127.0.0.1:1", "k", 1, comparisons=5, as_json=True, picture=picture, held_out=10, questions=10
    )
    assert simulated(monkeypatch, service, wanted) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["taste", "seconds", "rounds"]
    before, after = printed["rounds"]
    assert list(before) == list(after) == [key for key in KEYS if key != "ties"]
    assert (before["adapter"], before["share_won"], before["fluency"], before["failed"]) == ("base", 0.5, 0.0, 0)
    assert (after["adapter"], after["share_won"], after["empty"], after["mean_length"]) == ("v1", 1.0, 0, 1.0)
    assert after["kl_per_token"] == 1.0  # own -0.5, base -1.5 a token
    assert (after["failed"], after["interrupted"]) == (1, 0)  # the 503, after which it asked again
    assert service.streams_while_learning > 0
    assert len(service.feedback) == 5
    assert not service.asked["hone"] & (service.asked["hone:v1"] | service.asked["hone:base"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_once_all_replies_are_as_good_as_each_other_the_next_rounds_measure_what_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = LearningService()
    options = Options("short", "http://127.0.0.1:1", "k", 3, comparisons=5, held_out=10, questions=10)
    assert simulated(monkeypatch, service, replace(options, picture=tmp_path / "p.png", as_json=True)) == 0
    told = capsys.readouterr()
    rows = json.loads(told.out)["rounds"]
    assert [row["adapter"] for row in rows] == ["base", "v1", "v1", "v1"]
    assert len(service.feedback) == 5
    assert " ".join(told.err.split()).count("nothing was left to learn") == 2


class BracketingService(LearningService):
    SAID = "v1 passed [i] and [/all]."


def test_what_the_service_says_of_a_run_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options("short", "http://127.0.0.1:1", "k", 1, comparisons=5, held_out=10, questions=10)
    assert simulated(monkeypatch, BracketingService(), replace(options, picture=tmp_path / "p.png")) == 0
    told = capsys.readouterr()
    assert all(BracketingService.SAID in " ".join(stream.split()) for stream in (told.out, told.err))


class KeyedService(LearningService):
    """Listens beyond this machine: nobody gets in without a key, and to learn now is for operators."""

    ROLES = {"Bearer hone_olga": "operator", "Bearer hone_ann": "user"}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        role = self.ROLES.get(request.headers.get("authorization", ""))
        if role is None:
            return httpx2.Response(401, json={"error": {"message": "A key is needed."}})
        if role == "user" and request.url.path.startswith(("/v1/serving", "/v1/runs")):
            return httpx2.Response(403, json={"error": {"message": "This is for operators."}})
        return super().__call__(request)


def test_a_service_on_this_machine_that_wants_keys_is_simulated_with_the_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options("short", "http://127.0.0.1:1", "hone_olga", 1, comparisons=5, held_out=10, questions=10)
    assert simulated(monkeypatch, KeyedService(), replace(options, picture=tmp_path / "p.png", as_json=True)) == 0
    rows = json.loads(capsys.readouterr().out)["rounds"]
    assert [(row["adapter"], row["failed"]) for row in rows] == [("base", 0), ("v1", 1)]  # the 503, as above


@pytest.mark.parametrize(("key", "said"), [("hone_ann", "403: This is for operators"), ("hone_old", "401: A key")])
def test_a_key_that_is_no_operators_is_refused_before_anybody_chats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, said: str
) -> None:
    service = KeyedService()
    options = Options("short", "http://127.0.0.1:1", key, 1, comparisons=5, held_out=10, questions=10)
    with pytest.raises(ServiceRefused, match=said):
        simulated(monkeypatch, service, replace(options, picture=tmp_path / "p.png"))
    assert service.asked == {"hone": set()} and service.feedback == []


def test_a_taste_that_likes_all_replies_the_same_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options("safe", "http://127.0.0.1:1", "k", 1, comparisons=5, held_out=10, questions=10)
    with pytest.raises(BadInput, match="likes all replies the same"):
        simulated(monkeypatch, LearningService(), replace(options, picture=tmp_path / "p.png"))


KEYS = (
    "round", "adapter", "share_won", "share_won_low", "share_won_high", "ties", "accuracy",
    "accuracy_base", "fluency", "empty", "mean_length", "distinct_2", "kl_per_token",
    "requests", "failed", "interrupted",
)  # fmt: skip


def test_the_table_and_the_picture_show_every_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [dict.fromkeys(KEYS, 0.5) | {"round": number, "adapter": f"v{number}"} for number in range(3)]
    show.show_table("short", rows, ["Round 1: rejected: it was too short."], 12.0)
    shown = capsys.readouterr().out
    assert "v2" in shown and "rejected: it was too short" in shown
    show.draw_picture("short", rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
