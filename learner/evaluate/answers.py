"""The replies that an evaluation looks at: of one model, in one role, to all prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Tell, TokenIds, untold
from learner.sampling import Reply, sample

MAX_NEW_TOKENS = 160
REPLIES = 4


@dataclass(frozen=True)
class Answers:
    """One model's replies to all prompts."""

    replies: list[list[Reply]]
    texts: list[list[str]]

    @property
    def flat(self) -> list[Reply]:
        return [reply for replies in self.replies for reply in replies]

    @property
    def flat_texts(self) -> list[str]:
        return [text for texts in self.texts for text in texts]

    @property
    def tokens(self) -> int:
        return sum(len(reply.token_ids) for reply in self.flat)


def spread(prompts: Sequence[TokenIds], most: int) -> list[TokenIds]:
    """At most so many prompts, evenly spaced over all of them."""
    if len(prompts) <= most:
        return list(prompts)
    return [prompts[place * len(prompts) // most] for place in range(most)]


def answer(
    backbone: Backbone,
    prompts: Sequence[TokenIds],
    role: Role,
    seed: int,
    per_prompt: int = REPLIES,
    tell: Tell = untold,
) -> Answers:
    """`per_prompt` replies at temperature 1 to every prompt; the likeliest alone where that is 1."""
    replies = sample(
        backbone, prompts, role=role, per_prompt=per_prompt, max_new_tokens=MAX_NEW_TOKENS, seed=seed,
        temperature=float(per_prompt > 1), tell=tell,
    )  # fmt: skip
    return Answers(replies, [backbone.decode([reply.token_ids for reply in row]) for row in replies])
