"""Asking about a conversation as far as the model's context holds it, and what to blame where it can't be asked at all.

Padding must keep no reply from being looked at, so the conversation gives way. Where even next to nothing of it is too
much, something else is too long: how much the answer may say, the constitution, or the reply.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Literal, TypeVar

from service.constitution.principles import Principle
from service.constitution.prompts import Message
from service.constitution.room import own_words
from service.constitution.versions import Version
from service.errors import ContextExceeded

T = TypeVar("T")

FEWEST_CHARACTERS = 200
"""Of a message whose middle is left out."""
SHORTEST = 16
"""Tokens. Where an answer of so many has room, and the one that was asked for has none, that asked for too many."""
OVERLONG_CONSTITUTION = (
    "Constitution {version} is too long for the model's context: preamble, examples, rule and request of its principle "
    "{principle} ({own} characters) leave no room for {judged} ({characters} characters), however little is shown of "
    "the conversation. Shorten them; `hone constitution check` says by how much."
)
OVERLONG_REPLY = (
    "{judged} ({characters} characters) is too long to be looked at: beside principle {principle} of {version} ({own} "
    "characters) it fills the model's context. Ask for a shorter reply (max_tokens)."
)
OVERLONG_ANSWER = (
    "{setting} ({most}) is too large for the model's context: beside principle {principle} of {version} and {judged} "
    "there is no room for a {stage} of so many tokens, however little is shown of the conversation. {what_to_do}"
)
ON_TRIAL = "(on trial)"
"""How a constitution is called that was never in effect."""
LIMITS = {
    "critique": ("constitution.critique_tokens", "Lower that setting, or serve a model with a longer context."),
    "revision": ("max_tokens", "Ask for a shorter reply, or leave max_tokens out."),
}
"""What says how long an answer may be, and what to do about it."""


async def as_fits(conversation: Sequence[Message], ask: Callable[[Sequence[Message]], Awaitable[T]]) -> T:
    """Ask about as much of the conversation as the model's context holds. Raises ContextExceeded where even its end is
    too much, and what `ask` does."""
    for seen in less_and_less(conversation):
        try:
            return await ask(seen)
        except ContextExceeded as error:
            refused = error
    raise refused


def less_and_less(conversation: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """All of it, then without its earlier turns, then with more and more of the middle of its last message left out."""
    yield conversation
    *before, question = conversation
    if before:
        yield [question]
    text = question["content"]
    while len(text) > FEWEST_CHARACTERS:
        text = f"{text[: len(text) // 4]} … {text[-(len(text) // 4) :]}"
        yield [{**question, "content": text}]


def no_room(version: Version, principle: Principle, reply: str, critique: str) -> str:
    """Why nothing fitted, with next to nothing of the conversation: the longer part of what was asked is to blame."""
    own = sum(len(message["content"]) for message in own_words(version.constitution, principle))
    characters = len(reply) + len(critique)
    told = OVERLONG_CONSTITUTION if own > characters else OVERLONG_REPLY
    text = told.format(
        version=version.name or ON_TRIAL,
        principle=principle.name,
        own=own,
        judged=_judged(critique),
        characters=characters,
    )
    return text[0].upper() + text[1:]


def no_room_for_answer(
    version: Version, principle: Principle, stage: Literal["critique", "revision"], most: int, critique: str
) -> str:
    """Why an answer of at most so many tokens had no room, where one of `SHORTEST` had."""
    setting, what_to_do = LIMITS[stage]
    return OVERLONG_ANSWER.format(
        setting=setting,
        most=most,
        principle=principle.name,
        version=version.name or ON_TRIAL,
        judged=_judged(critique),
        stage=stage,
        what_to_do=what_to_do,
    )


def _judged(critique: str) -> str:
    return "the reply with its critique" if critique else "the reply"
