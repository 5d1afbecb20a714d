"""What vLLM and the learner need of a GPU's memory, in bytes, from the model's shape; and how they share a card.

Arithmetic alone: nothing here looks at a machine. docs/sizes.md has the formulas in words and their results in tables,
which a test computes by these functions. Only training alone was measured on a GPU (docs/benchmarks.md): the engine's
part, and the two on one card, were not, so what can't be counted is guessed on the careful side.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from service.model_shape import ModelShape

GIB = 2**30

ALLOWANCE = 2 * GIB
"""Of every process on a card: CUDA's context, CUDA graphs, an engine's activations. A guess."""

NF4_BITS = 4.127
"""A parameter with double quantisation (QLoRA, arXiv 2305.14314, section 3): 4 + 8 / 64 + 32 / (64 · 256)."""

LORA_BYTES = 20
"""A trained parameter: weight, gradient and AdamW's two moments in float32, and the adapter that it started from."""

LOGIT_BYTES = 16
"""A logit of a step that is held to the anchor's odds: bfloat16, float32, log-probabilities, gradient. Losses of
log-probabilities alone go through the output layer in chunks of 2^24 logits, and need less than this."""

STEP_GROUPS = 8
"""Groups of replies to one prompt in a step of learning from comparisons, the largest step by default
(learner/methods/preference.py)."""
GROUP_REPLIES = 4
STEP_LENGTH = 128
"""Tokens of prompt and reply together; half of them are the reply's."""

SAMPLED_REPLIES = 256
"""That the trainer decodes at once (learner/sampling.py)."""
SAMPLED_LENGTH = 128 + 160
"""Tokens of an affordable prompt (learner/sampling.py) and the longest reply (learner/evaluate/answers.py)."""

MOST_SHARE = 0.9
"""Of a card that an engine has to itself."""


@dataclass(frozen=True)
class Engine:
    """vLLM with one model, on one card or over several that share it. All bytes are those of each card."""

    shape: ModelShape
    context: int
    """Longest prompt and reply together, in tokens."""
    slots: int
    rank: int
    """LoRA rank that each slot is made for."""
    cards: int = 1
    number_bytes: int = 2
    """Of weights and KV cache: 2 in bfloat16 and float16, 4 in float32."""

    @property
    def weights(self) -> int:
        return ceil(self.number_bytes * self.shape.parameters / self.cards)

    @property
    def adapters(self) -> int:
        """All slots, which vLLM makes at its start, whatever they hold: (rank, in) and (out, rank) of each linear
        layer and of both embeddings, whole on every card."""
        widths = self.shape.widths + 2 * (self.shape.vocabulary + self.shape.hidden)
        return self.slots * self.number_bytes * self.rank * widths

    @property
    def kv_token(self) -> int:
        """Keys and values of one token in all layers."""
        heads = ceil(self.shape.kv_heads / self.cards)
        return 2 * self.number_bytes * self.shape.layers * heads * self.shape.head_size

    @property
    def full_context(self) -> int:
        """KV cache of one conversation of full length: vLLM refuses to start with less."""
        return self.context * self.kv_token

    @property
    def least(self) -> int:
        return self.weights + self.adapters + self.full_context + ALLOWANCE

    def kv_tokens(self, room: int) -> int:
        """Tokens that its KV cache holds where it may take so many bytes."""
        return max(0, room - self.weights - self.adapters - ALLOWANCE) // self.kv_token


@dataclass(frozen=True)
class Learner:
    """A training process with a copy of the base of its own, which serves all of its roles."""

    shape: ModelShape
    rank: int
    nf4: bool = False
    checkpointing: bool = False
    """Whether each layer keeps only what goes in, and runs again for the backward pass (arXiv 1604.06174)."""

    @property
    def base(self) -> int:
        """As it is stored; with NF4 the linear layers in 4 bits, and the embeddings in bfloat16."""
        shape = self.shape
        if not self.nf4:
            return shape.number_bytes * shape.parameters
        return ceil(shape.linear * NF4_BITS / 8) + 2 * (shape.parameters - shape.linear)

    @property
    def lora(self) -> int:
        return LORA_BYTES * self.rank * self.shape.widths

    @property
    def kept_per_layer(self) -> int:
        """What one token keeps in one layer for the backward pass, as counted in autograd with a LoRA on all linear
        layers and the base in bfloat16; twice that in float32."""
        shape = self.shape
        in_bfloat16 = 26 * shape.hidden + 10 * shape.intermediate + 12 * (shape.queries + shape.keys)
        return in_bfloat16 * self._width // 2

    def step(self, groups: int = STEP_GROUPS) -> int:
        """Activations and logits of so many groups at once. A step that doesn't fit is taken in halves, down to one."""
        tokens = groups * GROUP_REPLIES * STEP_LENGTH
        kept = self.shape.layers * self.kept_per_layer
        if self.checkpointing:  # what goes into each layer, and all of the one that runs again
            kept = self.shape.layers * self._width * self.shape.hidden + self.kept_per_layer
        return tokens * kept + tokens // 2 * self.shape.vocabulary * LOGIT_BYTES

    @property
    def sampling(self) -> int:
        """The KV cache of all replies; and the linear layers once more, with the adapter folded in (not in NF4)."""
        tokens = SAMPLED_REPLIES * SAMPLED_LENGTH
        cache = tokens * 2 * self._width * self.shape.layers * self.shape.keys
        return cache + (0 if self.nf4 else self._width * self.shape.linear)

    def needs(self, groups: int = STEP_GROUPS) -> int:
        """All of it. Sampling and training take turns, so the larger counts."""
        return self.base + self.lora + max(self.step(groups), self.sampling) + ALLOWANCE

    @property
    def least(self) -> int:
        return self.needs(groups=1)

    @property
    def _width(self) -> int:
        """Bytes of a number in activations: the weights' own, or bfloat16."""
        return 2 if self.nf4 else self.shape.number_bytes


@dataclass(frozen=True)
class Demand:
    """What is to share a card; `learner` None: the engine has it to itself."""

    engine: Engine
    learner: Learner | None


@dataclass(frozen=True)
class Division:
    """How a card is shared: the engine's share of its memory, and what comes of that."""

    share: float
    kv_tokens: int
    parts: int
    """In which the learner takes its largest step; 1: at once."""


def divide(memory: int, free: int, demand: Demand) -> Division | None:
    """The share for the engine that leaves the learner what it needs, in steps of 0.01; None where both don't fit.

    `memory`: what CUDA has to give on the card, of which `free` is free; the share is one of `memory`, as vLLM takes
    it. Where a whole step of the learner leaves the engine too little, the step is taken in parts.
    """
    engine, learner, parts = demand.engine, demand.learner, 1
    while parts <= STEP_GROUPS:
        kept_free = 0 if learner is None else learner.needs(STEP_GROUPS // parts)
        hundredths = min(round(100 * MOST_SHARE), 100 * (min(memory, free) - kept_free) // memory)
        room = memory * hundredths // 100
        if engine.least <= room:
            return Division(hundredths / 100, engine.kv_tokens(room), parts)
        parts *= 2
    return None
