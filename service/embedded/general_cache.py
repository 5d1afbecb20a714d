"""transformers' cache interface over rows of our `KvCache`: layers write in place and get views back."""

from typing import Protocol

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from service.embedded.errors import EngineError
from service.embedded.kv_cache import KvCache, Plane
from service.embedded.model import DecodeBatch


class StepRows(Protocol):
    """The rows that one forward pass writes and reads. `past`: tokens that the longest of them had before."""

    @property
    def past(self) -> int: ...

    @property
    def layers(self) -> int: ...

    def write(self, plane: int, states: Tensor) -> Tensor:
        """Keep `states` `(rows, heads, t, dim)`; returns all that the rows hold, `(rows, heads, past + t, dim)`."""
        ...


class OneRow:
    """The next `count` tokens of a single row."""

    def __init__(self, cache: KvCache, row: int, start: int, count: int) -> None:
        self._cache, self._row, self.past, self._end = cache, row, start, start + count
        self.layers = len(cache.planes) // 2

    def write(self, plane: int, states: Tensor) -> Tensor:
        view = self._cache.views[plane][self._row : self._row + 1]
        view[:, :, self.past : self._end] = states
        return view[:, :, : self._end]


class ManyRows:
    """One token in each row of a batch."""

    def __init__(self, batch: DecodeBatch) -> None:
        self._batch = batch
        self.past = batch.longest - 1
        self.layers = len(batch.cache.planes) // 2

    def write(self, plane: int, states: Tensor) -> Tensor:
        batch = self._batch
        view = batch.cache.views[plane]
        heads, dim = view.shape[1], view.shape[3]
        view.view(-1, dim).index_put_((batch.places(heads),), states[:, :, 0])
        return view[: batch.rows, :, : batch.longest]


class _RowsLayer(CacheLayerMixin):
    """One layer: plane 2n holds its keys, plane 2n + 1 its values."""

    is_sliding = False

    def __init__(self, rows: StepRows, number: int) -> None:
        super().__init__()
        self._rows, self._number = rows, number
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the arena is there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return self._rows.write(2 * self._number, key_states), self._rows.write(2 * self._number + 1, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._rows.past + query_length, 0

    def get_seq_length(self) -> int:
        return self._rows.past

    def get_max_length(self) -> int:
        return -1


class RowsCache(Cache):
    """A transformers cache for one forward pass over `rows`."""

    def __init__(self, rows: StepRows) -> None:
        super().__init__(layers=[_RowsLayer(rows, number) for number in range(rows.layers)])


def cache_planes(seen: DynamicCache) -> list[Plane]:
    """Planes for what a forward pass put into `seen`: keys and values of every layer in turn."""
    planes = []
    for number, layer in enumerate(seen.layers):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        recurrent = getattr(layer, "conv_states", None) is not None or not isinstance(keys, torch.Tensor)
        if recurrent or not isinstance(keys, torch.Tensor) or not isinstance(values, torch.Tensor):
            raise EngineError(
                f"layer {number} keeps no keys and values alone: the embedded engine serves no recurrent and no hybrid "
                "models",
                "vLLM serves many of them: `hone up --engine vllm`.",
            )
        planes += [Plane(keys.shape[1], keys.shape[3]), Plane(values.shape[1], values.shape[3])]
    return planes
