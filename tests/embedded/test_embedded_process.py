"""Starting, stopping and dying: one line that says what to do, no orphans, nothing hangs."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.embedded.serving import eventually, parse_event, serving, start, tokens_until_hang_up
from tests.fixtures.waiting import PATIENCE

ENDLESS: dict[str, Any] = {"prompt": [5, 6], "max_tokens": 120, "ignore_eos": True, "stream": True}


def children(pid: int) -> list[int]:
    """Living children of a process, from /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended while we looked
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_cannot_start_says_so_in_one_line() -> None:
    process = start("--model", "/no/such/folder")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 8
    assert errors.splitlines() == ["there is no model folder /no/such/folder"]


def test_a_model_that_can_not_chat_is_told_at_the_start_and_says_why(
    model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(model_of("llama"), tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with serving("--model", str(tmp_path / "base")) as engine:
        told = "The model has no chat template, so it answers no chats."
        assert [line for line in engine.said if line.startswith(told)]
        refused = engine.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
        assert refused.status_code == 400 and refused.json()["error"]["message"].startswith(told)
        assert engine.post("/v1/completions", {"prompt": [5, 6], "max_tokens": 1}).status_code == 200


def test_a_port_in_use_is_named(model_of: Callable[[str], Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start("--model", str(model_of("llama")), port=taken.getsockname()[1])
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 10 and "Choose another --port" in errors


def test_sigterm_lets_running_replies_end(model_of: Callable[[str], Path]) -> None:
    with serving("--model", str(model_of("llama"))) as engine:
        workers = children(engine.process.pid)
        with engine.client.stream("POST", "/v1/completions", json=ENDLESS) as response:
            lines = response.iter_lines()
            next(lines)
            engine.process.send_signal(signal.SIGTERM)
            events = [parse_event(line) for line in lines if line.startswith("data: ")]
        assert events[-1] == "[DONE]" and events[-2]["choices"][0]["finish_reason"] == "length"
        assert engine.process.wait(PATIENCE) == 0
        eventually(lambda: not any(alive(pid) for pid in workers))


def test_a_killed_engine_leaves_no_worker_behind(model_of: Callable[[str], Path]) -> None:
    with serving("--model", str(model_of("llama"))) as engine:
        workers = children(engine.process.pid)
        assert workers
        engine.process.kill()
        engine.process.wait(PATIENCE)
        eventually(lambda: not any(alive(pid) for pid in workers))


def test_a_dead_worker_ends_streams_with_an_error_and_the_engine(model_of: Callable[[str], Path]) -> None:
    with serving("--model", str(model_of("llama"))) as engine:
        with engine.client.stream("POST", "/v1/completions", json=ENDLESS) as response:
            lines = response.iter_lines()
            next(lines)
            for pid in children(engine.process.pid):
                os.kill(pid, signal.SIGKILL)
            events = [parse_event(line) for line in lines if line.startswith("data: ")]
        errors = [event for event in events if isinstance(event, dict) and "error" in event]
        finished = [e for e in events if isinstance(e, dict) and e.get("choices") and e["choices"][0]["finish_reason"]]
        assert finished or errors[0]["error"]["code"] == "engine_unavailable"
        assert engine.process.wait(PATIENCE) == 8
        with pytest.raises(httpx2.TransportError):
            engine.client.get("/health")


def test_the_command_explains_itself() -> None:
    process = start("--help")
    shown, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    for option in ("--model", "--kv-cache-gib", "--max-lora-rank", "--threads", "--seed"):
        assert option in shown
    assert isinstance(process, subprocess.Popen)


def test_a_client_that_hangs_up_leaves_no_traceback(model_of: Callable[[str], Path]) -> None:
    with serving("--model", str(model_of("llama")), "--max-num-seqs", "1") as served:
        long = ENDLESS | {"n": 128, "stream": False}  # one after the other: seconds of work
        assert tokens_until_hang_up(served.client, "/v1/completions", long) < 128 * ENDLESS["max_tokens"] / 2
        served.process.terminate()
        assert "Traceback" not in served.process.communicate(timeout=PATIENCE)[1]
