"""Key-value cache with a hard memory bound: an arena of tokens, cut into rows of equal capacity.

Every running sequence owns one row, and rows are dense: rows 0..n-1 are in use. The attention of a decode step then
reads one strided view per layer, `(rows, heads, longest, dim)`, with no gather and no copy; that is worth more on a CPU
than block tables (vLLM's paged attention) are. Compiled code, which is told where each row lies, has them `scattered`:
there a row moves without its numbers. When the longest sequence outgrows the row capacity the rows are laid
out anew inside the same arena, so the bound holds at every moment; when the arena cannot hold the rows any more, the
scheduler puts the youngest sequence back in line.
"""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
ROW_STEP = 64  # row capacities are multiples of this many tokens


@dataclass(frozen=True)
class Plane:
    """What one layer keeps for each token: `heads` vectors of `dim` numbers."""

    heads: int
    dim: int


class KvCache:
    """An arena of `tokens` token places over all planes, seen as rows of `capacity` tokens each.

    `views[p]` is plane p as `(rows, heads, capacity, dim)`; a row is its entry number `place_of(row)`, the row's own
    number unless they are `scattered`.
    """

    def __init__(
        self,
        planes: Sequence[Plane],
        tokens: int,
        max_rows: int,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
        scattered: bool = False,
    ) -> None:
        if tokens < max_length:
            raise ValueError(f"the cache holds {tokens} tokens, one sequence may need {max_length}")
        self.planes = tuple(planes)
        self.tokens = tokens
        self.max_rows = max_rows
        self.max_length = max_length
        self.scattered = scattered
        self._arenas = [_zeros(tokens * plane.heads * plane.dim, dtype, device) for plane in planes]
        self.capacity = 0
        self.layout = 0  # how often the rows were laid out anew
        self.views: list[torch.Tensor] = []
        self._places: list[int] = []
        self._see(self._roomiest(max_rows) or min(max_length, ROW_STEP * 4))

    @property
    def rows(self) -> int:
        """How many rows the present capacity leaves room for."""
        return min(self.max_rows, self.tokens // self.capacity)

    def fits(self, rows: int, length: int) -> bool:
        """Whether `rows` rows of up to `length` tokens fit, after a new layout if need be."""
        return rows <= self.max_rows and rows * min(_round_up(length), self.max_length) <= self.tokens

    def reserve(self, lengths: Sequence[int], rows: int, length: int) -> bool:
        """Make room for `rows` rows of `length` tokens, keeping the first `lengths[i]` tokens of each row in use.

        Returns False, having changed nothing, when the arena is too small for that.
        """
        if length <= self.capacity and rows <= self.rows:
            return True
        if not self.fits(rows, length):
            return False
        wanted = min(_round_up(length), self.max_length)
        roomy = min(_round_up(length + length // 2), self.max_length, self.tokens // rows)
        self._lay_out(lengths, max(wanted, roomy))
        return True

    def place_of(self, row: int) -> int:
        """Which entry of each view a row is, until it moves or the rows are laid out anew."""
        return self._places[row]

    def copy_row(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Copy the tokens from `start` to `length` of one row over another's."""
        place, onto = self._places[source], self._places[target]
        for view in self.views:
            view[onto, :, start:length] = view[place, :, start:length]

    def move_row(self, source: int, target: int, length: int, start: int = 0) -> None:
        """The same for a row that is of no use any more where it was: what is there then means nothing."""
        if self.scattered:
            places = self._places
            places[source], places[target] = places[target], places[source]
        else:
            self.copy_row(source, target, length, start)

    def clear_row(self, row: int) -> None:
        """Forget what a row holds that isn't finite: whoever has the row next multiplies what it may not see by 0."""
        for view in self.views:
            view[self._places[row]].zero_()

    def _roomiest(self, rows: int) -> int | None:
        return self.max_length if rows * self.max_length <= self.tokens else None

    def _see(self, capacity: int) -> None:
        self.capacity = capacity
        rows = self.rows
        self._places = list(range(rows))
        self.views = [
            arena[: rows * plane.heads * capacity * plane.dim].view(rows, plane.heads, capacity, plane.dim)
            for arena, plane in zip(self._arenas, self.planes, strict=True)
        ]

    def _lay_out(self, lengths: Sequence[int], capacity: int) -> None:
        """Change the row capacity in place: outwards from the last row when growing, from the first when shrinking."""
        self._put_in_order(lengths)
        before = self.views
        order = range(len(lengths))
        growing = capacity > self.capacity
        self.layout += 1
        self._see(capacity)
        for row in reversed(order) if growing else order:
            length = lengths[row]
            for old, new in zip(before, self.views, strict=True):
                new[row, :, :length] = old[row, :, :length].clone()

    def _put_in_order(self, lengths: Sequence[int]) -> None:
        """Let the first rows lie where their numbers say; the others mean nothing any more."""
        places = self._places
        for row, length in enumerate(lengths):
            place, other = places[row], places.index(row)
            if other == row:
                continue
            length = max(length, lengths[other] if other < len(lengths) else 0)
            for view in self.views:
                view[[row, place], :, :length] = view[[place, row], :, :length]
            places[row], places[other] = row, place


def _round_up(length: int) -> int:
    return -(-length // ROW_STEP) * ROW_STEP


def _zeros(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, because what is masked is multiplied by 0, and garbage may be NaN.

    On a CPU the system has them, which maps memory only as it is written: an idle engine is small whatever its bound.
    It is asked for small pages: the first token in a row would wait until a huge one is cleared for each layer.
    """
    if device.type != "cpu":
        return torch.zeros(count, dtype=dtype, device=device)
    memory = mmap.mmap(-1, count * dtype.itemsize, **PRIVATE)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a system without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype)
