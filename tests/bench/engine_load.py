"""A running embedded engine, and streams on it by a client so lean that it measures the engine and not itself."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stream:
    """One streamed reply: when each piece came (seconds, `time.perf_counter`) and how many tokens it had."""

    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0
    failed: bool = False


@contextmanager
def engine(*options: str) -> Iterator[int]:
    """Start the engine on a free port and yield the port; the engine ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "service.embedded", "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_until_healthy(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def post(port: int, path: str, body: dict[str, object]) -> bytes:
    """POST JSON; raises `urllib.error.HTTPError` for anything but success."""
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=120) as response:
        content: bytes = response.read()
    return content


async def stream_all(port: int, bodies: list[dict[str, object]]) -> list[Stream]:
    """Run all requests at once, each on a connection of its own."""
    return list(await asyncio.gather(*(stream_one(port, body) for body in bodies)))


async def stream_one(port: int, body: dict[str, object], watched: Stream | None = None) -> Stream:
    """One streamed completion, followed to its end."""
    stream = watched or Stream()
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    reader, writer = await _send(port, "/v1/completions", asked)
    tail = b""
    while part := await reader.read(65536):
        stream.arrivals.append(time.perf_counter())
        tail = (tail + part)[-4096:]
    writer.close()
    counts = re.findall(rb'"completion_tokens":\s*(\d+)', tail)
    stream.failed = not counts or b"data: [DONE]" not in tail
    stream.tokens = int(counts[-1]) if counts else 0
    return stream


async def ask(port: int, path: str, body: dict[str, object]) -> None:
    """POST JSON beside running streams, and wait for the answer. Raises RuntimeError for anything but success."""
    reader, writer = await _send(port, path, body)
    answer = await reader.read()
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{path} was answered by {answer.decode(errors='replace')}")


async def _send(port: int, path: str, body: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """On a connection of its own, which the engine closes."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + content)
    return reader, writer


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError("the engine ended while it started")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the engine is not healthy after a minute")
