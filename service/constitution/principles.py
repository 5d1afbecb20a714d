"""A constitution file: TOML, checked whole, and named by its content.

    format_version = 1
    title = "Ours"

    [[principles]]
    name = "no-harm"
    rule = "Do not help anyone to do harm."
    critique_request = "What is wrong with the reply?"
    revision_request = "Rewrite the reply."
    comparison_question = "Which is better, A or B?"
    tags = ["harmless"]
    weight = 2.0

Constitutions that were in effect are kept in the store, numbered (`c1`, `c2`, …); `c0` is the one that comes with Hone.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from random import Random
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from service.constitution.no_fault import has_a_word, says_one_of
from service.errors import BadInput
from service.validation_messages import in_words
from service.wire.fields import Storable, not_blank

FORMAT_VERSION = 1
BUILT_IN = Path(__file__).with_name("built_in.toml")
LARGER = Path(__file__).with_name("larger.toml")
"""One to begin with for larger models, which is in effect nowhere before it is imported."""
USER_CRITIQUE = "user-critique"
"""What a person's critique is called where it takes a principle's place."""
MOST_PRINCIPLES = 200
LARGEST_FILE = 256 * 1024
"""Bytes."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_STORED = "stored"
T = TypeVar("T")

Words = Annotated[str, Field(min_length=1, max_length=4_000), Storable, AfterValidator(not_blank)]


def _of_what_is_new(check: Callable[[T], T]) -> AfterValidator:
    """A check that a constitution in the store is spared: it may have been put in effect before there was the check."""

    def checked(value: T, info: ValidationInfo) -> T:
        return value if info.context == _STORED else check(value)

    return AfterValidator(checked)


def _says_something(phrase: str) -> str:
    if not has_a_word(phrase):
        raise ValueError("has no word in it")
    return phrase


Phrase = Annotated[Words, _of_what_is_new(_says_something)]


def _is_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("must be 1 to 64 small letters, digits and dashes, and begin with no dash")
    return text


def _is_a_principles(name: str) -> str:
    if name == USER_CRITIQUE:
        raise ValueError(f"must be another than {name}: so is called what comes of people's own critiques")
    return name


def _differ(names: tuple[str, ...]) -> tuple[str, ...]:
    for place, name in enumerate(names):
        if name.casefold() in (before.casefold() for before in names[:place]):
            raise ValueError(f"has {name!r} twice")
    return names


def _some(phrases: tuple[str, ...]) -> tuple[str, ...]:
    if not phrases:
        raise ValueError("must not be empty")
    return phrases


