"""Sample replies in the learner's own process: batched, with a KV cache, seeded, with log-probabilities.

For rollouts and evaluation during a run, where the weights change under the sampler; users are served by the engine.
Prompts of similar length go together, padded on the left; each is computed once however many replies it gets, and
rows leave the batch as their replies end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from learner import parallel
from learner.adapted_model import Role
from learner.backbone import SAMPLED, Backbone
from learner.batch import Tell, TokenIds, by_length, unheard, untold

AFFORDABLE_TOKENS = 128
"""What a prompt that a training samples on may cost on the average; one far into a long conversation costs many times
that, so fewer are taken."""
FEWEST = 16
"""How many are taken at least, however long they are."""
SEEDS_APART = 1_000_003
"""Between the seeds of processes that sample shares of the same: more than any two of a training's own differ by."""


@dataclass(frozen=True)
class Reply:
    """One sampled reply."""

    prompt: int  # index of the prompt it answers
    token_ids: TokenIds  # EOS included where it ended by itself
    log_prob: float  # of the whole reply, in nats, before temperature
    ended: bool  # False: cut at max_new_tokens
    log_probs: tuple[float, ...] | None = None  # of each token, by an engine that sampled it; None: sampled here


class Window(Protocol):
    """What takes prompts and replies up to a length: a backbone, or whatever samples for it."""

    @property
    def max_length(self) -> int:
        """Tokens of prompt and reply together."""


