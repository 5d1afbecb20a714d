"""Examples to learn from as texts: what one is, how a file of them is read, and what they become for a model.

Whatever is wrong with one is said at once, and which it is: of a list by its number, of a file by its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)
from transformers import AutoConfig

from learner.base_tokenizer import load_tokenizer, reply_tokenizer
from learner.batch import Demonstration, Label, Pair, Scored, Snapshot, TokenIds
from learner.consensus import agree
from learner.constitution.asking import question, render
from learner.snapshot import JudgedReply, Judgement
from learner.votes import MIDDLE_SCORE, count_votes
from service.errors import BadInput, TrainingFailed
from service.wire import Ranking, Score
from service.wire.feedback import ReplyRef

PARTS = (
    {"reply"}, {"reply", "good"}, {"reply", "score"}, {"chosen", "rejected"}, {"order"}, {"order", "failed"}, set[str]()
)  # fmt: skip
"""What an example has beside its prompt: a demonstration, a judged reply, a scored one, a pair, a ranking, or
nothing."""
JUDGEMENTS = frozenset[str]().union(*PARTS)
OF_A_PAIR = {"strength", "tie"}
_SURROGATE = re.compile(r"[\ud800-\udfff]")


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
    score: int | None = Field(None, ge=1, le=10, strict=True)
    order: tuple[tuple[str, ...], ...] | None = None
    """Replies, best first; those in one inner list are tied."""
    failed: tuple[str, ...] | None = None
    """Replies of a ranking that are of no use, worse than all in its order."""
    _place: str = PrivateAttr("")

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

    @field_validator("order", mode="before")
    @classmethod
    def _is_of_groups(cls, order: Any) -> Any:
        """A reply that is tied with none may stand there by itself."""
        return [[one] if isinstance(one, str) else one for one in order] if isinstance(order, list | tuple) else order

    @field_validator("prompt", "reply", "chosen", "rejected", "order", "failed")
    @classmethod
    def _is_unicode(cls, given: Any) -> Any:
        """JSON may escape half of a surrogate pair, which is no character and which no tokenizer takes."""
        if found := _SURROGATE.search(json.dumps(given, ensure_ascii=False)):
            raise ValueError(f"\\u{ord(found[0]):x} is half a character (a lone surrogate); write all of it, or none")
        return given

    @model_validator(mode="after")
    def _is_of_a_kind(self) -> TextExample:
        given = {name for name in JUDGEMENTS if getattr(self, name) is not None}
        if given not in PARTS:
            raise ValueError(
                "beside prompt it has reply, or reply and good, or chosen and rejected, or reply and score, or order "
                "(and failed), or nothing"
            )
        if (alone := OF_A_PAIR & self.model_fields_set) and self.chosen is None:
            raise ValueError(f"{' and '.join(sorted(alone))} belongs to a pair, which has chosen and rejected")
        if self.chosen is not None and self.chosen == self.rejected:
            raise ValueError("a pair is of two replies, and chosen and rejected are the same")
        self.ranking()
        if any(not wanted.strip() for wanted in self._wanted()) and not self.tie:
            raise ValueError("the reply is empty, and the model would learn to say nothing; leave the example out")
        return self

    def _wanted(self) -> tuple[str, ...]:
        """The replies that it calls good, or best."""
        if self.order:
            return self.order[0]
        is_good = self.good is not False and (self.score is None or self.score > MIDDLE_SCORE)
        wanted = self.chosen if self.chosen is not None else self.reply if is_good else None
        return () if wanted is None else (wanted,)

    @property
    def replies(self) -> tuple[str, ...]:
        """All of them; those of a ranking from its best on."""
        ranked = [*chain.from_iterable(self.order or ()), *(self.failed or ())]
        alone = (self.reply, self.chosen, self.rejected)
        return (*(one for one in alone if one is not None), *ranked)

    def scored(self) -> Score | None:
        """As feedback."""
        return None if self.score is None else Score(exchange_id="text", score=self.score)

    def ranking(self) -> Ranking | None:
        """As feedback, of replies by their places in `replies`. Raises ValueError where it is none."""
        if self.order is None:
            return None

        def refs(texts: Iterable[str]) -> tuple[ReplyRef, ...]:
            return tuple(ReplyRef(exchange_id="text", index=self.replies.index(text)) for text in texts)

        try:
            return Ranking(order=tuple(map(refs, self.order)), failed=refs(self.failed or ()))
        except ValidationError as error:
            raise ValueError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error


def read_examples(data: Sequence[Mapping[str, Any]] | str | Path) -> list[TextExample]:
    """From a list, or from a file of JSON lines. Raises BadInput, which says which of them is wrong and why."""
    if isinstance(data, str | Path):
        return [_example(place, row) for place, row in _lines(Path(data))]
    return [_example(f"Example {number}", row) for number, row in enumerate(data, 1)]


def _lines(path: Path) -> list[tuple[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
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
        example = TextExample.model_validate(row)
        example._place = place
        return example
    except ValidationError as error:
        first = error.errors()[0]
        field, why = ".".join(map(str, first["loc"])), str(first["msg"]).removeprefix("Value error, ")
        known = f"The fields are {', '.join(TextExample.model_fields)}. " if first["type"] == "extra_forbidden" else ""
        raise BadInput(f"{place}: {field + ': ' if field else ''}{why}.", f"{known}See docs/learning.md.") from error


def longest_example(model: str) -> int | None:
    """Tokens of prompt and reply together that the model was made for; None: its configuration doesn't say."""
    room = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
    return room if isinstance(room, int) else None


