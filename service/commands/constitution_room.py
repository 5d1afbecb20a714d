"""What `hone constitution check` and `import` say of the room that a file leaves in the model's context.

A running service knows the engine's context and has it count. Without one, the tokenizer in the model's folder counts,
where there is such a folder and what reads it is installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import BadInput, EngineUnavailable, HoneError, NotFound
from service.model_shape import read_config

if TYPE_CHECKING:
    from service.chat.constitutional import Rules
    from service.constitution.prompts import Message
    from service.settings import Settings

NOT_CHECKED = (
    "Whether it leaves room in the model's context was not checked: {why}. Check it once more while `hone up` runs."
)


def room(settings: Settings, rules: Rules) -> tuple[str, ...]:
    """What to warn of. Raises BadInput where there is no room at all, or a running service refuses the file."""
    from service.operator_client import ask_as_operator

    try:
        checked = ask_as_operator(settings, "POST", "/v1/constitution/check", {"text": rules.version.text})
        return tuple(checked.get("warnings", ()))
    except HoneError as error:
        if error.code == BadInput.code:
            raise
        if not isinstance(error, NotFound):  # another home's service, or one that is in trouble
            return (NOT_CHECKED.format(why=error.message.rstrip(".")),)
    return _by_the_models_folder(settings, rules)


def _by_the_models_folder(settings: Settings, rules: Rules) -> tuple[str, ...]:
    from service.constitution.room import crowded, warnings

    folder = Path(settings.model_path)
    try:
        count = _Count(folder)
        context = settings.engine.max_model_len or _positions(folder)
        found = asyncio.run(crowded(rules.version.constitution, rules.principles, context, count))
    except (ImportError, OSError, ValueError, HoneError):
        return (NOT_CHECKED.format(why="no service runs here, and the model's folder tells too little"),)
    return warnings(found)


def _positions(folder: Path) -> int:
    """The tokens that a model was made for. Raises ValueError."""
    positions = read_config(str(folder)).get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        raise ValueError("config.json says no max_position_embeddings")
    return positions


class _Count:
    """Tokens as the model's own tokenizer and chat template put them. Raises ImportError, OSError, ValueError."""

    def __init__(self, folder: Path) -> None:
        from service.embedded.tokenizer import load_tokenizer

        if not (folder / "tokenizer.json").is_file():
            raise EngineUnavailable(f"{folder} has no tokenizer.json.")
        self._tokenizer = load_tokenizer(folder)

    async def __call__(self, messages: Sequence[Message]) -> int:
        text = self._tokenizer.render(messages, add_generation_prompt=True, continue_final=False)
        return len(self._tokenizer.encode(text, special=False))
