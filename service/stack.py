"""Engine, service and learner together on one machine: what `hone up` runs.

The three start side by side, but beside vLLM the learner only once it is ready: vLLM measures at its start how much of
the GPU is free. The service's listening socket belongs to the supervisor: while a crashed service starts again, callers
wait instead of being refused.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx2

from service.auth import CONSOLE, is_loopback, load_secret
from service.engine_program import engine_program
from service.errors import Conflict, SettingsError
from service.listening import free_port, listen, port_of
from service.settings import ENVIRONMENT_PREFIX, Settings
from service.store.queries import keys
from service.store.session import Store
from service.supervisor import Program, Supervisor

LOCK = "up.lock"
LOOK_SECONDS = 0.1
OTHER_NAME = f"{ENVIRONMENT_PREFIX}ENGINE__URL"
"""What `engine.urls` may be called, too: said twice it would be an error."""
FIRST_TELL_SECONDS = 30.0
"""Of a start, after which it is told what is waited for; told again after twice that, and so on."""

_log = logging.getLogger(__name__)


class Stack:
    """Everything under one supervisor. `engine_urls` and `url` are known once it is made.

    `pages_problem`, once it is ready: why there are no pages, where they should be; the API answers all the same.
    """

    def __init__(self, settings: Settings, learner: bool = True) -> None:
        self._engine: Program | None = None
        self.engine_urls = settings.engine.urls or (f"http://127.0.0.1:{free_port()}",)
        if not settings.engine.urls:
            self._engine = engine_program(settings, int(self.engine_urls[0].rpartition(":")[2]))
        self._listener = listen(settings.server.host, settings.server.port)
        port = port_of(self._listener)
        self.settings = settings.model_copy(update={"server": settings.server.model_copy(update={"port": port})})
        self.url = self.settings.server.local_url
        self._learner = learner
        self._waits_for_engine: Program | None = None
        self.pages_problem: str | None = None
        self.supervisor = Supervisor(settings.home / "logs", self._environment())

    @property
    def engine_arguments(self) -> Sequence[str]:
        """What the engine is started with; nothing where engines run elsewhere."""
        return () if self._engine is None else self._engine.arguments

    def start(self) -> None:
        """Start everything, but for a learner that has to wait for the engine; returns at once."""
        if self._engine is not None:
            self.supervisor.start(self._engine)
        self.supervisor.start(self._service_program())
        if self._learner:
            learner = Program("learner", "service.cli", ("learn", *self._home_flag()), 10.0)
            if self._engine is not None and self.settings.engine.kind == "vllm":
                self._waits_for_engine = learner
            else:
                self.supervisor.start(learner)

    def wait_until_ready(self, stopping: threading.Event) -> bool:
        """Wait until chats are answered and the pages have settled, then start a learner that had to wait for that.

        False when it was told to stop. There is no deadline: a large model may have to be downloaded first. Raises
        ProgramEnded, with its last words, when something can't start.
        """
        began, tell_after = time.monotonic(), FIRST_TELL_SECONDS
        with httpx2.Client(base_url=self.url, timeout=5.0, trust_env=False, verify=False) as http:
            while not stopping.wait(LOOK_SECONDS):
                self.supervisor.check_started()
                if (missing := self._missing(http)) is None:
                    if self._waits_for_engine is not None:
                        self.supervisor.start(self._waits_for_engine)
                    return True
                if (waited := time.monotonic() - began) >= tell_after:
                    _log.warning("After %.0f s Hone still waits for %s.", waited, missing)
                    tell_after *= 2
        return False

    def _missing(self, http: httpx2.Client) -> str | None:
        """What has to be there before chats are answered, and where to look; None when they are."""
        logs = self.settings.home / "logs"
        try:
            health = http.get("/health").json()
        except (httpx2.HTTPError, ValueError):
            health = {}
        if health.get("store") not in (None, "ok"):
            return f"the store: {health['store']}"
        if health.get("engine") == "not ready":
            if self._engine is None:
                return f"an engine at {' or '.join(self.engine_urls)}: {logs / 'service.log'} says why"
            return f"the engine: {logs / 'engine.out'} says how far it is"
        is_up = health.get("status") in ("ok", "degraded") or health.get("constitution", "ok") != "ok"  # is told
        if is_up and (pages := health.get("pages")) != "starting":
            self.pages_problem = None if pages in ("ok", None) else pages
            return None
        return f"the service: {logs / 'service.log'} says how far it is"

    def watch(self, stopping: threading.Event) -> None:
        """Keep everything running until told to stop."""
        while not stopping.wait(LOOK_SECONDS):
            self.supervisor.look()

    def stop(self) -> None:
        """Learner, service, engine, in this order."""
        self._listener.close()
        self.supervisor.stop()

    def _service_program(self) -> Program:
        descriptor = self._listener.fileno()
        engines = (part for url in self.engine_urls for part in ("--engine-url", url))
        flags = ("serve", *self._home_flag(), *engines, "--listener", str(descriptor))
        return Program("service", "service.cli", flags, 15.0, files=(descriptor,))

    def _home_flag(self) -> tuple[str, ...]:
        return "--home", str(self.settings.home)

    def _environment(self) -> dict[str, str]:
        """Ours, with every setting, so that all processes agree whatever a flag said."""
        others = {name: value for name, value in os.environ.items() if name.upper() != OTHER_NAME}
        return others | as_environment(self.settings)


def as_environment(settings: Settings) -> dict[str, str]:
    """Every setting as an environment variable; those that are None or empty can't be said and stay away."""
    variables = {}
    for section, values in settings.model_dump(exclude={"home"}).items():
        for key, value in values.items():
            if value is not None and value != ():
                variables[f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()] = _as_text(value)
    return variables


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def prepare_home(settings: Settings) -> None:
    """Make the home folder and its secret. Raises SettingsError when it can't be written."""
    load_secret(settings.home)
    try:
        (settings.home / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise SettingsError(f"Can't write to {settings.home}: {error.strerror}.", "Choose another --home.") from error


@contextmanager
def only_one(home: Path) -> Iterator[Callable[[str, Sequence[str]], None]]:
    """Hold the home's lock: two stacks over one home would fight over it. Raises Conflict.

    Call what it yields with the stack's URL and its engines', so that `running_at` and `engines_at` know.
    """
    lock: IO[bytes] = (home / LOCK).open("ab", buffering=0)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"Hone runs already over {home}.", "Stop it, or choose another --home.") from None
        lock.truncate(0)

        def tell(url: str, engine_urls: Sequence[str]) -> None:
            lock.write("\n".join((url, *engine_urls)).encode())

        yield tell


def running_at(home: Path) -> str | None:
    """Where the `hone up` that runs over this home answers; None when there is none."""
    return next(iter(_told(home)), None)


def engines_at(home: Path) -> tuple[str, ...]:
    """The engines of the `hone up` that runs over this home; none when there is none."""
    return _told(home)[1:]


def _told(home: Path) -> tuple[str, ...]:
    """What the holder of the home's lock says of itself: its URL, then its engines'."""
    try:
        with (home / LOCK).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # it is held: somebody runs
                return tuple(lock.read().decode().splitlines())
    except OSError:
        pass
    return ()


def operator_link(settings: Settings, store: Store) -> str | None:
    """The link that makes a browser an operator's; None after the first start, which makes the key in it.

    Make it when it can be shown: nobody can read it again.
    """
    if not is_loopback(settings.server.host):
        return None
    with store.begin() as tx:
        if any(key.name == CONSOLE for key in keys.list_keys(tx)):
            return None
        return f"{settings.server.local_url}/operator?key={keys.create_key(tx, 'operator', CONSOLE)}"


def socket_of(descriptor: int) -> socket.socket:
    """The listening socket that the supervisor handed on."""
    return socket.socket(fileno=descriptor)
