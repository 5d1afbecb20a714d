"""Learn from texts, by any method, without a service: one call from a list of examples to an adapter.

    learn("dpo", "service/sprout", [{"prompt": "Hello!", "chosen": "Hi.", "rejected": "What?"}], "my-adapter")

It is what a run does when it trains (`learner.backbone_trainer`), on examples that somebody has already, with no store,
no held-out part, no gates and no publishing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from transformers import AutoTokenizer

from learner.backbone_trainer import BackboneTrainer
from learner.base_tokenizer import reply_tokenizer
from learner.batch import Demonstration, Label, Pair, Progress, Snapshot, TokenIds
from learner.constitution.asking import question, render
from learner.curate import Curated
from learner.trainer import BY_ADVANTAGES, stages_of
from service.constitution.versions import built_in_version
from service.errors import BadInput
from service.settings import Method, load_settings

PARTS = ({"reply"}, {"reply", "good"}, {"chosen", "rejected"}, set[str]())
"""What an example has beside its prompt: a demonstration, a judged reply, a pair, or nothing."""


class TextExample(BaseModel):
    """A prompt, in words or as the messages of a conversation, and what a reply to it should be, or how good it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str | tuple[dict[str, str], ...] = Field(min_length=1)
    reply: str | None = None
    good: bool | None = None
    chosen: str | None = None
    rejected: str | None = None
    strength: float = Field(1.0, gt=0)
    """Of a pair's preference; 1 is an ordinary one."""
    tie: bool = False

    @model_validator(mode="after")
    def _is_of_a_kind(self) -> TextExample:
        given = {name for name in ("reply", "good", "chosen", "rejected") if getattr(self, name) is not None}
        if given not in PARTS:
            raise ValueError("beside prompt it has reply, or reply and good, or chosen and rejected, or nothing")
        return self


def learn(
    method: str,
    model: str | Path,
    data: Sequence[Mapping[str, Any]] | str | Path,
    out: str | Path,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    parent: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Train `model` (a folder or a hub name) by the method of this name, and write the adapter to `out`, a new folder.

    `data`: examples, each with the fields of `TextExample`, or a file of them as JSON lines. `settings`: by section, as
    in hone.toml. `parent`: the adapter to start from. Same seed, same adapter. Raises BadInput for no method, examples
    that are none, data that the method learns nothing from and where there is an `out` already, SettingsError, OSError
    for files that can't be read or written, and what `BackboneTrainer` does.
    """
    if method not in get_args(Method):
        raise BadInput(f"There is no method {method!r}.", f"Choose one of {', '.join(get_args(Method))}.")
    if Path(out).exists():
        raise BadInput(f"There is something at {out} already.", "Name a folder that isn't there yet.")
    rows = _read(Path(data)) if isinstance(data, str | Path) else data
    examples = [_example(number, row) for number, row in enumerate(rows, 1)]
    tell = progress or (lambda *_: None)
    sections = {name: dict(section) for name, section in (settings or {}).items()}
    section, others = BY_ADVANTAGES.get(method, ("ppo", {}))
    sections[section] = sections.get(section, {}) | others
    sections["engine"] = sections.get("engine", {}) | {"model": str(model)}
    with tempfile.TemporaryDirectory() as home:
        chosen = load_settings(Path(home), sections, environment={})
        lessons = Curated(_snapshot(examples, chosen.model_path), Snapshot(), {}, built_in_version())
        stages = stages_of(method, lessons.train, chosen.learner.preferences)
        if not stages:
            raise BadInput(f"There is nothing in the data that {method} learns from.", "See docs/learning.md.")
        trainer = BackboneTrainer(chosen, parent)
        lessons = trainer.write(method, lessons, Path(home), tell)
        trainer.train(stages, lessons, Path(home) / "checkpoint", tell)
        trainer.save(Path(out), lessons)


def _read(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise BadInput(f"{path}, line {number}, is no JSON: {error}.") from error
    return rows


def _example(number: int, row: Any) -> TextExample:
    try:
        return TextExample.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field, why = ".".join(map(str, first["loc"])), str(first["msg"]).removeprefix("Value error, ")
        raise BadInput(f"Example {number}: {field + ': ' if field else ''}{why}.") from error


def _snapshot(examples: Iterable[TextExample], model: str) -> Snapshot:
    """As token ids, by the model's own tokenizer; prompts in its chat template, where it has one."""
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
    return Snapshot(tuple(taught), tuple(pairs), tuple(prompts), labels=tuple(labels))
