"""LoRA on the general path: hooks on the linear layers add each adapter's product to its rows of the output."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from service.embedded.lora import LoraAdapter, Rest


@dataclass(eq=False)
class GeneralAdapter:
    """`products[module]`: down `(in, rank)` and up `(rank, out)`, the scale in the latter."""

    name: str
    products: dict[str, tuple[Tensor, Tensor]]

    @staticmethod
    def of(adapter: LoraAdapter, dtype: torch.dtype, device: torch.device, rest: Rest) -> "GeneralAdapter":
        products = {}
        for module, delta in adapter.deltas.items():
            products[module] = delta.down.t().to(device, dtype), (delta.up * delta.scale).t().to(device, dtype)
            rest()
        return GeneralAdapter(adapter.name, products)


class RowDeltas:
    """Hooks on every linear layer; which adapter is added to which rows is set around each forward pass."""

    def __init__(self, linears: Mapping[str, torch.nn.Module]) -> None:
        self._active: list[tuple[GeneralAdapter, Tensor | None]] = []  # None: all rows
        for name, part in linears.items():
            part.register_forward_hook(lambda _, inputs, output, name=name: self._add(name, inputs[0], output))

    @contextmanager
    def on_all_rows(self, adapter: GeneralAdapter | None) -> Iterator[None]:
        """Add one adapter, or none, to every row."""
        self._active = [] if adapter is None else [(adapter, None)]
        try:
            yield
        finally:
            self._active = []

    @contextmanager
    def on_rows(self, adapters: Sequence[GeneralAdapter | None], device: torch.device) -> Iterator[None]:
        """Add to each row the adapter that `adapters` names for it."""
        rows: dict[GeneralAdapter, list[int]] = {}
        for row, adapter in enumerate(adapters):
            if adapter is not None:
                rows.setdefault(adapter, []).append(row)
        self._active = [(adapter, torch.tensor(places, device=device)) for adapter, places in rows.items()]
        try:
            yield
        finally:
            self._active = []

    def _add(self, name: str, inputs: Tensor, output: Tensor) -> Tensor:
        for adapter, rows in self._active:
            product = adapter.products.get(name)
            if product is None:
                continue
            down, up = product
            if rows is None:
                output = output + (inputs @ down) @ up
            else:
                output = output.index_add(0, rows, (inputs[rows] @ down) @ up)
        return output
