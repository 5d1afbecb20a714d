"""Which constitutions leave the model's context too little room, and what is said of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from service.constitution import Constitution, built_in, parse
from service.constitution.prompts import Message
from service.constitution.room import LEAST, Crowded, crowded, own_words, warnings
from service.errors import BadInput, EngineUnavailable
from tests.service.constitutions import OURS, with_preamble

CONTEXT = 1024


async def words(messages: Sequence[Message]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def found(constitution: Constitution, context: int = CONTEXT) -> list[Crowded]:
    return asyncio.run(crowded(constitution, constitution.principles, context, words))


def test_what_is_surely_short_is_not_even_counted() -> None:
    async def never(messages: Sequence[Message]) -> int:
        raise AssertionError("it was counted")

    assert asyncio.run(crowded(built_in(), built_in().principles, CONTEXT, never)) == []
    assert warnings([]) == ()


def test_where_one_can_not_be_counted_the_others_are_given_up() -> None:
    counted: list[str] = []
    given_up: list[str] = []

    async def count(messages: Sequence[Message]) -> int:
        counted.append(messages[0]["content"])
        if len(counted) == 3:
            raise EngineUnavailable("It is away.")
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            given_up.append(messages[0]["content"])
            raise
        return 0

    async def story() -> None:
        with pytest.raises(EngineUnavailable, match="away"):
            await crowded(built_in(), built_in().principles, 64, count)
        assert len(given_up) == len(counted) - 1 > 0

    asyncio.run(story())


@pytest.mark.parametrize(
    ("context", "most"),
    [(1024, 1024 - 256), (4000, 3000), (300, 44)],  # a quarter of it, and 256 tokens at least
)
def test_less_than_a_quarter_or_256_tokens_is_little(context: int, most: int) -> None:
    bare = asyncio.run(words(own_words(parse(OURS), parse(OURS).principles[0])))
    assert found(with_preamble(most - bare), context) == []
    (one,) = found(with_preamble(most - bare + 1), context)
    assert (one.principle, one.tokens, one.left) == ("no-harm", most + 1, context - most - 1)
    (said,) = warnings([one])
    assert f"Principle no-harm: its own words, with the preamble, are {most + 1} tokens of the {context}" in said
    assert f"{context - most - 1} are left" in said and "Shorten the preamble" in said


@pytest.mark.parametrize(("tokens", "about"), [(CONTEXT - LEAST + 1, ""), (CONTEXT, ""), (2100, "about ")])
def test_where_nothing_fits_it_is_refused(tokens: int, about: str) -> None:
    with pytest.raises(BadInput, match=f"Principle a: .* are {about}{tokens} tokens of the {CONTEXT} .*; likewise b"):
        warnings([Crowded("a", tokens, CONTEXT), Crowded("b", tokens, CONTEXT), Crowded("c", 800, CONTEXT)])


def test_of_many_the_longest_is_told_of_and_some_are_named() -> None:
    (said,) = warnings([Crowded(name, 800, CONTEXT) for name in "abcdef"])
    assert "Principle a: " in said and "; likewise b, c, d and 2 more." in said


def test_examples_count_for_the_request_that_shows_them() -> None:
    long = "a " * 900
    revision = f'\n[[principles.revisions]]\nquestion = "q"\nreply = "{long}"\ncritique = "c"\nrevision = "v"\n'
    comparison = f'\n[[principles.comparisons]]\nquestion = "q"\na = "{long}"\nb = "b"\nbetter = "B"\n'
    for example in (revision, comparison):
        assert [one.principle for one in found(parse(OURS + example))] == ["no-harm"]
