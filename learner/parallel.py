"""One training by several processes that share out its work (data parallelism), each with a base of its own, or with a
part of one (`learner.sharding`).

All run the same code with the same seeds, so every choice is the same in all of them; only work is shared out: of the
examples of a step, the prompts to sample on and the replies to score each process takes its share, and what they make
of it is put together in order (`each`, `rows`) or summed (`totals`, `learner.methods.optimizer`). Whatever is put
together is the same number in all. With one process nothing of this does anything, and `accelerate`, which brings the
processes together (gloo on a CPU, NCCL between GPUs), isn't imported.

    parallel.join(rank, world, meeting)                 # once in each process
    scores = parallel.rows(examples, scores_of_some)    # (len(examples), …), everywhere

What works on its share must not share out again: while it runs there is `alone()`, and all of these do all they are
asked for.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from service.errors import ProcessLost, TrainingFailed

WAIT_SECONDS = 600.0
"""How long a process waits for the others at one place before it takes them for lost. They do the same amount of work,
but one may still be loading its model."""
LOOPBACK = "lo"

Item = TypeVar("Item")
Result = TypeVar("Result")

_rank, _world, _alone, _making = 0, 1, False, False
_answer: Callable[[], None] | None = None


def check(world: int) -> int:
    """How many GPUs there are for so many processes. Raises TrainingFailed for some, but fewer."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and world > gpus:
        raise TrainingFailed(
            f"learner.processes is {world}, but this machine has {gpus} GPU{'s' * (gpus > 1)}.",
            f"Set it to {gpus} at most: each process needs a GPU of its own.",
        )
    return gpus


