"""What the fields of requests and responses may hold, and the model that all of these are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError, PydanticKnownError

MAX_NAME = 128
"""Characters in the name of a caller: it is part of indexes, whose entries databases bound."""


def storable(text: str) -> str:
    """Refuse what no database's text can hold: NUL, and halves of surrogate pairs."""
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "holds a NUL character, which can't be stored")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("not_unicode", "holds half a surrogate pair, which is no character") from None
    return text


def not_blank(text: str) -> str:
    """Refuse what says nothing: as a correction it would teach the model to say nothing."""
    if not text.strip():
        raise PydanticCustomError("blank", "is blank, so it says nothing")
    return text


def fit_for_a_header(text: str) -> str:
    """Refuse what an HTTP header can't carry."""
    if not (text.isascii() and text.isprintable()):
        raise PydanticCustomError("no_header", "is told back in a header, so it must be of printable ASCII characters")
    return text


Storable = AfterValidator(storable)
Id = Annotated[str, Field(min_length=1, max_length=128), Storable]
ConversationId = Annotated[Id, AfterValidator(fit_for_a_header)]
Text = Annotated[str, Field(min_length=1, max_length=100_000), Storable, AfterValidator(not_blank)]
Comment = Annotated[str, Field(max_length=10_000), Storable]
Reason = Annotated[str, Field(max_length=2_000), Storable]


def a_json_number(value: object) -> object:
    """Refuse a number in quotes, and true and false, which Python would count as 1 and 0."""
    if isinstance(value, str | bool):
        raise PydanticKnownError("int_type")
    return value


def a_json_fraction(value: object) -> object:
    """The same for a number that needn't be whole."""
    if isinstance(value, str | bool):
        raise PydanticKnownError("float_type")
    return value


Whole = Annotated[int, BeforeValidator(a_json_number)]
Fraction = Annotated[float, BeforeValidator(a_json_fraction)]
Truth = Annotated[bool, Strict()]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Wire):
    """A list with a cursor: pass `next` as `after` to go on."""

    data: tuple[Any, ...]
    next: str | None = None
