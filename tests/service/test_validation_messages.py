"""No finding of pydantic's that a model of ours can lead to is told in pydantic's own words."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from service.validation_messages import LONGEST_SHOWN, in_words


class Inner(BaseModel, extra="forbid"):
    count: int = 0


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, "x", 'must be a whole number, not "x"'),
        (int, None, "must be a whole number, not null"),
        (int, [1], "must be a whole number"),
        (int, 1.5, "must be a whole number, not 1.5"),
        (int, "1" * 5000, "is too large"),
        (float, "hot", 'must be a number, not "hot"'),
        (Annotated[float, Field(allow_inf_nan=False)], float("inf"), "must be a finite number, not Infinity"),
        (bool, "perhaps", 'must be true or false, not "perhaps"'),
        (str, 5, "must be text, not 5"),
        (tuple[int, ...], 5, "must be a list, not 5"),
        (list[int], {}, "must be a list"),
        (dict[str, int], "x", 'must be an object, not "x"'),
        (Inner, 5, "must be an object, not 5"),
        (Inner, {"other": 1}, "is not known here; leave it out"),
        (Literal["a", "b"], "c", "must be 'a' or 'b', not \"c\""),
        (Annotated[int, Field(gt=3)], 3, "must be above 3, not 3"),
        (Annotated[int, Field(ge=3)], 2, "must be at least 3, not 2"),
        (Annotated[float, Field(lt=1)], 1, "must be below 1.0, not 1"),
        (Annotated[int, Field(le=3)], 4, "must be at most 3, not 4"),
        (Annotated[str, Field(min_length=1)], "", "must not be empty"),
        (Annotated[str, Field(min_length=2)], "", "must have at least 2 characters"),
        (Annotated[str, Field(max_length=2)], "xxx", "must have at most 2 characters"),
        (Annotated[list[int], Field(min_length=1)], [], "must not be empty"),
        (Annotated[list[int], Field(min_length=2)], [1], "must have at least 2 items"),
        (Annotated[tuple[int, ...], Field(max_length=1)], [1, 2], "must have at most 1 items"),
        (Literal["a", "b"], "c" * LONGEST_SHOWN, "must be 'a' or 'b'"),
    ],
)
def test_a_finding_is_told_in_plain_words(kind: Any, value: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    assert in_words(caught.value.errors()[0]) == words
