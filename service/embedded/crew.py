"""The threads that compute the kernel's works together (`crew.h`), and the choice of tokens as one of these works."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import finalize

import torch
from torch import Tensor

from service.embedded.kernel import Kernel


class Crew:
    """`members` threads, whoever asks for a work among them; they end with this object."""

    def __init__(self, kernel: Kernel, members: int) -> None:
        self.kernel = kernel
        self.address: int | None = kernel.functions.crew_start(members)
        if self.address is not None:
            finalize(self, kernel.functions.crew_end, self.address)
        self._scratch, self._roomy_for = torch.empty(0), 0

    def sampling_scratch(self, vocab: int) -> Tensor:
        """Room for each member to choose among so many tokens; what lies in it means nothing after the choice."""
        if self._roomy_for < vocab:
            self._roomy_for = vocab
            self._scratch = torch.empty(self.kernel.functions.sampling_scratch(vocab, self.address))
        return self._scratch


@dataclass(frozen=True)
class Chosen:
    """A token for each row, `(rows,)` int64, and, if wanted, its log-probability at temperature 1, `(rows,)` float32.

    Both are overwritten by the next choice. `broken`: in how many rows there are logits that are not finite; their
    tokens mean nothing.
    """

    tokens: Tensor
    log_probs: Tensor | None
    broken: int


class Chooser:
    """Chooses the next token of the same rows, step after step, in memory that it keeps.

    `temperatures`: `(rows,)` float32; 0 is the likeliest token.
    """

    def __init__(self, crew: Crew, temperatures: Tensor, with_log_probs: bool = False) -> None:
        rows = len(temperatures)
        self._crew = crew
        self._temperatures = temperatures
        self._uniforms = (ctypes.c_double * rows)()
        self._tokens = torch.empty(rows, dtype=torch.int64)
        self._log_probs = torch.empty(rows) if with_log_probs else None
        self._given = (temperatures.data_ptr(), self._uniforms, rows)
        self._written = (self._tokens.data_ptr(), None if self._log_probs is None else self._log_probs.data_ptr())

    def __call__(self, logits: Tensor, uniforms: Sequence[float]) -> Chosen:
        """For each row of `logits` `(rows, vocab)`, contiguous: the token that the row's entry of `uniforms`, in
        [0, 1), falls on in its distribution."""
        crew, vocab = self._crew, logits.shape[1]
        self._uniforms[:] = list(uniforms)
        broken: int = crew.kernel.functions.sample(
            logits.data_ptr(),
            *self._given,
            vocab,
            crew.sampling_scratch(vocab).data_ptr(),
            *self._written,
            crew.address,
        )
        return Chosen(self._tokens, self._log_probs, broken)
