"""A process that computes its share of a training and does nothing else, started by `learner.team`.

    python -m learner.follower --rank RANK --meeting FILE --run RUN

It has a trainer of its own, does with it what the first process does with its own, and ends with that process. What
goes wrong it writes to its standard error, the run's log, and in one line to its standard output.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from learner.child import set_up_log
from service.settings import Settings

log = logging.getLogger("hone.learner")

Asked = tuple[str, tuple[Any, ...]]
"""What the first process does now, and with what."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m learner.follower", description=__doc__)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--meeting", type=Path, required=True)
    parser.add_argument("--run", required=True)
    arguments = parser.parse_args()
    set_up_log()
    logging.getLogger().setLevel(logging.WARNING)  # what is told of the training the first process tells
    asked: SimpleQueue[Asked] = SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    try:
        follow(asked, arguments.rank, arguments.meeting, arguments.run)
    except Exception as error:
        log.exception("Process %d of this training died.", arguments.rank + 1)
        sys.stdout.write(f"{error}\n")
        sys.stdout.flush()
    return 1


def follow(asked: SimpleQueue[Asked], rank: int, meeting: Path, run_id: str) -> None:
    """Do what is asked for, for ever. Whatever goes wrong in it comes through."""
    import torch

    from learner import parallel
    from learner.backbone_trainer import BackboneTrainer
    from learner.subnormals import flush_subnormals

    flush_subnormals()
    settings: Settings = asked.get()[1][0]
    torch.set_num_threads(settings.learner.training_threads)
    parallel.join(rank, settings.learner.processes, meeting)
    trainer: BackboneTrainer | None = None
    while True:
        what, given = asked.get()
        if what == "make":
            parent, keep, anchor = given
            trainer = BackboneTrainer(settings, parent, keep, run_id, anchor)
            continue
        assert trainer is not None, "There is nothing to train with yet."
        match what:
            case "write":
                method, lessons, folder = given
                trainer.write(method, lessons, folder, _silence)
            case "train":
                stages, lessons, checkpoint = given
                trainer.train(stages, lessons, checkpoint, _silence)
            case "evaluate":
                stages, lessons = given
                trainer.evaluate(stages, lessons, _silence)
            case "restore":
                (folder,) = given
                trainer.restore(folder)
            case "meet":
                parallel.meet()


def _silence(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
    pass


def _listen(asked: SimpleQueue[Asked]) -> None:
    """The end of the input means that the first process has ended: nothing that is done here is of use then."""
    try:
        while True:
            asked.put(pickle.load(sys.stdin.buffer))
    except (EOFError, pickle.UnpicklingError):
        os._exit(0)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the libraries' own goodbyes would wait for the others
