"""The base's layers shared out over the processes that train (fully sharded data parallelism): each keeps a part of
every layer's weights, and has a layer as a whole only while it computes with it.

The parts, and when a layer is put together and freed again, are FSDP2's (`torch.distributed.fsdp.fully_shard`; Zhao et
al., arXiv 2304.11277, after ZeRO-3, arXiv 1910.02054), on the process group that `accelerate` made. Its own FSDP plugin
does nothing on a CPU, where this must work as well. What trains is small, adapters and heads: every process has all of
it, and gradients are summed as without sharding. Embeddings and output layer, too, are whole in each: they are often
one tensor, the output layer is read a chunk of positions at a time, and of a base of 32 billion parameters they are a
twentieth.

Departure: FSDP asks of all processes to run the same layers in the same order. Ours have different replies to sample,
to score and to learn from, more or fewer of them, some none, and one that runs out of memory takes a step in halves. So
before a layer is put together all agree on which, the lowest of those that are wanted; whoever wants another one, or
has nothing to do (`parallel.meet`), gives its part, and who is ahead waits until the others have come as far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather  # as `set_custom_all_gather` takes it
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from learner import parallel
from service.errors import TrainingFailed


def load_in_parts(load: Callable[[], Any], device: torch.device) -> Any:
    """The base that `load` brings into the machine's memory, with this process's part of its layers on the device.

    All processes are to call it; they load one after the other. Raises TrainingFailed where it can't be told what the
    model's layers are, and what `load` raises.
    """
    mesh = init_device_mesh(device.type, (parallel.world(),), mesh_dim_names=("fsdp",))
    base, exchange = parallel.in_turn(lambda: _share_out(load(), mesh, device))
    parallel.answer_by(exchange.lend)  # all from here on: before, the others had nothing to lend
    return base


def layers_of(base: nn.Module) -> list[nn.Module]:
    """What is shared out, each by itself. Raises TrainingFailed where a model has no layers that are known as such."""
    layers: list[nn.Module] = [one for one in base.modules() if isinstance(one, GradientCheckpointingLayer)]
    if not layers:
        raise TrainingFailed(
            "It can't be told what this model's layers are, to share them out between processes.",
            "Set learner.sharding to none.",
        )
    return layers


def _share_out(base: Any, mesh: DeviceMesh, device: torch.device) -> tuple[Any, _Exchange]:
    base.requires_grad_(False)
    shared = [fully_shard(layer, mesh=mesh, reshard_after_forward=True) for layer in layers_of(base)]
    decoder = base.get_decoder()
    whole = {parameter for parameter in decoder.parameters() if not isinstance(parameter, DTensor)}
    fully_shard(decoder, mesh=mesh, ignored_params=whole)
    decoder.register_forward_pre_hook(_begin_anew, prepend=True)
    # By the name of its class, which FSDP changes, transformers finds what it can give back beside its last states.
    _CAN_RECORD_REGISTRY[str(type(decoder))] = decoder._can_record_outputs
    exchange = _Exchange(shared, device)
    for number, layer in enumerate(shared):
        layer.set_custom_all_gather(_Gather(exchange, number))
    return base.to(device), exchange


def _begin_anew(decoder: Any, _: tuple[Any, ...]) -> None:
    """What FSDP remembers of forward passes lasts until the next backward pass: while replies are sampled it would grow
    without end, and after one that ran out of memory it would be wrong."""
    if decoder._get_fsdp_state()._is_root:  # None before the first of all
        decoder.reset_iter_state()


class _Exchange:
    """Puts layers together, in an order that all processes agree on."""

    def __init__(self, layers: Sequence[FSDPModule], device: torch.device) -> None:
        self._layers = layers
        self._rank, self._world = distributed.get_rank(), distributed.get_world_size()
        size = max(sum(part.nbytes for part in _parts(layer)) for layer in layers)
        self._room = torch.empty(size * self._world, dtype=torch.uint8, device=device)
        """For a layer that others want: taken once, so that lending can't run out of memory in their midst."""

    def gather(self, number: int, whole: Tensor, part: Tensor) -> None:
        """Put a layer together when its turn has come, of parts of P bytes: (P,) → (processes · P,)."""
        with parallel.lost_with_the_others():
            while (turn := self._agree(number)) != number:
                self._lend(turn)
            distributed.all_gather_single(whole, part)

    def lend(self) -> None:
        """Give this process's part of whatever layer the others want, until none of them wants one."""
        with parallel.lost_with_the_others():
            while (turn := self._agree(len(self._layers))) < len(self._layers):
                self._lend(turn)

    def _agree(self, wanted: int) -> int:
        """The lowest number of a layer that a process wants."""
        lowest = torch.tensor(wanted)  # on the CPU, whatever the device: who is asked answers at once
        distributed.all_reduce(lowest, distributed.ReduceOp.MIN)
        return int(lowest)

    def _lend(self, number: int) -> None:
        parts = _parts(self._layers[number])
        size = sum(part.nbytes for part in parts)
        whole = self._room[: size * self._world]
        mine = whole[size * self._rank :][:size]
        torch.cat([part.view(torch.uint8) for part in parts], out=mine)
        distributed.all_gather_single(whole, mine)
        if whole.is_cuda:  # the next to be lent is written to the same place, maybe on another stream
            torch.cuda.current_stream().synchronize()


class _Gather(AllGather):
    """How FSDP puts one layer together."""

    def __init__(self, exchange: _Exchange, number: int) -> None:
        self._exchange, self._number = exchange, number

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: distributed.ProcessGroup,
        async_op: bool = False,
    ) -> None:
        self._exchange.gather(self._number, output_tensor.view(torch.uint8), input_tensor.view(torch.uint8))


def _parts(layer: FSDPModule) -> list[Tensor]:
    """This process's part of a layer's weights, in the order in which FSDP sends them, whether or not the layer is put
    together right now: flat, padded to the size of the largest part."""
    groups = layer._get_fsdp_state()._fsdp_param_groups
    return [parameter._sharded_param_data for group in groups for parameter in group.fsdp_params]
