"""The worker process: reads commands from the pipe, steps the engine for ever, reports what the steps have brought.

It is a process of its own so that writing HTTP never waits for Python's lock while the model computes. Its life ends
with its parent's: the pipe closes. Adapters are read and prepared by a thread beside the decoding loop, a matrix at a
time, and attached between two steps.
"""

import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from service.embedded.arguments import EngineArguments
from service.embedded.errors import AdapterRefused
from service.embedded.messages import (
    Abort,
    AddSequence,
    Answer,
    Command,
    Event,
    Failed,
    LoadAdapter,
    StepDone,
    Stop,
    UnloadAdapter,
)
from service.embedded.outbox import Outbox
from service.errors import HoneError

if TYPE_CHECKING:  # torch loads in the worker alone, once it runs
    from service.embedded.engine import Engine
    from service.embedded.model import Adapter

SWITCH_INTERVAL = 0.0002  # seconds a thread may keep Python's lock: loading an adapter must not hold up decoding
LEAST_URGENT = 19  # as `nice` counts: for a thread that loads, for the same reason
REST = 0.0005  # seconds that loading stands still after every matrix, while others decode, for the same reason


@dataclass(frozen=True)
class Attach:
    """The loading thread has prepared an adapter."""

    ticket: int
    adapter: "Adapter"


def run_worker(pipe: Connection, arguments: EngineArguments) -> None:
    """The process's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # both go to the whole process group; the parent says when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        import torch

        from service.embedded.assemble import assemble

        torch.set_flush_denormal(True)  # attention's least shares times values would be subnormal, and very slow
        engine, ready = assemble(arguments)
        gc.freeze()  # a collection that looks through all of torch would hold up decoding
        pipe.send(ready)
        Worker(engine, arguments.max_lora_rank, pipe.send, arguments.event_interval).run(pipe)
    except (BrokenPipeError, ConnectionResetError):
        return
    except HoneError as error:
        pipe.send(Failed(str(error)))
    except Exception as error:
        traceback.print_exc()
        pipe.send(Failed(str(error) or type(error).__name__))


class Worker:
    """One engine, the commands that reach it, and where its events go."""

    def __init__(
        self, engine: "Engine", max_lora_rank: int, send: Callable[[Event], None], event_interval: float = 0.0
    ) -> None:
        self._engine = engine
        self._max_lora_rank = max_lora_rank
        self._send = send
        self._outbox = Outbox(event_interval)
        self._inbox: queue.SimpleQueue[Command | Attach | Answer] = queue.SimpleQueue()
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="load-adapter", initializer=_step_back)

    def run(self, pipe: Connection) -> None:
        """Step until told to stop, or until the pipe closes because the parent is gone."""
        threading.Thread(target=self._read, args=(pipe,), daemon=True, name="read-commands").start()
        engine = self._engine
        reported = engine.load
        while self._obey():
            updates = self._outbox.exchange(engine.step(), time.monotonic())
            if updates or engine.idle:
                load = engine.load
                if updates or load != reported:
                    self._send(StepDone(updates, load))
                reported = load

    def _read(self, pipe: Connection) -> None:
        try:
            while True:
                self._inbox.put(pipe.recv())
        except (EOFError, OSError):
            self._inbox.put(Stop())

    def _obey(self) -> bool:
        """Carry out what has come in, waiting for it when there is nothing else to do; False when it is time to go."""
        while self._engine.idle or not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, Stop):
                return False
            self._carry_out(command)
            if self._inbox.empty():
                break
        return True

    def _carry_out(self, command: Command | Attach | Answer) -> None:
        match command:
            case AddSequence():
                if command.at_once:
                    self._outbox.never_hold(command.sequence)
                self._engine.add(command)
            case Abort():
                self._engine.abort(command.sequence)
                self._outbox.forget(command.sequence)
            case LoadAdapter():
                self._loading.submit(self._load, command)
            case UnloadAdapter():
                self._engine.detach(command.name)
                self._send(Answer(command.ticket))
            case Attach():
                self._engine.attach(command.adapter)
                self._send(Answer(command.ticket))
            case Answer():
                self._send(command)

    def _load(self, command: LoadAdapter) -> None:
        """Read, check and prepare an adapter, in the loading thread; the decoding loop then takes it over."""
        from service.embedded.lora import read_adapter

        model = self._engine.model
        try:
            adapter = read_adapter(
                command.name, Path(command.path), model.linear_shapes(), self._max_lora_rank, self._rest
            )
            self._inbox.put(Attach(command.ticket, model.prepare(adapter, self._rest)))
        except AdapterRefused as refused:
            self._inbox.put(Answer(command.ticket, str(refused)))
        except Exception as error:
            traceback.print_exc()
            self._inbox.put(Answer(command.ticket, f"{command.path} could not be loaded: {error}"))

    def _rest(self) -> None:
        if not self._engine.idle:
            time.sleep(REST)


def _step_back() -> None:
    """Let others have the cores first, before this thread of theirs."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        with suppress(OSError):  # a sandbox may forbid it; adapters are loaded all the same
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST_URGENT)
