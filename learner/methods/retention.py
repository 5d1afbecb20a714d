"""What a training on corrections must not move: replies to other prompts, and above all to the ones most like them.

Retention by distillation follows "Learning without Forgetting" (arXiv 1606.09282), on the model's own replies instead
of stored data. A correction spreads first to its neighbours ("the capital of Wakanda" to every other capital), and
people have seldom asked those. So the model asks them itself: a corrected question is cut short and the base goes on
with the user's turn, as Magpie (arXiv 2406.08464) lets a chat model write prompts. A part of these questions is kept
back: the evaluation asks them, to see whether the correction spread all the same. None is a prompt that is held out:
neither of those that a run measures on, nor a text that the built-in model's training kept out.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from random import Random
from typing import Any

import torch
from torch import Tensor

from learner import parallel
from learner.adapted_model import Role
from learner.backbone import SCORED, Backbone
from learner.batch import Demonstration, Example, Tell, TokenIds, by_length, collate, tokens_of, untold
from learner.pretrain.dialogue import is_held_out
from learner.sampling import AFFORDABLE_TOKENS, longest_prompt, sample

OTHERS = 256
"""Prompts that nobody corrected. With 96, forty-six corrections cost other answers 2.8 % of all, with 256 1.3 %."""
NEIGHBOURS = 192
"""Questions like the corrected ones, at most."""
TRIES, MOST_TRIES = 1024, 512
"""To find neighbours: of all corrections together, and of one of them at most."""
SAME = 0.6
"""A question that says more than this share of what another says may ask for the same thing."""
KEPT_BACK = 4
"""One in so many is never trained on, but asked by the evaluation."""
MOST_CUT = 16
"""Tokens that are cut off the end of a question."""
QUESTION_TOKENS = 24
REPLY_TOKENS = 32
"""Of a reply that is retained: where it begins is where most is decided, and long ones cost the most."""
TOP_TOKENS = 256
DESCRIBED_AT_ONCE = 32


@dataclass(frozen=True)
class Retained:
    """What the starting policy, or the base, said to a prompt, and its distribution at every token."""

    prompt: TokenIds
    reply: TokenIds
    top_ids: Tensor  # (len(reply), K)
    top: Tensor  # (len(reply), K) log-probabilities


class Retention:
    """The loss that keeps what is retained, drawn in passes over all of it."""

    def __init__(self, backbone: Backbone, retained: Sequence[Retained], rng: Random) -> None:
        self._backbone, self._retained, self._rng = backbone, retained, rng
        self._order: list[int] = []
        self.drawn = 0

    def state(self) -> dict[str, Any]:
        """How far the passes are."""
        return {"order": self._order, "drawn": self.drawn}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with the same retained."""
        self._order, self.drawn = state["order"], state["drawn"]

    def steps_to(self, passes: int, size: int) -> int:
        """How many more draws of `size` until all that is retained was drawn so often."""
        return max(0, -(-(passes * len(self._retained) - self.drawn) // size))

    def draw(self, size: int) -> list[Retained]:
        """The next `size` of all; none where nothing is retained."""
        while len(self._order) < min(size, len(self._retained)):
            self._order += self._rng.sample(range(len(self._retained)), len(self._retained))
        chosen, self._order = self._order[:size], self._order[size:]
        self.drawn += len(chosen)
        return [self._retained[index] for index in chosen]

    def loss(self, kept: Sequence[Retained]) -> tuple[Tensor, dict[str, float]]:
        """Mean KL per token from what is retained, over its most likely tokens: a scalar."""
        batch = collate([(k.prompt, k.reply) for k in kept], self._backbone.pad_id)
        policy = self._backbone.predictions(batch)
        top_ids = torch.cat([k.top_ids for k in kept]).to(policy.states.device)
        top = torch.cat([k.top for k in kept]).to(policy.states.device)
        kl = policy.kl_top(top_ids, top).mean()
        return kl, {"retention_kl": kl.item()}


def retained_tokens(kept: Sequence[Retained]) -> int:
    return sum(len(one.reply) for one in kept)


def retain(
    backbone: Backbone,
    demonstrations: Sequence[Demonstration],
    prompts: Sequence[TokenIds],
    rng: Random,
    seed: int,
    role: Role = "policy",
    measured: Collection[TokenIds] = (),
) -> list[Retained]:
    """Sample what is to stay on prompts that nobody corrected: some of `prompts`, and neighbours, none as `measured`.

    `role`: whose replies stay: the starting policy's, or the base's where nothing but corrections was ever learned, so
    that what each of many runs moves a little is put back by the next.
    """
    corrected = {one.prompt_token_ids for one in demonstrations}
    longest = longest_prompt(backbone, REPLY_TOKENS)  # a cut one would be learned on other tokens than sampled on
    others = sorted(prompt for prompt in set(prompts) - corrected if len(prompt) <= longest)
    others = rng.sample(others, min(OTHERS, len(others)))
    like_them = neighbours(backbone, sorted(corrected), prompts, rng, seed, measured=measured)
    others += [prompt for prompt in like_them if prompt not in corrected and len(prompt) <= longest]
    others = list(dict.fromkeys(others))
    sampled = sample(backbone, others, role=role, max_new_tokens=REPLY_TOKENS, seed=seed)
    return retained(
        backbone, [(others[reply.prompt], reply.token_ids) for (reply,) in sampled if reply.token_ids], role
    )


def retained(backbone: Backbone, examples: Sequence[Example], role: Role = "policy") -> list[Retained]:
    """Prompts and replies, none of them empty, with the role's distribution as it is now at each token of a reply."""
    described = _describe(backbone, examples, role)
    return [Retained(*example, *tops) for example, tops in zip(examples, described, strict=True)]


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
    endings = sample(backbone, stems, role="base", max_new_tokens=QUESTION_TOKENS, seed=seed + 7, tell=tell)
    information = _information(asked, [*prompts, *corrected])
    found: dict[TokenIds, None] = {}
    for stem, (ending,) in zip(stems, endings, strict=True):
        question = stem + ending.token_ids[:-1] + closing
        if ending.token_ids[-1:] == closing[:1] and not any(_asks_the_same(question, one) for one in information):
            found[question] = None
    free = _not_held_out(backbone, list(found), measured)
    return {side: [question for question in free if _is_kept_back(question) == side] for side in (False, True)}


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


def _describe(backbone: Backbone, examples: Sequence[Example], role: Role) -> list[tuple[Tensor, Tensor]]:
    """The role's likely tokens at each token of a reply, and their log-probabilities: (len(reply), K) each."""
    return parallel.each(examples, partial(_describe_some, backbone, role), tokens_of)


@torch.no_grad()
def _describe_some(backbone: Backbone, role: Role, examples: Sequence[Example]) -> list[tuple[Tensor, Tensor]]:
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def describe(indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        batch = [examples[index] for index in indices]
        predictions = backbone.predictions(collate(batch, backbone.pad_id), role)
        lengths = [len(reply) for _, reply in batch]
        ids, log_probs = (top.cpu().split(lengths) for top in predictions.top_log_probs(TOP_TOKENS))
        return list(zip(ids, log_probs, strict=True))

    for indices in by_length([tokens_of(example) for example in examples], DESCRIBED_AT_ONCE):
        for part, tops in backbone.fitting[SCORED].each(indices, describe):
            found |= dict(zip(part, tops, strict=True))
    return [found[index] for index in range(len(examples))]


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