def prompt_ids(tokenizer: Any, prompt: str | tuple[dict[str, str], ...]) -> TokenIds:
    """In the model's chat template, up to where the reply begins; words alone as they are, where it has none. Raises
    TrainingFailed where it takes no such conversation."""
    if not isinstance(prompt, str):
        return render(tokenizer, prompt)
    return question(tokenizer, prompt) if tokenizer.chat_template else tuple(tokenizer(prompt).input_ids)


def as_snapshot(examples: Iterable[TextExample], model: str, room: int | None = None) -> tuple[Snapshot, int]:
    """As token ids, by the model's own tokenizer; prompts in its chat template, where it has one. And how many examples
    were left out, since they have more tokens than `room`; None: any number will do. Raises BadInput where the template
    takes no such conversation, and says which."""
    reply, tokenizer = reply_tokenizer(model), load_tokenizer(model)
    taught, pairs, labels, prompts = list[Demonstration](), list[Pair](), list[Label](), dict[TokenIds, None]()
    judged, too_long = list[Judgement](), 0
    for number, one in enumerate(examples, 1):
        try:
            prompt = prompt_ids(tokenizer, one.prompt)
        except TrainingFailed as error:
            raise BadInput(f"{one._place or f'Example {number}'}: prompt: {error}", "See docs/learning.md.") from error
        replies, name = [reply(text) for text in one.replies], str(number)
        prompts[prompt] = None
        if replies and room is not None and len(prompt) + max(map(len, replies)) > room:
            too_long += 1
        elif one.chosen is not None:
            pairs.append(Pair(prompt, replies[0], replies[1], margin=one.strength, tie=one.tie, feedback_ids=(name,)))
        elif one.good is not None:
            labels.append(Label(prompt, replies[0], one.good, feedback_ids=(name,)))
        elif (said := one.ranking() or one.scored()) is not None:
            judged.append(_judgement(number, prompt, replies, said))
        elif replies:
            taught.append(Demonstration(prompt, replies[0], feedback_id=name))
    votes = count_votes(judged)
    pairs += [pair for vote in votes.pairs if (pair := agree([vote])) is not None]  # nobody contradicts
    scored = [Scored(one.prompt, one.reply, one.points, feedback_ids=(one.feedback_id,)) for one in votes.rated]
    found = Snapshot(tuple(taught), tuple(pairs), tuple(prompts), labels=tuple(labels), scored=tuple(scored))
    return found, too_long


def _judgement(number: int, prompt: TokenIds, replies: Sequence[TokenIds], said: Ranking | Score) -> Judgement:
    """As a person's feedback, all of one person: scores are above or below what is usual with all of them."""
    about = [JudgedReply("text", place, "", "", "", token_ids, True) for place, token_ids in enumerate(replies)]
    return Judgement(str(number), number, "", "", prompt, True, said, tuple(about))