Name = Annotated[str, AfterValidator(_is_name)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Revision(_Part):
    """An example of a critique and what came of it, shown before the model is asked for its own."""

    question: Words
    reply: Words
    critique: Words
    revision: Words


class Comparison(_Part):
    """An example of a verdict."""

    question: Words
    a: Words
    b: Words
    better: Literal["A", "B"]


class Principle(_Part):
    """One rule, with how to ask for a critique and a revision under it, and for a comparison by it."""

    name: Annotated[Name, _of_what_is_new(_is_a_principles)]
    rule: Words = Field(description="What a reply should do or leave.")
    critique_request: Words
    revision_request: Words
    comparison_question: Words
    tags: Annotated[tuple[Name, ...], _of_what_is_new(_differ)] = Field(
        (), description="What it is about, such as harmless, honest, helpful."
    )
    weight: float = Field(
        1.0, strict=True, gt=0, le=1000, description="How often it is drawn, and how much its verdicts count."
    )
    revisions: tuple[Revision, ...] = Field((), max_length=8, description="Examples for critique and revision.")
    comparisons: tuple[Comparison, ...] = Field((), max_length=8, description="Examples for comparisons.")


class Constitution(_Part):
    """All principles of one version, and what they have in common."""

    format_version: Literal[1] = 1
    title: Words
    preamble: str = Field("", max_length=8_000, description="A system message before every request; empty: none.")
    nothing_wrong: Annotated[tuple[Phrase, ...], _of_what_is_new(_some), _of_what_is_new(_differ)] = Field(
        ("nothing is wrong",),
        description="A critique of which each sentence is one of these finds no fault: nothing is revised.",
    )
    reasoning_request: Words = Field("Think first.", description="Asks for thoughts before a verdict.")
    verdict_prefix: Words = Field("Better:", description="What a verdict's letter stands behind.")
    principles: tuple[Principle, ...] = Field(min_length=1, max_length=MOST_PRINCIPLES)

    @property
    def sha256(self) -> str:
        """Of its content, however the file is laid out."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def principle(self, name: str) -> Principle:
        """Raises BadInput."""
        for one in self.principles:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.principles)
        raise BadInput(f"The constitution has no principle {name!r}.", f"It has {known}.", param="principle")

    def tagged(self, tags: Collection[str]) -> tuple[Principle, ...]:
        """The principles with one of these tags; all where no tags are named. Raises BadInput where none has one."""
        found = tuple(one for one in self.principles if not tags or not set(tags).isdisjoint(one.tags))
        if not found:
            known = ", ".join(sorted({tag for one in self.principles for tag in one.tags}))
            hint = f"Set constitution.tags to some of {known}" if known else "Set constitution.tags to none"
            raise BadInput(
                f"No principle has one of the tags {', '.join(tags)}.",
                f"{hint}, or import a constitution that has them.",
            )
        return found

    def finds_nothing(self, critique: str) -> bool:
        """Whether a critique says that nothing is wrong, and nothing else; False in doubt."""
        return says_one_of(self.nothing_wrong, critique)


def draw(principles: Collection[Principle], count: int, rng: Random) -> list[Principle]:
    """Draw different principles, the weightier the likelier; all, in random order, where there are no more."""
    left, drawn = list(principles), list[Principle]()
    while left and len(drawn) < count:
        (one,) = rng.choices(left, weights=[each.weight for each in left])
        left.remove(one)
        drawn.append(one)
    return drawn


def draw_for_rounds(principles: Collection[Principle], rounds: int, rng: Random) -> list[Principle]:
    """One principle for each round: drawn anew when all have had their round."""
    drawn = list[Principle]()
    while len(drawn) < rounds:
        drawn += draw(principles, rounds - len(drawn), rng)
    return drawn


def parse(text: str, where: str = "The constitution", is_stored: bool = False) -> Constitution:
    """Check a constitution file's text. Raises BadInput, naming what is wrong and where.

    `where`: how to call it in errors; `is_stored`: it was in effect, and is read as it was taken then.
    """
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_FILE:
        raise BadInput(f"{where} is larger than {LARGEST_FILE // 1024} KiB.", param="constitution")
    try:
        content = tomllib.loads(text.removeprefix("\ufeff"))  # some editors begin a file with it
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{where} is no TOML: {error}.", param="constitution") from error
    except RecursionError as error:
        raise BadInput(f"{where} is nested too deep.", param="constitution") from error
    except ValueError as error:  # which TOMLDecodeError is, too; by itself of a number with thousands of digits
        raise BadInput(f"{where} has a number that can't be read.", param="constitution") from error
    version = content.get("format_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT_VERSION:
        raise BadInput(
            f"{where} has format {version}; this Hone knows {FORMAT_VERSION}.", "Upgrade Hone.", param="constitution"
        )
    if version is None or isinstance(version, bool):
        says = "has no format_version" if version is None else "names no format with its format_version"
        raise BadInput(f"{where} {says}.", f"Write format_version = {FORMAT_VERSION}.", param="constitution")
    try:
        constitution = Constitution.model_validate(content, context=_STORED if is_stored else None)
    except ValidationError as error:
        found = error.errors()
        if len(found) > 1:  # a list of which nothing is right counts as empty, too
            found = [one for one in found if one["type"] != "too_short" or not one["input"]]
        problems = "; ".join(f"{_place(one['loc'], content)}: {in_words(one)}" for one in found)
        raise BadInput(f"{where} is wrong: {problems}.", "See docs/constitution.md.", param="constitution") from error
    names = [one.name for one in constitution.principles]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"{where} has two principles named {twice[0]}.", param="constitution")
    return constitution


def _place(location: tuple[int | str, ...], content: dict[str, object]) -> str:
    """In a person's words: `principles.no-harm.rule`."""
    parts = list[str]()
    here: object = content
    for step in location:
        try:
            here = here[step]  # type: ignore[index]  # whatever the file holds there
        except (KeyError, IndexError, TypeError):
            here = None
        named = isinstance(here, dict) and isinstance(here.get("name"), str) and isinstance(step, int)
        parts.append(here["name"] if named else str(step))  # type: ignore[index]  # it is a dictionary
    return ".".join(parts)


def read_text(path: Path) -> str:
    """A file's text, and not much more than a constitution may have. Raises BadInput."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise BadInput(f"Can't read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"Can't read {path}: it isn't text in UTF-8.") from error


def read(path: Path) -> Constitution:
    """Read a file. Raises BadInput."""
    return parse(read_text(path), str(path))


@cache
def built_in() -> Constitution:
    """The constitution that comes with Hone."""
    return read(BUILT_IN)
