"""The front's end of the pipe: starts the worker, sends commands, hands every update to the reply that waits for it."""

import asyncio
import itertools
import multiprocessing
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from service.embedded.arguments import EngineArguments
from service.embedded.errors import EngineError
from service.embedded.messages import (
    Abort,
    AddSequence,
    Answer,
    Command,
    Failed,
    Load,
    LoadAdapter,
    Ready,
    SamplingParams,
    StepDone,
    Stop,
    UnloadAdapter,
    Update,
)
from service.embedded.worker import run_worker


@dataclass(eq=False)
class Mailbox:
    """Updates of one request's sequences, in order, and who is to be woken when more come."""

    updates: list[Update] = field(default_factory=list)
    failure: str | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, update: Update) -> None:
        """Add one, and wake whoever collects."""
        self.updates.append(update)
        self.arrived.set()

    def fail(self, message: str) -> None:
        """No more will come, because of this."""
        self.failure = message
        self.arrived.set()

    async def collect(self) -> list[Update]:
        """All updates since the last call; waits for one. Raises EngineError when the engine has stopped."""
        await self.arrived.wait()
        self.arrived.clear()
        if self.failure is not None:
            raise EngineError(self.failure)
        updates, self.updates = self.updates, []
        return updates


@dataclass
class Totals:
    """What has happened since the start, for the metrics."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    requests: int = 0


class EngineLink:
    """A running worker. Create it inside the event loop, then `await ready`."""

    def __init__(self, arguments: EngineArguments) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=run_worker, args=(theirs, arguments), name="engine-worker")
        self._process.start()
        theirs.close()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe.fileno(), self._read)
        os.set_blocking(self._pipe.fileno(), True)  # uvloop undoes it: what came in pieces would look like the end
        self._numbers = itertools.count(1)
        self._boxes: dict[int, Mailbox] = {}
        self._tickets: dict[int, asyncio.Future[str | None]] = {}
        self.ready: asyncio.Future[Ready] = self._loop.create_future()  # EngineError when the model does not load
        self.load = Load()
        self.totals = Totals()
        self.failure: str | None = None
        self.on_failure: Callable[[], None] = lambda: None

    def start(
        self, prompt: list[int], params: SamplingParams, adapter: str | None, box: Mailbox, at_once: bool = False
    ) -> int:
        """Put a sequence in line; its updates come to `box`, each as soon as it is there if `at_once`.

        Returns its number.
        """
        if self.failure is not None:
            raise EngineError(self.failure)
        number = next(self._numbers)
        self._boxes[number] = box
        self.totals.prompt_tokens += len(prompt)
        self.totals.requests += 1
        self._send(AddSequence(number, prompt, params, adapter, at_once))
        return number

    def abort(self, number: int) -> None:
        """Stop a sequence and free its row; does nothing when it has ended."""
        if self._boxes.pop(number, None) is not None and self.failure is None:
            self._send(Abort(number))

    async def load_adapter(self, name: str, path: str) -> str | None:
        """None when the adapter serves, else why not."""
        return await self._ask(LoadAdapter(next(self._numbers), name, path))

    async def unload_adapter(self, name: str) -> str | None:
        return await self._ask(UnloadAdapter(next(self._numbers), name))

    def close(self) -> None:
        """End the worker."""
        self._loop.remove_reader(self._pipe.fileno())
        with suppress(OSError):  # it may be gone already
            self._pipe.send(Stop())
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    async def _ask(self, command: LoadAdapter | UnloadAdapter) -> str | None:
        if self.failure is not None:
            raise EngineError(self.failure)
        answer = self._tickets[command.ticket] = self._loop.create_future()
        self._send(command)
        return await answer

    def _send(self, command: Command) -> None:
        try:
            self._pipe.send(command)
        except OSError as error:
            raise EngineError("The engine's worker process is gone.") from error

    def _read(self) -> None:
        """The pipe has an event; the loop calls again while there are more."""
        try:
            event = self._pipe.recv()
        except (EOFError, OSError):
            event = Failed("The engine's worker process died.")
        match event:
            case StepDone():
                self.load = event.load
                self._deliver(event.updates)
            case Answer():
                answer = self._tickets.pop(event.ticket)
                if not answer.done():
                    answer.set_result(event.error)
            case Ready():
                self.ready.set_result(event)
            case Failed():
                self._fail(event.message)

    def _deliver(self, updates: list[Update]) -> None:
        for update in updates:
            box = self._boxes.get(update.sequence)
            if box is None:
                continue  # aborted in the meantime
            self.totals.generation_tokens += 1
            if update.finish is not None:
                del self._boxes[update.sequence]
            box.put(update)

    def _fail(self, message: str) -> None:
        self._loop.remove_reader(self._pipe.fileno())
        self.failure = message
        if not self.ready.done():
            self.ready.set_exception(EngineError(message))
        for box in self._boxes.values():
            box.fail(message)
        for answer in self._tickets.values():
            if not answer.done():
                answer.set_exception(EngineError(message))
        self.on_failure()
