"""Processes that share a model's parameters: each computes the gradient of a batch of its own text.

Processes and not threads, because what Python does between two operations of a model this small, on which threads wait
for each other, is as long as many of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import get_context
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from learner.pretrain.corpus import Rows, batches
from learner.pretrain.loss import batch_loss, fast_products
from learner.pretrain.stream import STREAMS
from learner.subnormals import flush_subnormals

SEEDS_APART = 1_000_003
"""Between the texts of two replicas."""


@dataclass(frozen=True)
class Share:
    """What a replica made of its batch: the weighted sum of its losses, of their weights, and tokens seen."""

    loss: float
    weight: float
    tokens: int

    def __add__(self, other: Share) -> Share:
        return Share(self.loss + other.loss, self.weight + other.weight, self.tokens + other.tokens)


class Replica:
    """The model and one endless text."""

    def __init__(
        self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, tokens_per_batch: int, fused: bool
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._seed, self._tokens_per_batch, self._fused = seed, tokens_per_batch, fused
        self._rows: Iterator[Rows] = iter(())

    def begin(self, stream: str, skip: int) -> None:
        """Go to this stream's batch after so many."""
        self._rows = batches(self._tokenizer, STREAMS[stream](self._seed), self._tokens_per_batch, skip=skip)

    def backward(self) -> Share:
        """The gradient of the next batch's loss, a sum, in place of the one before."""
        rows = next(self._rows)
        for parameter in self._model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        with fast_products():
            loss = batch_loss(self._model, rows, self._fused)
        torch.autograd.backward(loss)
        return Share(loss.item(), float(rows.weights[:, 1:].sum()), int((rows.documents > 0).sum()))


class Replicas:
    """So many of them, in processes of their own, which end with this one."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        count: int,
        seed: int,
        tokens_per_batch: int,
        fused: bool,
    ) -> None:
        self._model = model.share_memory()
        self._gradients = [[torch.zeros_like(p).share_memory_() for p in model.parameters()] for _ in range(count)]
        context = get_context("spawn")
        self._pipes, self._processes = list[Connection](), list[Any]()
        for place, gradients in enumerate(self._gradients):
            ours, theirs = context.Pipe()
            of_text = seed + place * SEEDS_APART
            process = context.Process(
                target=_serve, args=(theirs, model, gradients, tokenizer, of_text, tokens_per_batch, fused), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def begin(self, stream: str, skip: int) -> None:
        """All go to this stream's batch after so many of their own."""
        self._tell((stream, skip))

    def backward(self) -> Share:
        """The gradient of the mean loss over a batch of each, in `grad` of the parameters.

        Raises EOFError when one of the processes has died.
        """
        self._tell(None)
        share = Share(0.0, 0.0, 0)
        for pipe in self._pipes:
            share += pipe.recv()
        for parameter, gradients in zip(self._model.parameters(), zip(*self._gradients, strict=True), strict=True):
            parameter.grad = torch.stack(gradients).sum(0).div_(share.weight)
        return share

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join()

    def _tell(self, what: tuple[str, int] | None) -> None:
        for pipe in self._pipes:
            pipe.send(what)


def _serve(
    pipe: Connection,
    model: LlamaForCausalLM,
    gradients: list[Tensor],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    tokens_per_batch: int,
    fused: bool,
) -> None:
    """A replica's process: `(stream, skip)` sends it to a place in its text, None asks for a gradient."""
    be_single_threaded()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    replica = Replica(model, tokenizer, seed, tokens_per_batch, fused)
    with suppress(EOFError, OSError, KeyboardInterrupt):  # the training has ended
        while True:
            asked = pipe.recv()
            if asked is None:
                pipe.send(replica.backward())
            else:
                replica.begin(*asked)


def be_single_threaded() -> None:
    """As each replica is, and each thread that updates parameters; none of them minds subnormal numbers."""
    torch.set_num_threads(1)
    flush_subnormals()
