"""Questions that the model asks itself: those most like what was corrected, and any that come to it.

A corrected question is cut short and the base goes on with the user's turn, as Magpie (arXiv 2406.08464) lets a chat
model write prompts. A part of these questions is kept back: the evaluation asks them, to see whether a correction
spread all the same. None is a prompt that is held out: neither of those that a run measures on, nor a text that the
built-in model's training kept out.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from random import Random

from learner.backbone import Backbone
from learner.batch import Tell, TokenIds, untold
from learner.pretrain.dialogue import is_held_out
from learner.sampling import AFFORDABLE_TOKENS, sample

NEIGHBOURS = 192
"""Questions like the corrected ones, at most."""
MADE_UP_TRIES = 2
"""For each question that the model is to make up: some are the same, or are asked elsewhere."""
TRIES, MOST_TRIES = 1024, 512
"""To find neighbours: of all corrections together, and of one of them at most."""
SAME = 0.6
"""A question that says more than this share of what another says may ask for the same thing."""
KEPT_BACK = 4
"""One in so many is never trained on, but asked by the evaluation."""
MOST_CUT = 16
"""Tokens that are cut off the end of a question."""
QUESTION_TOKENS = 24


def neighbours(
    backbone: Backbone,
    corrected: Sequence[TokenIds],
    prompts: Sequence[TokenIds],
    rng: Random,
    seed: int,
    kept_back: bool = False,
    tell: Tell = untold,
    measured: Collection[TokenIds] = (),
) -> list[TokenIds]:
    """Questions that begin like the corrected ones and end otherwise; those to train on, or those `kept_back`.

    None for a model without a chat template, nor for a question far into a long conversation, which costs too much.
    `prompts`: what people ask, by which it is seen which words are special to a question. One that says most of what a
    corrected question said is left out: it may ask for the very thing that was corrected. So is one that says what a
    prompt in `measured` says. `tell` hears how many have been tried.
    """
    found = _like(backbone, corrected, prompts, rng, seed, measured, tell)[kept_back]
    return rng.sample(found, min(NEIGHBOURS, len(found)))


def made_up(
    backbone: Backbone,
    count: int,
    corrected: Sequence[TokenIds],
    prompts: Sequence[TokenIds],
    seed: int,
    measured: Collection[TokenIds] = (),
) -> list[TokenIds]:
    """At most so many questions that the base asks when it is given the user's turn and nothing to go on from.

    As with `neighbours` none for a model without a chat template, none that asks for what was corrected, and none that
    is kept back or measured on.
    """
    opening, closing = frame(backbone)
    if count <= 0 or not opening or not closing:
        return []
    asked = [prompt[: -len(closing)] for prompt in corrected if prompt[-len(closing) :] == closing]
    found = _go_on(backbone, [opening] * (MADE_UP_TRIES * count), asked, [*prompts, *corrected], seed + 8)
    return [one for one in _not_held_out(backbone, found, measured) if not _is_kept_back(one)][:count]


def neighbours_apart(
    backbone: Backbone, asked: Sequence[TokenIds], rng: Random, seed: int, measured: Collection[TokenIds] = ()
) -> tuple[list[TokenIds], list[TokenIds]]:
    """As `neighbours`, of all that people ask: those to train on, and those that are kept back."""
    found = _like(backbone, sorted(asked), asked, rng, seed, measured)
    train, kept_back = (rng.sample(part, min(NEIGHBOURS, len(part))) for part in (found[False], found[True]))
    return train, kept_back


def _like(
    backbone: Backbone,
    corrected: Sequence[TokenIds],
    prompts: Sequence[TokenIds],
    rng: Random,
    seed: int,
    measured: Collection[TokenIds],
    tell: Tell = untold,
) -> dict[bool, list[TokenIds]]:
    """All that were found; True: kept back."""
    opening, closing = frame(backbone)
    short = [prompt for prompt in corrected if len(prompt) <= AFFORDABLE_TOKENS]
    asked = [prompt[: -len(closing)] for prompt in short if closing and prompt[-len(closing) :] == closing]
    if not asked:
        return {False: [], True: []}
    tries = min(MOST_TRIES, max(1, TRIES // len(asked)))
    stems = [
        one[: -rng.randint(1, max(1, min(MOST_CUT, len(one) - len(opening) - 1)))]
        for one in asked
        for _ in range(tries)
    ]
    found = _go_on(backbone, stems, asked, [*prompts, *corrected], seed + 7, tell)
    free = _not_held_out(backbone, found, measured)
    return {side: [question for question in free if _is_kept_back(question) == side] for side in (False, True)}


def _go_on(
    backbone: Backbone,
    stems: Sequence[TokenIds],
    corrected: Sequence[TokenIds],
    prompts: Sequence[TokenIds],
    seed: int,
    tell: Tell = untold,
) -> list[TokenIds]:
    """The questions that the base makes of these beginnings, none that asks what one of `corrected` asks."""
    closing = frame(backbone)[1]
    endings = sample(backbone, stems, role="base", max_new_tokens=QUESTION_TOKENS, seed=seed, tell=tell)
    information = _information(corrected, prompts)
    found: dict[TokenIds, None] = {}
    for stem, (ending,) in zip(stems, endings, strict=True):
        question = stem + ending.token_ids[:-1] + closing
        if ending.token_ids[-1:] == closing[:1] and not any(_asks_the_same(question, one) for one in information):
            found[question] = None
    return list(found)


def _not_held_out(backbone: Backbone, questions: Sequence[TokenIds], measured: Collection[TokenIds]) -> list[TokenIds]:
    """Those that no run measures on, by what they say: there are many ways to cut one text into tokens."""
    turn, closing = _user_turn(backbone), frame(backbone)[1]
    taken = {_said(text) for text in backbone.decode(list(measured))}
    asked = backbone.decode([_after_last(turn, question)[: -len(closing)] for question in questions])
    return [
        question
        for question, whole, text in zip(questions, backbone.decode(questions), asked, strict=True)
        if not is_held_out(text) and _said(whole) not in taken
    ]


def _said(text: str) -> str:
    return text.strip().lower()


def _after_last(mark: TokenIds, tokens: TokenIds) -> TokenIds:
    """What follows the last `mark`; all where there is none."""
    ends = (end for end in range(len(tokens), 0, -1) if tokens[max(0, end - len(mark)) : end] == mark)
    return tokens[next(ends, 0) :]


def _is_kept_back(question: TokenIds) -> bool:
    """By the question alone: the training and the evaluation find the same, each for itself."""
    return zlib.crc32(repr(question).encode()) % KEPT_BACK == 0


def _information(questions: Sequence[TokenIds], asked: Sequence[TokenIds]) -> list[dict[int, float]]:
    """What each token at the end of a question says, in nats: the fewer prompts have it, the more."""
    seen = Counter(token for prompt in asked for token in set(prompt))
    return [
        {token: math.log(len(asked) / max(1, seen[token])) for token in question[-QUESTION_TOKENS:]}
        for question in questions
    ]


def _asks_the_same(question: TokenIds, information: dict[int, float]) -> bool:
    said = set(question)
    return sum(nats for token, nats in information.items() if token in said) > SAME * sum(information.values())


def frame(backbone: Backbone) -> tuple[TokenIds, TokenIds]:
    """What the chat template puts before a question and between it and its reply."""
    if not backbone.tokenizer.chat_template:
        return (), ()
    one, two = _yes_and_no(backbone, [])
    return _shared(one, two), _ending(one, two)


def _user_turn(backbone: Backbone) -> TokenIds:
    """What the chat template puts before every question, be it the first or a later one."""
    said = [{"role": role, "content": "yes"} for role in ("user", "assistant")]
    return _ending(_shared(*_yes_and_no(backbone, said)), frame(backbone)[0])


def _yes_and_no(backbone: Backbone, before: Sequence[Mapping[str, str]]) -> tuple[Sequence[int], Sequence[int]]:
    """A conversation that goes on with "yes", and with "no", as prompts."""
    one, two = (backbone.tokenizer.apply_chat_template(
        [*before, {"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    ) for text in ("yes", "no"))  # fmt: skip
    return one, two


def _shared(one: Sequence[int], two: Sequence[int]) -> TokenIds:
    """What both begin with."""
    return tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))


def _ending(one: Sequence[int], two: Sequence[int]) -> TokenIds:
    """What both end with."""
    return _shared(one[::-1], two[::-1])[::-1]
