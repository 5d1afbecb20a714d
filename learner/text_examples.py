"""Examples to learn from as texts: what one is, how a file of them is read, and what they become for a model.

Whatever is wrong with one is said at once, and which it is: of a list by its number, of a file by its line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, field_validator, model_validator
from transformers import AutoConfig, AutoTokenizer

from learner.base_tokenizer import reply_tokenizer
from learner.batch import Demonstration, Label, Pair, Snapshot, TokenIds
from learner.constitution.asking import question, render
from learner.methods.optimizer import within_length
from service.errors import BadInput

PARTS = ({"reply"}, {"reply", "good"}, {"chosen", "rejected"}, set[str]())
"""What an example has beside its prompt: a demonstration, a judged reply, a pair, or nothing."""
OF_A_PAIR = {"strength", "tie"}


class TextExample(BaseModel):
    """A prompt, in words or as the messages of a conversation, and what a reply to it should be, or how good it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str | tuple[dict[str, str], ...] = Field(min_length=1)
    reply: str | None = None
    good: StrictBool | None = None
    chosen: str | None = None
    rejected: str | None = None
    strength: float = Field(1.0, gt=0, allow_inf_nan=False, strict=True)
    """Of a pair's preference; 1 is an ordinary one."""
    tie: StrictBool = False

    @field_validator("prompt", mode="before")
    @classmethod
    def _is_text_or_messages(cls, prompt: Any) -> Any:
        if isinstance(prompt, str):
            return prompt
        if not isinstance(prompt, list | tuple):
            raise ValueError("it is text, or a list of messages")
        for number, message in enumerate(prompt, 1):
            given = message if isinstance(message, Mapping) else {}
            if not all(isinstance(given.get(name), str) for name in ("role", "content")):
                raise ValueError(f"message {number} needs a role and a content, both text")
        return prompt

    @model_validator(mode="after")
    def _is_of_a_kind(self) -> TextExample:
        given = {name for name in ("reply", "good", "chosen", "rejected") if getattr(self, name) is not None}
        if given not in PARTS:
            raise ValueError("beside prompt it has reply, or reply and good, or chosen and rejected, or nothing")
        if (alone := OF_A_PAIR & self.model_fields_set) and self.chosen is None:
            raise ValueError(f"{' and '.join(sorted(alone))} belongs to a pair, which has chosen and rejected")
        wanted = self.chosen if self.chosen is not None else self.reply if self.good is not False else None
        if wanted is not None and not wanted.strip() and not self.tie:
            raise ValueError("the reply is empty, and the model would learn to say nothing; leave the example out")
        return self


def read_examples(data: Sequence[Mapping[str, Any]] | str | Path) -> list[TextExample]:
    """From a list, or from a file of JSON lines. Raises BadInput, which says which of them is wrong and why."""
    if isinstance(data, str | Path):
        return [_example(place, row) for place, row in _lines(Path(data))]
    return [_example(f"Example {number}", row) for number, row in enumerate(data, 1)]


def _lines(path: Path) -> list[tuple[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise BadInput(f"There is no file {path}.", "Name one with an example in JSON on each line.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} can't be read: {error}.", "Name a text file (UTF-8) of JSON lines.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        try:
            rows += [(place, json.loads(line))] if line.strip() else []
        except json.JSONDecodeError as error:
            raise BadInput(f"{place}, is no JSON: {error}.") from error
    return rows


def _example(place: str, row: Any) -> TextExample:
    try:
        return TextExample.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field, why = ".".join(map(str, first["loc"])), str(first["msg"]).removeprefix("Value error, ")
        raise BadInput(f"{place}: {field + ': ' if field else ''}{why}.", "See docs/learning.md.") from error


def longest_example(model: str) -> int | None:
    """Tokens of prompt and reply together that the model was made for; None: its configuration doesn't say."""
    room = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
    return room if isinstance(room, int) else None


def as_snapshot(examples: Iterable[TextExample], model: str, room: int | None = None) -> tuple[Snapshot, int]:
    """As token ids, by the model's own tokenizer; prompts in its chat template, where it has one. And how many examples
    were left out, since they have more tokens than `room`; None: any number will do."""
    reply, tokenizer = reply_tokenizer(model), AutoTokenizer.from_pretrained(model)

    def prompt_of(one: TextExample) -> TokenIds:
        if not isinstance(one.prompt, str):
            return render(tokenizer, one.prompt)
        return question(tokenizer, one.prompt) if tokenizer.chat_template else tuple(tokenizer(one.prompt).input_ids)

    taught, pairs, labels, prompts = list[Demonstration](), list[Pair](), list[Label](), dict[TokenIds, None]()
    for one in examples:
        prompt = prompt_of(one)
        prompts[prompt] = None
        if one.chosen is not None and one.rejected is not None:
            pairs.append(Pair(prompt, reply(one.chosen), reply(one.rejected), margin=one.strength, tie=one.tie))
        elif one.reply is not None and one.good is not None:
            labels.append(Label(prompt, reply(one.reply), one.good))
        elif one.reply is not None:
            taught.append(Demonstration(prompt, reply(one.reply)))
    most = room or sys.maxsize
    short, some_pairs, called = within_length(taught, most), within_length(pairs, most), within_length(labels, most)
    found = Snapshot(tuple(short[0]), tuple(some_pairs[0]), tuple(prompts), labels=tuple(called[0]))
    return found, short[1] + some_pairs[1] + called[1]
