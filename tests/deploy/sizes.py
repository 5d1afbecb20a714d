"""The arithmetic of docs/sizes.md, from a model's shape to GiB: what the page's formulas say, once more as code."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from learner.evaluate import report
from learner.methods.preference import GROUPS_PER_STEP, TRAINED_REPLIES
from learner.sampling import AFFORDABLE_TOKENS, sample

GIB, MIB, KIB = 2**30, 2**20, 2**10
NF4_BITS = 4.127  # a parameter, with double quantisation
ALLOWANCE = 2.0  # GiB: CUDA's context, CUDA graphs, the activations of an engine
RANK, SLOTS = 16, 8
STEP_TOKENS = GROUPS_PER_STEP * TRAINED_REPLIES * 128
SAMPLED_REPLIES: int = inspect.signature(sample).parameters["batch_size"].default
SAMPLED_TOKENS = SAMPLED_REPLIES * (AFFORDABLE_TOKENS + report.MAX_NEW_TOKENS)
BYTES_PER_LOGIT = 16  # bfloat16, float32, log-probabilities, gradient
CARDS = {"24 GB": 22.0, "80 GB": 78.0}  # GiB that are there to use


@dataclass(frozen=True)
class Shape:
    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool  # input and output embeddings are one

    @property
    def _queries(self) -> int:
        return self.heads * self.head_size

    @property
    def _keys(self) -> int:
        return self.kv_heads * self.head_size

    @property
    def linear(self) -> int:
        """Parameters of the linear layers: queries, keys, values, output; gate, up, down."""
        attention = 2 * self.hidden * (self._queries + self._keys)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        return self.linear + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def widths(self) -> int:
        """Inputs and outputs of all linear layers, summed: a LoRA of rank r has r times as many parameters."""
        attention = 2 * (self.hidden + self._queries) + 2 * (self.hidden + self._keys)
        return self.layers * (attention + 3 * (self.hidden + self.intermediate))

    @property
    def kv_bytes(self) -> int:
        """Of one token, in bfloat16."""
        return 2 * 2 * self.layers * self._keys

    @property
    def slot_bytes(self) -> int:
        """Of one LoRA slot in vLLM, in bfloat16: the linear layers, and both embeddings, used or not."""
        return 2 * RANK * (self.widths + 2 * (self.vocabulary + self.hidden))

    @property
    def weights(self) -> float:
        return 2 * self.parameters / GIB

    @property
    def weights_nf4(self) -> float:
        return (self.linear * NF4_BITS / 8 + 2 * (self.parameters - self.linear)) / GIB

    @property
    def lora(self) -> float:
        """The learner's: weights, gradient and two moments in float32, and the adapter that it started from."""
        return (16 + 4) * RANK * self.widths / GIB

    @property
    def kept_bytes(self) -> int:
        """What a token of a training step keeps for the backward pass, in all layers."""
        per_layer = 26 * self.hidden + 10 * self.intermediate + 12 * (self._queries + self._keys)
        return self.layers * per_layer

    def step(self, tokens: int = STEP_TOKENS) -> float:
        logits = tokens // 2 * self.vocabulary * BYTES_PER_LOGIT
        return (tokens * self.kept_bytes + logits) / GIB

    def sampling(self, nf4: bool) -> float:
        """The KV cache, and the weights with the adapter folded in beside those without it."""
        folded = 0 if nf4 else 2 * self.linear
        return (SAMPLED_TOKENS * self.kv_bytes + folded) / GIB

    def learner(self, nf4: bool) -> float:
        base = self.weights_nf4 if nf4 else self.weights
        return base + self.lora + max(self.step(), self.sampling(nf4)) + ALLOWANCE

    def kv_tokens(self, gib: float, cards: int = 1) -> int:
        """How many tokens fit into the KV cache of an engine that has so many GiB on each of so many cards."""
        slots = SLOTS * self.slot_bytes / GIB  # on every card: at most so much
        room = cards * (gib - ALLOWANCE - slots) - self.weights
        return max(0, int(room * GIB / self.kv_bytes))
