"""What is asked of a service that chats, and what comes of a stream."""

import json
from typing import Any

import httpx2


def ask(said: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "hone", "messages": [{"role": "user", "content": said}], **fields}


def events(response: httpx2.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
