"""A training by several processes, from where its first one stands: it starts the others and has them do the same.

The run's child process stays the only one that knows the store, writes and tells; it computes with rank 0 of
`learner.parallel`. What it asks of its trainer that takes all, it hands to its followers (`learner.follower`) first, on
their standard input, and then does itself. They die with it, by the end of that input and by the kernel's word. Where
one of them dies, the first process hears of it when it waits for that one's share, or, if not soon, is given up.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learner.batch import Progress
from learner.curate import Curated
from learner.trainer import Keep, Stage, Trainer
from service.errors import ProcessLost
from service.settings import Settings, available_cores

if TYPE_CHECKING:  # it takes torch, and seconds: not before there is something to train
    from learner.backbone_trainer import BackboneTrainer

FOLLOWER = "learner.follower"
MEETING = ".meeting"
"""In the run's folder, while it trains: by this file the processes find each other."""
END_SECONDS = 3.0
"""How long followers may take to end in the end."""
GRACE_SECONDS = 20.0
"""How long the first process may take to find out by itself that another is gone. A wait between GPUs never ends so."""

log = logging.getLogger("hone.learner")


class Team:
    """The followers of one attempt at a run; started with its first trainer. `give_up`: ends this process."""

    def __init__(self, settings: Settings, run_id: str, give_up: Callable[[], None]) -> None:
        self._settings, self._run_id, self._give_up = settings, run_id, give_up
        self._followers: list[subprocess.Popen[bytes]] = []
        self._meeting = settings.runs_folder / run_id / MEETING
        self._closing = False

    def trainer(self, parent: Path | None, keep: Keep, anchor: Path | None) -> Trainer:
        """As `learner.trainer.MakeTrainer`, with all processes of `learner.processes`. Raises TrainingFailed for more
        than there are GPUs, and ProcessLost when one of them dies on the way."""
        from learner import parallel
        from learner.backbone_trainer import BackboneTrainer

        if not self._followers:
            parallel.check(self._settings.learner.processes)
            self._meeting.unlink(missing_ok=True)  # an attempt before may have been killed
            self._start()
            parallel.join(0, self._settings.learner.processes, self._meeting)
        self.ask("make", parent, keep, anchor)
        return _TeamTrainer(self, BackboneTrainer(self._settings, parent, keep, self._run_id, anchor))

    def ask(self, what: str, *arguments: Any) -> None:
        """Have the followers do it; what they make of it stays with them. Raises ProcessLost."""
        for follower in self._followers:
            assert follower.stdin is not None
            try:
                follower.stdin.write(pickle.dumps((what, arguments)))
                follower.stdin.flush()
            except OSError as error:
                raise ProcessLost("A process that this training shares its work with has died.") from error

    def close(self) -> None:
        """End the followers, whatever they do."""
        self._closing = True
        for follower in self._followers:
            assert follower.stdin is not None
            with suppress(OSError):
                follower.stdin.close()
        for follower in self._followers:
            try:
                follower.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                follower.kill()
                follower.wait()
        if self._followers:
            from learner import parallel

            parallel.leave()
            self._meeting.unlink(missing_ok=True)

    def _start(self) -> None:
        processes = self._settings.learner.processes
        if processes > available_cores():
            log.warning("learner.processes is %d, and there are %d CPU cores.", processes, available_cores())
        for rank in range(1, processes):
            command = [sys.executable, "-P", "-m", "service.lifeline", str(os.getpid()), FOLLOWER]
            command += ["--rank", str(rank), "--meeting", str(self._meeting), "--run", self._run_id]
            follower = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._followers.append(follower)
            threading.Thread(target=self._watch, args=(rank, follower), daemon=True).start()
        self.ask("settings", self._settings)

    def _watch(self, rank: int, follower: subprocess.Popen[bytes]) -> None:
        assert follower.stdout is not None
        said = follower.stdout.read().decode(errors="replace").strip()  # as long as it lives
        code = follower.wait()
        if self._closing:
            return
        how = f"signal {-code}; was memory short?" if code < 0 else f"exit code {code}"
        why = f"{said.splitlines()[-1]} ({how})" if said else f"it said nothing ({how})"
        log.error("Process %d of the %d that train has died: %s", rank + 1, len(self._followers) + 1, why)
        time.sleep(GRACE_SECONDS)
        if not self._closing:
            self._give_up()


class _TeamTrainer:
    """The first process's trainer. What is asked of all is what shares out work, and what changes the policy; by what
    the first does alone they stand, since they may have a part of the base that it needs."""

    def __init__(self, team: Team, own: BackboneTrainer) -> None:
        self._team, self._own = team, own

    def write(self, method: str, lessons: Curated, folder: Path, progress: Progress) -> Curated:
        self._team.ask("write", method, lessons, folder)
        return self._own.write(method, lessons, folder, progress)

    def save(self, folder: Path, lessons: Curated) -> None:
        with self._others_by():
            self._own.save(folder, lessons)

    def probes(self, lessons: Curated) -> list[dict[str, Any]]:
        with self._others_by():
            return self._own.probes(lessons)

    def train(self, stages: tuple[Stage, ...], lessons: Curated, checkpoint: Path, progress: Progress) -> None:
        self._team.ask("train", stages, lessons, checkpoint)
        self._own.train(stages, lessons, checkpoint, progress)

    def restore(self, folder: Path) -> None:
        self._team.ask("restore", folder)
        self._own.restore(folder)

    def evaluate(self, stages: tuple[Stage, ...], lessons: Curated, progress: Progress) -> dict[str, Any]:
        self._team.ask("evaluate", stages, lessons)
        return self._own.evaluate(stages, lessons, progress)

    @contextmanager
    def _others_by(self) -> Iterator[None]:
        from learner import parallel

        self._team.ask("meet")
        try:
            yield
        finally:  # a full disk is waited for, and what the first does alone is tried again
            parallel.meet()