def join(rank: int, world: int, meeting: Path) -> None:
    """Meet the other processes of this machine at a file that is not there yet; the first has rank 0.

    Each takes the GPU of its rank, where there are any. Raises what `check` does, and ProcessLost when the others
    don't come.
    """
    global _rank, _world
    from accelerate import PartialState

    gpus = check(world)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(number) for name, number in ranks.items()})
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # else accelerate chooses how many
    if sys.platform == "linux":  # nobody else's machine is to reach these, who believe whatever they are sent
        os.environ.update({"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK})
    patience = timedelta(seconds=WAIT_SECONDS)
    with lost_with_the_others():
        store = torch.distributed.FileStore(str(meeting), world)  # type: ignore[attr-defined]  # documented all the same
        store.set_timeout(patience)
        PartialState(
            cpu=not gpus, backend="cuda:nccl,cpu:gloo" if gpus else "gloo", store=store, rank=rank, world_size=world,
            timeout=patience,
        )  # fmt: skip
    _rank, _world = rank, world


def leave() -> None:
    """Say goodbye; there may be others afterwards, but not in this process."""
    global _rank, _world, _answer
    if _world > 1:
        _rank, _world, _answer = 0, 1, None
        torch.distributed.destroy_process_group()


def world() -> int:
    """How many processes share the work that comes now."""
    return 1 if _alone else _world


def rank() -> int:
    """Which of them this is, from 0."""
    return 0 if _alone else _rank


def is_first() -> bool:
    """Whether this is the process that writes, asks and tells for all."""
    return _rank == 0


def device() -> torch.device | None:
    """This process's own; None where there is no other to leave one to."""
    if _world == 1:
        return None
    from accelerate import PartialState

    return PartialState().device


@contextmanager
def alone() -> Iterator[None]:
    """For work that only this process does: nothing in it waits for the others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def answer_by(answer: Callable[[], None]) -> None:
    """While this process waits for the others it gives them what they ask it for: `answer`, which returns when none of
    them is at work any more."""
    global _answer
    _answer = answer


def meet() -> None:
    """Wait until all have come here. Where each has a part of the base alone, whoever works needs the others to wait
    like this: all that is put together or summed does so first."""
    if _world > 1 and _answer is not None:
        _answer()


def in_turn(make: Callable[[], Result]) -> Result:
    """What each process makes for itself, one after the other: of what takes much memory for a while."""
    made: list[Result] = []
    for turn in range(world()):
        if turn == rank():
            made.append(make())
        if world() > 1:
            _gathered(None)
    return made[0]


def share(items: Sequence[Item]) -> Sequence[Item]:
    """Those that this process takes: every so many-th."""
    return items if world() == 1 else items[_rank :: world()]


def each(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]], size: Callable[[Item], int] = lambda _: 0
) -> list[Result]:
    """What `work` makes of each item, in their order; it is called with this process's share, and returns as many.

    `size`: how much work an item is; shares have as much of it as each other, nearly.
    """
    if world() == 1 or not items:
        with alone():
            return list(work(items))
    shares = _places(items, size)
    with alone():
        found = work([items[place] for place in shares[_rank]]) if shares[_rank] else ()
    together = [
        (place, result)
        for places, part in zip(shares, _gathered(list(found)), strict=True)
        for place, result in zip(places, part, strict=True)
    ]
    return [result for _, result in sorted(together, key=lambda pair: pair[0])]


def rows(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Tensor], size: Callable[[Item], int] = lambda _: 0
) -> Tensor:
    """As `each`, for work that makes a tensor with a row for each item: (len(items), …), on the CPU where there are
    other processes."""
    if world() == 1 or not items:
        with alone():
            return work(items)
    shares = _places(items, size)
    with alone():
        found = work([items[place] for place in shares[_rank]]).cpu() if shares[_rank] else None
    parts = [part for part in _gathered(found) if part is not None]  # the last have no share where items are few
    together = parts[0].new_empty(len(items), *parts[0].shape[1:])
    for places, part in zip(shares, parts, strict=False):
        together[places] = part
    return together


def from_first(make: Callable[[], Result]) -> Result:
    """What the first process makes, for all: of a file that only it may read, or what it alone may ask for. Where that
    takes minutes it calls `still_at_it` meanwhile."""
    global _making
    if world() == 1:
        return make()
    if is_first():
        _making = True
        try:
            with alone():
                made = make()
        finally:
            _making = False
        _broadcast(made)
        return made
    while isinstance(heard := _broadcast(None), _NotYet):
        pass
    received: Result = heard
    return received


def still_at_it() -> None:
    """For what `from_first` calls: the others are to go on waiting."""
    if _making:
        _broadcast(_NotYet())


def summed(numbers: Tensor) -> Tensor:
    """Over all processes, in one order: a tensor of the same shape, bit for bit the same in all."""
    if world() == 1:
        return numbers
    from accelerate.utils import reduce

    meet()
    with lost_with_the_others():
        total: Tensor = reduce(numbers, "sum")
    return total


def totals(of_mine: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """Sums over all processes, name by name; a process may lack some names."""
    found: dict[str, tuple[float, ...]] = {}
    for part in [of_mine] if world() == 1 else _gathered(dict(of_mine)):
        for name, numbers in part.items():
            so_far = found.get(name, (0.0,) * len(numbers))
            found[name] = tuple(a + b for a, b in zip(so_far, numbers, strict=True))
    return found


class _NotYet:
    """Sent while there is nothing else to send."""


def _broadcast(message: object) -> Any:
    """From the first process to all; returns what it sent."""
    from accelerate.utils import broadcast_object_list

    meet()
    sent = [message]
    with lost_with_the_others():
        broadcast_object_list(sent)
    return sent[0]


def _gathered(mine: Result) -> list[Result]:
    """By rank."""
    from accelerate.utils import gather_object

    meet()
    with lost_with_the_others():
        return list(gather_object([mine]))


def check_alike(weights: Mapping[str, Tensor]) -> None:
    """Whether all processes have come to the same, bit for bit. Raises TrainingFailed: what any of them did by itself
    since would have been of another training."""
    if world() == 1:
        return
    raw = (tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in weights.values())
    digest = hashlib.sha256(b"".join(raw)).hexdigest()
    if len(set(_gathered(digest))) > 1:
        raise TrainingFailed(
            "The processes that share this training have come to different weights.",
            "Are all of its GPUs of one kind? Otherwise set learner.processes to 1.",
        )


def _places(items: Sequence[Item], size: Callable[[Item], int]) -> list[list[int]]:
    """Whose share is what, by rank: in order of size they go round."""
    order = sorted(range(len(items)), key=lambda place: size(items[place]))
    return [order[rank :: world()] for rank in range(world())]


@contextmanager
def lost_with_the_others() -> Iterator[None]:
    """What torch says of a process that is gone is of its sockets, as a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            f"A process that shares this training died, or was silent for {WAIT_SECONDS:g} seconds.",
            "The run's log says which, and why.",
        ) from error
