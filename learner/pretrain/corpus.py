"""Dialogues as rows of tokens: several dialogues to a row, each seeing only itself.

A row of `CONTEXT` tokens holds whole dialogues one after the other; `documents` numbers them, so that attention can be
kept within a dialogue. Most rows are cut short (`SHORT_ROW`), since most dialogues are; long dialogues fill long rows,
so that positions up to the full context are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from learner.pretrain.dialogue import Dialogue
from learner.pretrain.tokenizer import CONTEXT, encode_dialogue

SHORT_ROW = 256


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows, all (rows, length)."""

    ids: NDArray[np.int64]
    documents: NDArray[np.int64]  # 1, 2, … within a row; 0 is padding
    positions: NDArray[np.int64]  # place within the dialogue
    weights: NDArray[np.float32]  # weight of the loss for predicting this token from those before

    @property
    def lengths(self) -> list[list[int]]:
        """Tokens of each dialogue, and last of the padding, for every row."""
        ends = [np.flatnonzero(np.diff(row, append=-1)) + 1 for row in self.documents]
        return [np.diff(row, prepend=0).tolist() for row in ends]


def _pack(items: list[tuple[list[int], list[float]]], rows: int, length: int) -> Rows:
    """Lay dialogues into rows, first fit."""
    ids = np.zeros((rows, length), np.int64)
    documents, positions = np.zeros_like(ids), np.zeros_like(ids)
    weights = np.zeros((rows, length), np.float32)
    filled, counts = [0] * rows, [0] * rows
    for tokens, item_weights in items:
        row = next(i for i in range(rows) if filled[i] + len(tokens) <= length)
        place = slice(filled[row], filled[row] + len(tokens))
        counts[row] += 1
        ids[row, place] = tokens
        documents[row, place] = counts[row]
        positions[row, place] = np.arange(len(tokens))
        weights[row, place] = item_weights
        filled[row] += len(tokens)
    return Rows(ids, documents, positions, weights)


class _Shelf:
    """Collects dialogues until a batch of rows of one length is full."""

    def __init__(self, rows: int, length: int) -> None:
        self.rows, self.length = rows, length
        self.items: list[tuple[list[int], list[float]]] = []
        self.filled = [0] * rows

    def put(self, item: tuple[list[int], list[float]]) -> Rows | None:
        """Add a dialogue; when it no longer fits, return the full batch and begin the next with it."""
        size = len(item[0])
        row = next((i for i, used in enumerate(self.filled) if used + size <= self.length), None)
        if row is not None:
            self.filled[row] += size
            self.items.append(item)
            return None
        batch = _pack(self.items, self.rows, self.length)
        self.items, self.filled = [], [0] * self.rows
        self.put(item)
        return batch


def batches(
    tokenizer: PreTrainedTokenizerFast, text: Iterable[Dialogue], tokens_per_batch: int, skip: int = 0
) -> Iterator[Rows]:
    """Batches of `text`, as many as it fills. `skip` batches are left out, to resume where a run stopped."""
    return islice(_batches(tokenizer, text, tokens_per_batch), skip, None)


def _batches(tokenizer: PreTrainedTokenizerFast, text: Iterable[Dialogue], tokens_per_batch: int) -> Iterator[Rows]:
    short = _Shelf(tokens_per_batch // SHORT_ROW, SHORT_ROW)
    long = _Shelf(max(1, tokens_per_batch // CONTEXT), CONTEXT)
    for dialogue in text:
        item = encode_dialogue(tokenizer, dialogue)
        if len(item[0]) > CONTEXT:
            continue
        batch = (short if len(item[0]) <= SHORT_ROW else long).put(item)
        if batch is not None:
            yield batch