def longest_prompt(window: Window, max_new_tokens: int) -> int:
    """How many tokens of a prompt `sample` takes in whole, beside a reply of so many."""
    return window.max_length - min(max_new_tokens, window.max_length // 2)


def with_room(window: Window, prompts: Sequence[TokenIds], max_new_tokens: int) -> tuple[list[TokenIds], int]:
    """Each prompt once that isn't empty and leaves room for so long a reply, and how many others there are."""
    room = longest_prompt(window, max_new_tokens)
    fitting = [prompt for prompt in dict.fromkeys(prompts) if prompt and len(prompt) <= room]
    return fitting, len(set(prompts)) - len(fitting)


def affordable(prompts: Sequence[TokenIds], most: int) -> list[TokenIds]:
    """As many as cost no more than `most` of AFFORDABLE_TOKENS, drawn at random, in their order.

    The FEWEST shortest are among them whatever they cost.
    """
    kept = set(sorted(range(len(prompts)), key=lambda index: len(prompts[index]))[:FEWEST])
    budget = most * AFFORDABLE_TOKENS - sum(len(prompts[index]) for index in kept)
    for index in Random(0).sample(range(len(prompts)), len(prompts)):
        if index not in kept and len(prompts[index]) <= budget:
            kept.add(index)
            budget -= len(prompts[index])
    return [prompts[index] for index in sorted(kept)]


def sample(
    backbone: Backbone,
    prompts: Sequence[TokenIds],
    *,
    role: Role = "policy",
    per_prompt: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
    tell: Tell = untold,
    heard: Callable[[Reply], None] = unheard,
) -> list[list[Reply]]:
    """`per_prompt` replies to each prompt, in the prompts' order. Temperature 0 is greedy.

    `batch_size` bounds the replies decoded at once; `tell` hears how many of those that this process samples have come
    to their end, and `heard` each of these replies as soon as its batch is done. The same seed, prompts and weights
    give the same replies, where as many processes train; then all are to ask for them, and each samples a share. Where
    so many don't fit the memory they are decoded in halves, and so are those to come. All of a batch draw from one
    stream of random numbers, token by token, so in halves other replies are drawn, from the same policy; where as many
    fit, they are the same again.
    At most half of the model's window is given to the reply; a prompt too long for the rest is cut on the left. Raises
    TrainingFailed for a single reply that doesn't fit the memory.
    """
    room = longest_prompt(backbone, max_new_tokens)
    max_new_tokens = backbone.max_length - room
    generator = torch.Generator().manual_seed(seed + SEEDS_APART * parallel.rank())

    def replies_to(mine: Sequence[int]) -> list[list[Reply]]:
        replies: dict[int, list[Reply]] = {index: [] for index in mine}
        decoded_before, total = 0, per_prompt * len(mine)
        if total:
            tell(0, total)
        with backbone.merged(role) as model:

            def decode(rows: Sequence[int]) -> list[tuple[TokenIds, float, bool]]:
                chunk = {index: prompts[index][-room:] for index in rows}
                places = {index: place for place, index in enumerate(chunk)}
                before, asked = generator.get_state(), [places[index] for index in rows]
                try:
                    return _decode(
                        backbone, model, list(chunk.values()), asked, max_new_tokens, temperature, generator,
                        lambda ended: tell(decoded_before + ended, total),
                    )  # fmt: skip
                except (RuntimeError, MemoryError):  # what comes instead draws the same numbers
                    generator.set_state(before)
                    raise

            for places in by_length([len(prompts[index]) for index in mine], max(1, batch_size // per_prompt)):
                rows = [mine[place] for place in places for _ in range(per_prompt)]
                for part, decoded in backbone.fitting[SAMPLED].each(rows, decode):
                    for index, (token_ids, log_prob, ended) in zip(part, decoded, strict=True):
                        replies[index].append(Reply(index, token_ids, log_prob, ended))
                        heard(replies[index][-1])
                    decoded_before += len(part)
                    tell(decoded_before, total)
        return list(replies.values())

    return parallel.each(range(len(prompts)), replies_to, lambda index: len(prompts[index]))


def _decode(
    backbone: Backbone,
    model: torch.nn.Module,
    prompts: Sequence[TokenIds],
    asked: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    tell_ended: Callable[[int], None],
) -> list[tuple[TokenIds, float, bool]]:
    """Decode one batch: (token ids, log-probability, ended) of a reply to each prompt that is asked, by its place among
    `prompts`; one may be asked more than once. `tell_ended` hears how many have ended, whenever some do."""
    device, eos = backbone.device, torch.tensor(backbone.eos_ids, dtype=torch.long)
    token_ids, attention = _left_padded(prompts, backbone.pad_id)
    cache = _cache(model, token_ids.shape[1] + max_new_tokens)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    logits = model(
        input_ids=token_ids.to(device), attention_mask=attention.to(device), position_ids=positions.to(device),
        past_key_values=cache, logits_to_keep=1,
    ).logits[:, -1]  # (P, V)  # fmt: skip
    of_prompts = torch.tensor(asked)
    cache.batch_select_indices(of_prompts.to(device))
    logits = logits[of_prompts.to(device)]  # (R, V), R replies still going
    attention = attention[of_prompts]
    rows = torch.arange(len(attention))  # which reply each row of the batch is
    sampled = torch.zeros(len(rows), max_new_tokens, dtype=torch.long)
    lengths, log_probs = torch.zeros(len(rows), dtype=torch.long), torch.zeros(len(rows))
    ended = torch.zeros(len(rows), dtype=torch.bool)
    for step in range(max_new_tokens):
        tokens, chosen = (drawn.cpu() for drawn in _draw(logits.float(), temperature, generator))
        live = ~ended[rows]
        sampled[rows[live], step], lengths[rows[live]] = tokens[live], step + 1
        log_probs[rows[live]] += chosen[live]
        ended[rows[live]] = torch.isin(tokens[live], eos)
        going = (~ended[rows]).nonzero().squeeze(1)
        if len(going) == 0 or step + 1 == max_new_tokens:
            break
        if ended[rows[live]].any():
            tell_ended(int(ended.sum()))
        if len(going) <= 0.8 * len(rows):  # letting rows leave copies the cache: not for every one
            cache.batch_select_indices(going.to(device))
            rows, tokens, attention = rows[going], tokens[going], attention[going]
        positions = attention.sum(1, keepdim=True)
        attention = torch.cat([attention, torch.ones(len(rows), 1, dtype=torch.long)], 1)
        logits = model(
            input_ids=tokens.unsqueeze(1).to(device), attention_mask=attention.to(device),
            position_ids=positions.to(device), past_key_values=cache,
        ).logits[:, -1]  # fmt: skip
    return [
        (tuple(sampled[row, : lengths[row]].tolist()), float(log_probs[row]), bool(ended[row]))
        for row in range(len(sampled))
    ]


class _Reserved(DynamicLayer):
    """A cache layer that writes into memory reserved once, instead of copying all of it at every token."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._length = 0
        self._keys = self._values = torch.empty(0)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            self._length = key_states.shape[-2]
            return key_states, value_states
        if len(self._keys) != len(key_states):  # the first token after the prompt, or rows have left
            self._keys, self._values = self._reserve(self.keys), self._reserve(self.values)
        self._keys[:, :, self._length : self._length + 1] = key_states
        self._values[:, :, self._length : self._length + 1] = value_states
        self._length += 1
        self.keys, self.values = self._keys[:, :, : self._length], self._values[:, :, : self._length]
        return self.keys, self.values

    def _reserve(self, states: Tensor) -> Tensor:
        room = states.new_empty(*states.shape[:2], self._capacity, states.shape[-1])
        room[:, :, : self._length] = states
        return room


def _cache(model: torch.nn.Module, capacity: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    if all(type(layer) is DynamicLayer for layer in cache.layers):  # sliding windows and the like keep their own
        cache.layers = [_Reserved(capacity) for _ in cache.layers]
    return cache


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One token a row and its log-probability before temperature: (R, V) → (R,), (R,), where the logits are."""
    log_probs = torch.log_softmax(logits, -1)
    if temperature == 0:
        tokens = logits.argmax(-1)
    else:
        weights = log_probs.exp() if temperature == 1 else torch.softmax(logits / temperature, -1)
        cumulative = weights.cumsum(-1)  # one uniform number a row: many times faster than multinomial
        threshold = torch.rand(len(weights), 1, generator=generator).to(weights.device) * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
    return tokens, log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1)


def _left_padded(prompts: Sequence[TokenIds], pad_id: int) -> tuple[Tensor, Tensor]:
    width = max(len(prompt) for prompt in prompts)
    token_ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    attention = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        token_ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        attention[row, width - len(prompt) :] = 1
    return token_ids, attention
