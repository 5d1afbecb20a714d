"""The chat template of a model folder, found without reading its tokenizer."""

import json
from pathlib import Path
from typing import Any

NO_TEMPLATE = "The model has no chat template, so it answers no chats."
CHAT_MODEL = (
    "Take one that is made for chat (often called Instruct or Chat), or put a chat_template.jinja in its folder."
)


def read_template(folder: Path) -> str | None:
    """The Jinja text; None where the folder has none. Raises OSError, ValueError for files that can't be read."""
    file = folder / "chat_template.jinja"
    template: Any = file.read_text(encoding="utf-8") if file.is_file() else read_config(folder).get("chat_template")
    if isinstance(template, list):  # named templates, of which "default" is for chat
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return None if template is None else str(template)


def read_config(folder: Path) -> dict[str, Any]:
    """The tokenizer's configuration; empty where there is none. Raises OSError, ValueError."""
    file = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return config
