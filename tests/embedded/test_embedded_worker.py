"""The worker's loop: adapters are prepared beside decoding, commands keep their order, failures are answered."""

import itertools
import pickle
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from service.embedded.engine import Engine
from service.embedded.lora import LoraAdapter, Rest
from service.embedded.messages import (
    Abort,
    AddSequence,
    Answer,
    Event,
    LoadAdapter,
    StepDone,
    Stop,
    UnloadAdapter,
    Update,
)
from service.embedded.worker import Worker
from tests.embedded.driving import GREEDY, Reference, build, tokens_of
from tests.embedded.models import save_adapter
from tests.fixtures.waiting import PATIENCE


@dataclass
class Running:
    """A worker in a thread of this process, and what it said."""

    pipe: Connection
    events: "queue.SimpleQueue[Event]"

    def next(self, kind: type[Event]) -> Event:
        """The next event of a kind; what comes before it is dropped."""
        while True:
            event = self.events.get(timeout=PATIENCE)
            if isinstance(event, kind):
                return event

    def next_updates(self) -> list[Update]:
        event = self.next(StepDone)
        assert isinstance(event, StepDone)
        return event.updates


@contextmanager
def working(engine: Engine, event_interval: float = 0.0) -> Iterator[Running]:
    ours, theirs = Pipe()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    thread = threading.Thread(target=Worker(engine, 64, events.put, event_interval).run, args=(theirs,))
    thread.start()
    try:
        yield Running(ours, events)
    finally:
        ours.send(Stop())
        thread.join(PATIENCE)
        assert not thread.is_alive()
        ours.close()


@pytest.fixture
def adapter(model_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter", model_of("llama"), seed=1)


def test_decoding_goes_on_while_an_adapter_is_prepared(
    model_of: Callable[[str], Path], adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(model_of("llama"))
    prepare, begun, may_end = engine.model.prepare, threading.Event(), threading.Event()

    def slowly(read: LoraAdapter, rest: Rest) -> object:
        begun.set()
        assert may_end.wait(PATIENCE)
        return prepare(read, rest)

    monkeypatch.setattr(engine.model, "prepare", slowly)
    with working(engine) as worker:
        worker.pipe.send(AddSequence(1, [5, 6, 7], replace(GREEDY, max_tokens=100)))
        worker.next_updates()
        worker.pipe.send(LoadAdapter(7, "v1", str(adapter)))
        assert begun.wait(PATIENCE)
        for _ in range(20):
            assert [update.sequence for update in worker.next_updates()] == [1]
        may_end.set()
        assert worker.next(Answer) == Answer(7)
        worker.pipe.send(AddSequence(2, [5, 6, 7], GREEDY, "v1"))
        tokens: list[int] = []
        while len(tokens) < GREEDY.max_tokens:
            tokens += tokens_of([update for update in worker.next_updates() if update.sequence == 2])
    assert tokens == Reference(model_of("llama"), adapter).greedy([5, 6, 7], GREEDY.max_tokens)[0]


def test_a_refused_adapter_is_answered_and_nothing_changes(model_of: Callable[[str], Path], tmp_path: Path) -> None:
    engine = build(model_of("llama"))
    with working(engine) as worker:
        worker.pipe.send(LoadAdapter(3, "v1", str(tmp_path)))
        answer = worker.next(Answer)
        assert isinstance(answer, Answer) and answer.ticket == 3
        assert "adapter_config.json is missing" in (answer.error or "")
        worker.pipe.send(AddSequence(1, [5], GREEDY))
        assert worker.next_updates()[0].sequence == 1
    assert engine.adapters == {}


def test_commands_take_effect_in_their_order(model_of: Callable[[str], Path], adapter: Path) -> None:
    with working(build(model_of("llama"))) as worker:
        worker.pipe.send(LoadAdapter(1, "v1", str(adapter)))
        worker.next(Answer)
        worker.pipe.send(AddSequence(1, [5], replace(GREEDY, max_tokens=5), "v1"))
        worker.pipe.send(UnloadAdapter(2, "v1"))
        worker.pipe.send(AddSequence(2, [5], GREEDY))
        worker.pipe.send(Abort(2))
        tokens: list[int] = []
        answers: list[Event] = []
        while len(tokens) < 5 or not answers:
            event = worker.events.get(timeout=PATIENCE)
            if isinstance(event, StepDone):
                tokens += tokens_of([update for update in event.updates if update.sequence == 1])
            else:
                answers.append(event)
    assert answers == [Answer(2)]
    assert tokens == Reference(model_of("llama"), adapter).greedy([5], 5)[0]


def test_tokens_wait_for_each_other_but_no_end_waits(
    model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an interval that never is over: the first token, the last, and those of who asked for each."""
    engine = build(model_of("llama"))
    engine.add(AddSequence(9, [5], replace(GREEDY, max_tokens=1)))
    with working(engine, event_interval=1e6) as worker:
        assert [update.sequence for update in worker.next_updates()] == [9]  # the interval begins
        worker.pipe.send(AddSequence(1, [5, 6], replace(GREEDY, max_tokens=20)))
        worker.pipe.send(AddSequence(2, [7, 8], replace(GREEDY, max_tokens=6), at_once=True))
        told: dict[int, list[int]] = {1: [], 2: []}
        while sum(map(sum, told.values())) < 26:
            updates = worker.next_updates()
            for sequence, counts in told.items():
                if count := sum(update.sequence == sequence for update in updates):
                    counts.append(count)
        step, steps, may_go_on = engine.step, itertools.count(1), threading.Event()

        def two_steps() -> list[Update]:
            """The third waits, so that the request is left in its midst however slow this thread is."""
            assert next(steps) <= 2 or may_go_on.wait(PATIENCE)
            return step()

        monkeypatch.setattr(engine, "step", two_steps)
        worker.pipe.send(AddSequence(3, [5, 6], replace(GREEDY, max_tokens=100)))
        assert [update.sequence for update in worker.next_updates()] == [3]
        worker.pipe.send(Abort(3))
        may_go_on.set()
        event = worker.next(StepDone)
        assert isinstance(event, StepDone) and event.updates == [] and event.load.running == 0
    assert told == {1: [1, 19], 2: [1] * 6}


def test_the_loop_ends_when_the_front_is_gone(model_of: Callable[[str], Path]) -> None:
    ours, theirs = Pipe()
    thread = threading.Thread(target=Worker(build(model_of("llama")), 64, lambda event: None).run, args=(theirs,))
    thread.start()
    ours.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_an_update_arrives_whole() -> None:
    update = Update(**{field.name: f"the {field.name}" for field in fields(Update)})  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(update)) == update
