"""Best-of-N: what is asked of the engine, answered, kept and counted, and when there is nothing to choose by."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.adapters.manifest import JUDGE
from service.adapters.registry import Registry
from service.chat.completion import Chat
from service.chat.judges import Judges
from service.errors import SettingsError
from service.settings import load_settings
from tests.fixtures.adapters import provenance, write_source
from tests.fixtures.waiting import until
from tests.service.chatting import ask, events
from tests.service.conftest import Running
from tests.service.fake_engine import EOS, LOGPROB, WORDS
from tests.service.judges import SHORT, judge

SAYS = ("quite a long reply", "short", "", "brief", "not so short", "tiny")


def publish(running: Running, folder: Path, content: bytes | None) -> str:
    """A candidate that the fake engine serves as it was trained, with this judge."""
    probe = provenance().probes[0].model_copy(update={"logprobs": (-0.25,) * 3, "base_logprobs": (-0.5,) * 3})
    source = write_source(folder)
    if content is not None:
        (source / JUDGE).write_bytes(content)
    registry = Registry(running.store, running.settings.adapters_folder)
    return registry.publish(source, provenance().model_copy(update={"probes": (probe,)}), {}, "It passed.")


@pytest.fixture(scope="module")
def judged(running: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    return publish(running, tmp_path_factory.mktemp("judged"), judge(SHORT).encoded())


@pytest.fixture(autouse=True)
def varied(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.engine, "says", SAYS)


@contextmanager
def setting(running: Running, **chat: object) -> Iterator[None]:
    """The service as if it had been started with these settings."""
    serving: Chat = running.app.state.parts.chat
    before = serving._settings
    serving._settings = before.model_copy(update=chat)
    try:
        yield
    finally:
        serving._settings = before


def counted(running: Running, name: str, *labels: str) -> float:
    found: float = getattr(running.app.state.parts.metrics, name).labels(*labels)._value.get()
    return found


def test_the_best_of_several_is_answered_and_kept_and_all_are_counted(running: Running, judged: str) -> None:
    before = counted(running, "tokens", judged, "completion")
    chats = counted(running, "best_of", judged)
    body = ask(model=f"hone:{judged}", best_of=6, logprobs=True, return_token_ids=True)
    answer = running.post("/v1/chat/completions", body).json()
    (choice,) = answer["choices"]
    tokens = [*range(10, 10 + len(WORDS)), EOS]
    assert (choice["index"], choice["message"]["content"], choice["token_ids"]) == (0, "tiny", tokens)
    assert running.engine.bodies[-1]["n"] == 6 and "best_of" not in running.engine.bodies[-1]
    assert answer["usage"]["completion_tokens"] == 6 * 6
    assert counted(running, "tokens", judged, "completion") - before == 6 * 6
    assert counted(running, "best_of", judged) - chats == 1
    stored = running.get(f"/v1/exchanges/{answer['id']}").json()
    assert (stored["best_of"], stored["sampling"]["n"], stored["adapter"]) == (6, 1, judged)
    reply = {"index": 0, "text": "tiny", "finish_reason": "stop", "token_ids": tokens, "logprobs": [LOGPROB] * 6}
    assert stored["replies"] == [reply]


def test_of_several_that_are_wanted_the_best_comes_first(running: Running, judged: str) -> None:
    answer = running.post("/v1/chat/completions", ask(model=f"hone:{judged}", n=3, best_of=6)).json()
    best = ["tiny", "short", "brief"]  # short and brief are as long: in the engine's order
    assert [(choice["index"], choice["message"]["content"]) for choice in answer["choices"]] == [*enumerate(best)]
    stored = running.get(f"/v1/exchanges/{answer['id']}").json()
    assert [reply["text"] for reply in stored["replies"]] == best


def test_a_stream_brings_the_chosen_reply(running: Running, judged: str) -> None:
    body = ask(model=f"hone:{judged}", best_of=4, stream=True, stream_options={"include_usage": True})
    response = running.post("/v1/chat/completions", body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, done = events(response)
    assert "stream" not in running.engine.bodies[-1] and "stream_options" not in running.engine.bodies[-1]
    assert done == "[DONE]" and usage["choices"] == [] and usage["usage"]["completion_tokens"] == 4 * 6
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "short"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert {(chunk["object"], chunk["id"], chunk["system_fingerprint"]) for chunk in (*chunks, usage)} == {
        ("chat.completion.chunk", chunks[0]["id"], judged)
    }
    assert all("token_ids" not in c["choices"][0] and c["choices"][0]["logprobs"] is None for c in chunks)
    stored = running.get(f"/v1/exchanges/{chunks[0]['id']}").json()
    assert stored["best_of"] == 4 and stored["replies"][0]["text"] == "short"
    assert len(stored["replies"][0]["logprobs"]) == len(stored["replies"][0]["token_ids"]) == 6
    plain = events(running.post("/v1/chat/completions", ask(model=f"hone:{judged}", best_of=2, stream=True)))
    assert len(plain) == 4 and "usage" not in plain[-2]


def test_a_stream_that_fails_before_it_begins_is_an_error_with_its_status(running: Running, judged: str) -> None:
    response = running.post("/v1/chat/completions", ask("!refuse", model=f"hone:{judged}", best_of=2, stream=True))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "engine_error")


def test_the_setting_holds_for_those_who_say_nothing(running: Running, judged: str) -> None:
    with setting(running, best_of=4):
        answer = running.post("/v1/chat/completions", ask(model=f"hone:{judged}")).json()
        assert answer["choices"][0]["message"]["content"] == "short"
        assert running.get(f"/v1/exchanges/{answer['id']}").json()["best_of"] == 4
        others: tuple[dict[str, Any], ...] = ({"best_of": 1}, {"n": 2}, {"n": 5}, {"temperature": 0})
        for asked in others:
            answer = running.post("/v1/chat/completions", ask(model=f"hone:{judged}", **asked)).json()
            assert running.engine.bodies[-1]["n"] == asked.get("n", 1)
            assert answer["choices"][0]["message"]["content"] == SAYS[0]
            assert running.get(f"/v1/exchanges/{answer['id']}").json()["best_of"] is None


def refusal(running: Running, model: str, **fields: Any) -> str:
    response = running.post("/v1/chat/completions", ask(model=model, **fields))
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", "best_of")
    message: str = error["message"]
    return message


def test_without_a_judge_a_request_is_refused_and_the_setting_passed_over(running: Running, tmp_path: Path) -> None:
    unjudged = publish(running, tmp_path / "unjudged", None)
    assert "the base model has no judge" in refusal(running, "hone:base", best_of=2)
    assert f"{unjudged} has no judge" in refusal(running, f"hone:{unjudged}", best_of=2, stream=True)
    for model in ("hone:base", f"hone:{unjudged}"):
        assert running.post("/v1/chat/completions", ask(model=model, n=2, best_of=2)).status_code == 200
        with setting(running, best_of=4):
            answer = running.post("/v1/chat/completions", ask(model=model)).json()
        assert running.engine.bodies[-1]["n"] == 1 and len(answer["choices"]) == 1


def test_an_adapter_with_a_broken_judge_serves_all_the_same(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish(running, tmp_path, b'{"weights": 7}')
    said: list[dict[str, Any]] = []
    monkeypatch.setattr("service.chat.judges.log.warning", lambda event, **fields: said.append(fields))
    with setting(running, best_of=4):
        for _ in range(2):
            answer = running.post("/v1/chat/completions", ask(model=f"hone:{name}"))
            assert answer.json()["system_fingerprint"] == name
    assert running.engine.bodies[-1]["n"] == 1
    told = refusal(running, f"hone:{name}", best_of=2)
    assert f"the judge of {name} can't be used now" in told and str(tmp_path) not in told
    (warning,) = said  # once, however many ask
    assert warning["adapter"] == name and f"{JUDGE} is no judge" in warning["error"]


def test_a_judge_that_was_broken_is_looked_at_again(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish(running, tmp_path, judge(SHORT).encoded())
    file = running.settings.adapters_folder / name / JUDGE
    kept = file.read_bytes()
    file.unlink()
    monkeypatch.setattr("service.chat.judges.AGAIN_SECONDS", 0.0)
    assert "can't be used now" in refusal(running, f"hone:{name}", best_of=2)
    file.write_bytes(kept)
    assert running.post("/v1/chat/completions", ask(model=f"hone:{name}", best_of=2)).status_code == 200


@pytest.mark.parametrize("how", ["promoted", "a canary"])
def test_the_judge_of_an_adapter_is_read_before_its_first_chat(running: Running, tmp_path: Path, how: str) -> None:
    """Whoever chats first doesn't wait until it is read: by then the files may even be gone."""
    name = publish(running, tmp_path, judge(SHORT).encoded())
    if how == "promoted":
        running.operator.post(f"/v1/adapters/{name}/promote", json={}).raise_for_status()
        until(lambda: running.operator.get("/v1/serving").json()["live"] == name)
    else:
        running.operator.post(f"/v1/adapters/{name}/canary", json={"share": 0.5}).raise_for_status()
        until(lambda: running.operator.get(f"/v1/adapters/{name}").json()["loaded"])
    (running.settings.adapters_folder / name / JUDGE).rename(tmp_path / "away")
    with setting(running, best_of=4):
        model = "hone" if how == "promoted" else f"hone:{name}"
        answer = running.post("/v1/chat/completions", ask(model=model)).json()
    assert (answer["system_fingerprint"], answer["choices"][0]["message"]["content"]) == (name, "short")
    if how == "promoted":
        running.operator.post("/v1/adapters/rollback", json={"to": "base"}).raise_for_status()
        until(lambda: running.operator.get("/v1/serving").json()["live"] == "base")
    else:
        running.operator.delete("/v1/adapters/canary").raise_for_status()


def test_only_so_many_judges_are_kept(running: Running, judged: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.chat.judges.MOST_KEPT", 1)
    judges = Judges(running.app.state.parts.registry)

    async def look() -> None:
        first, same = await asyncio.gather(judges.of(judged), judges.of(judged))
        assert first is same and first.judge == judge(SHORT)
        assert (await judges.of("v999")).judge is None
        assert list(judges._looks) == ["v999"]

    asyncio.run(look())


def test_a_setting_above_the_bound_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="best_of is 9, above max_choices"):
        load_settings(tmp_path, {"chat": {"best_of": 9}}, environment={})
