"""A language so small that all that can be said in it is listed: the best policy of replies of several tokens is known.

Replies have up to three tokens, and their reward is told by the first two alone. So whoever gives the credit to the
last token learns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import TokenIds
from service.settings import PpoSettings
from tests.learner.tiny_model import EOS

TOKENS = ("<bos>", "<eos>", "<pad>", "<unk>", "a", "b", "c", "d")
LONGEST, BETA = 3, 0.5
LIKED = (4, 5)
ASKED: list[TokenIds] = [(0, 4, 6), (0, 7)]
TOY = PpoSettings(
    iterations=80, value_warmup=4, prompts=2, replies=32, epochs=2, minibatch=64, learning_rate=1e-2,
    value_learning_rate=1e-2, kl_coefficient=BETA, normalise_rewards=False, clip_rewards=None, missing_eos_penalty=0.0,
    stop_kl=10.0, pretraining_coefficient=0.0, max_new_tokens=LONGEST, whiten_advantages=False, lam=0.9,
)  # fmt: skip


def every_reply() -> list[TokenIds]:
    """Those that end, and those that are cut."""
    going = [token for token in range(len(TOKENS)) if token != EOS]
    ended = [(*said, EOS) for length in range(LONGEST) for said in product(going, repeat=length)]
    return ended + list(product(going, repeat=LONGEST))


REPLIES = every_reply()


class Beginning:
    """The reward: 1 for a first token that is liked, and 1 more for a second one that repeats the first."""

    def score(self, examples: Sequence[tuple[TokenIds, TokenIds]]) -> Tensor:
        return torch.tensor([float(_begins_well(reply)) for _, reply in examples])


def _begins_well(reply: TokenIds) -> int:
    return (reply[0] in LIKED) + (len(reply) > 1 and reply[0] == reply[1])


def policy(backbone: Backbone, role: Role = "policy") -> Tensor:
    """Log-probabilities of all replies to each prompt: (prompts, REPLIES)."""
    examples = [(prompt, reply) for prompt in ASKED for reply in REPLIES]
    return backbone.score(examples, role, batch_size=400).reshape(len(ASKED), -1).double()


def optimum(backbone: Backbone) -> Tensor:
    """π ∝ anchor · exp(reward / β), as `policy` has it."""
    rewards = Beginning().score([((), reply) for reply in REPLIES])
    return torch.log_softmax(policy(backbone, "anchor") + rewards / BETA, 1)


def distance(policy: Tensor, best: Tensor) -> float:
    """Mean over the prompts of KL(policy ‖ best), in nats."""
    return float((policy.exp() * (policy - best)).sum(1).mean())
