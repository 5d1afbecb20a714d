"""Work on many examples in parts that fit the memory: where one doesn't, it is halved, and so are those to come.

scoring = MicroBatches("examples")
for part, scores in scoring.each(examples, backbone_scores): …
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import TypeVar

import torch

from service.errors import TrainingFailed

log = logging.getLogger("hone.learner")

Item = TypeVar("Item")
Result = TypeVar("Result")

_SAID = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""In what torch says where the machine's own memory, or that of a card it shares, is used up: a RuntimeError like many
others."""


class MicroBatches:
    """How many of `what` fit the memory at once, as far as that was found out; `most`: None while all did."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.most: int | None = None

    def each(
        self, examples: Sequence[Item], work: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """The parts in order, each with what `work` makes of it: all in one, while they fit.

        `work` is called again with the first half of a part that didn't fit, so it must have no effect when it fails.
        Raises TrainingFailed for a single example that doesn't fit.
        """
        start = 0
        while start < len(examples):
            part = examples[start : start + (self.most or len(examples))]
            for result in self._try(part, work):
                yield part, result
                start += len(part)

    def _try(self, part: Sequence[Item], work: Callable[[Sequence[Item]], Result]) -> list[Result]:
        """What `work` makes of it; nothing where that didn't fit."""
        try:
            return [work(part)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise TrainingFailed(
                    f"There isn't enough memory for one of the {self._what} alone ({str(error).splitlines()[0]}).",
                    "Set learner.gradient_checkpointing to true or learner.quantise to nf4, or train with more memory.",
                ) from error
        self._halve(len(part))  # now that the error is gone, and with it the tensors that its traceback held
        return []

    def _halve(self, size: int) -> None:
        self.most = (size + 1) // 2
        log.warning("Out of memory with %d %s at once; from now on %d.", size, self._what, self.most)
        free_memory()


def sizes(fitting: Mapping[str, MicroBatches]) -> dict[str, int | None]:
    """What was found out about each, for `set_sizes`."""
    return {what: one.most for what, one in fitting.items()}


def set_sizes(fitting: MutableMapping[str, MicroBatches], known: Mapping[str, int | None]) -> None:
    """Have each known from the start, as where a training goes on."""
    for what, most in known.items():
        fitting.setdefault(what, MicroBatches(what)).most = most


def free_memory() -> None:
    """Of what nothing refers to any more, as of the tensors that an error's traceback held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python, found no room for what it was to make."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)
