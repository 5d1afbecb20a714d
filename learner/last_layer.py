"""The feed-forward network of a decoder's last layer, computed for those tokens alone whose states are asked for.

All others end there: later tokens have seen their keys and values by then. Of a prompt with short replies most are, and
in a model of few layers the network of the last one is a tenth of all there is to compute.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger("hone.learner")


@contextmanager
def only_at(feed_forward: nn.Module | None, places: Tensor) -> Iterator[None]:
    """Of `(1, N, H)` only the states at `places`, each once, go through it; to the others it adds nothing.

    None: all go through, wherever they do.
    """
    if feed_forward is None:
        yield
        return
    tokens = 0

    def select(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        nonlocal tokens
        (states,) = given
        tokens = states.shape[1]
        return (states[:, places],)

    def spread(_: nn.Module, __: tuple[Tensor], made: Tensor) -> Tensor:
        return made.new_zeros(1, tokens, made.shape[-1]).index_copy(1, places, made)

    hooks = feed_forward.register_forward_pre_hook(select), feed_forward.register_forward_hook(spread)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def last_feed_forward(model: Any) -> nn.Module | None:
    """That of a causal language model, where `only_at` is seen to change nothing at these places; else None."""
    try:
        decoder = model.get_decoder()
        feed_forward = decoder.layers[-1].mlp
        tokens = [place % model.config.get_text_config().vocab_size for place in range(5, 13)]
        token_ids, places = (torch.tensor(numbers, device=model.device) for numbers in ([tokens], [2, 3, 7]))
        whole = decoder(input_ids=token_ids, use_cache=False).last_hidden_state[:, places]
        with only_at(feed_forward, places):
            found = decoder(input_ids=token_ids, use_cache=False).last_hidden_state[:, places]
        if torch.allclose(found, whole, 1e-2, 1e-3):
            assert isinstance(feed_forward, nn.Module)
            return feed_forward
        log.debug("The last layer's feed-forward network is more than one for each token: it is computed for all.")
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        log.debug("The model's last layer has no feed-forward network that is known (%s).", error)
    return None
