"""The prompts of a constitutional run: some that ask for harm, harmless ones that look like them, and everyday ones.

Those that ask for harm are what people flagged, then ours (a list, and requests from the grammar that the built-in
model was trained with), then new ones that the model writes itself: a known one is cut short and the model goes on with
the user's turn, as `learner.methods.retention` has it ask questions like those that were corrected. A prompt is trained
on or measured on, by a hash of its text, and never both.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

from learner.backbone import Backbone
from learner.batch import Messages, Tell, TokenIds, untold
from learner.constitution.asking import question
from learner.methods.self_asked import frame, neighbours
from learner.pretrain.dialogue import is_held_out
from learner.pretrain.questions import draw_prompts
from learner.pretrain.topics import deeds

OURS = Path(__file__).with_name("red_team.toml")
HELD_OUT_SHARE = 0.25
"""Of the listed prompts. Of the grammar's those are held out that the built-in model never saw."""
DRAWS = 4_000
"""Of the grammar's requests, in which nearly all of them come up."""

Source = Literal["flagged", "ours", "written", "people", "everyday", "look-alike"]


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a question, and as tokens up to where the reply begins."""

    conversation: Messages
    token_ids: TokenIds
    source: Source

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Prompt:
        """From JSON's values."""
        conversation = tuple((role, text) for role, text in record["conversation"])
        return cls(conversation, tuple(record["token_ids"]), record["source"])

    @property
    def question(self) -> str:
        return self.conversation[-1][1]


@cache
def listed(kind: Literal["harmful", "harmless", "harmless_deeds", "forms"]) -> tuple[str, ...]:
    """The prompts of our file, and what others are made of."""
    return tuple(tomllib.loads(OURS.read_text(encoding="utf-8"))[kind])


@cache
def grammatical() -> tuple[str, ...]:
    """Requests that ask for harm in the built-in model's small world, each once, in one order for ever."""
    rng = Random(20_261_128)
    return tuple(dict.fromkeys(deeds.unsafe(rng).text for _ in range(DRAWS)))


def is_measured_on(text: str) -> bool:
    """Whether a prompt of ours only measures."""
    if text in grammatical():
        return is_held_out(text)
    digest = hashlib.sha256(f"hone red team {text.strip().lower()}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < HELD_OUT_SHARE


@cache
def measured_on() -> frozenset[str]:
    """Those of ours that ask for harm and only measure, in small letters."""
    ours = (*grammatical(), *listed("harmful"))
    return frozenset(text.strip().lower() for text in ours if is_measured_on(text))


def harmful(count: int, seed: int, *, held_out: bool) -> list[str]:
    """At most so many of ours, half of them from either source as far as it goes, in an order fixed by `seed`."""
    rng, sources = Random(seed), list[list[str]]()
    for texts in (listed("harmful"), grammatical()):
        wanted = [text for text in texts if is_measured_on(text) == held_out]
        sources.append(rng.sample(wanted, len(wanted)))
    from_list = sources[0][: count // 2]
    found = from_list + sources[1][: count - len(from_list)]
    return rng.sample(found, len(found))


def look_alikes(count: int, seed: int, *, held_out: bool) -> list[str]:
    """At most so many harmless requests that look as if they asked for harm, in an order fixed by `seed`."""
    made = [form.format(d=deed) for deed in listed("harmless_deeds") for form in listed("forms")]
    listed_ones = [text for text in listed("harmless") if is_measured_on(text) == held_out]
    rng, wanted = Random(seed), [text for text in made if is_measured_on(text) == held_out]
    found = listed_ones[: count // 2]
    found += rng.sample(wanted, min(len(wanted), count - len(found)))
    return rng.sample(found, len(found))


def everyday(count: int, seed: int, *, held_out: bool) -> list[str]:
    """Harmless questions on all topics of the grammar, in an order fixed by `seed`."""
    drawn = draw_prompts(2 * count, seed, held_out=held_out)
    return [one.text for one in drawn if is_held_out(one.text) == held_out and not one.unsafe][:count]


def as_prompts(backbone: Backbone, texts: Sequence[str], source: Source) -> list[Prompt]:
    """Each as the first message of a conversation. Raises TrainingFailed for a model without a chat template."""
    return [Prompt((("user", text),), question(backbone.tokenizer, text), source) for text in texts]


def written(backbone: Backbone, like: Sequence[Prompt], count: int, seed: int, tell: Tell = untold) -> list[Prompt]:
    """At most so many new prompts that the base writes, each beginning like one of these and none a known one."""
    opening, closing = frame(backbone)
    known = {prompt.question.strip().lower() for prompt in like}
    known |= measured_on()
    asked = [one.token_ids for one in like]
    questions = neighbours(backbone, asked, [], Random(seed), seed, tell=tell) if count else []
    found = dict[str, Prompt]()
    for prompt in questions:
        text = backbone.decode([prompt[len(opening) : -len(closing)]])[0].strip()
        if text and text.lower() not in known and text.lower() not in found and len(found) < count:
            found[text.lower()] = as_prompts(backbone, [text], "written")[0]
    return list(found.values())
