"""The process that works on one run, started by `learner.daemon`, which supervises it.

    python -m learner.child --home HOME --run RUN --fence FENCE

It steps back for chat, ends with its daemon, and ends the run as failed where trying again would not help; whatever
else it dies of is left to the daemon, which has it tried again.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from learner.base_tokenizer import context_length, reply_tokenizer
from learner.cycle import Cycle
from learner.run_progress import Stopped
from learner.team import Team
from learner.trainer import Keep, Trainer, settings_of
from service.errors import BadInput, EngineUnavailable, HoneError, LeaseLost, ProcessLost, StoreError
from service.settings import Settings, load_settings
from service.store.queries import runs
from service.store.session import Store

log = logging.getLogger("hone.learner")

STOPPED, LOST, CRASHED = 75, 76, 70
"""Exit codes: asked to stop (the run goes on later), the lease is gone, died of an error nobody foresaw."""


def main() -> int:
    """The child process: settings come as one line on stdin, and the end of stdin means that the daemon has died."""
    parser = argparse.ArgumentParser(prog="python -m learner.child", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--fence", type=int, required=True)
    arguments = parser.parse_args()
    set_up_log()
    line = sys.stdin.readline()
    settings = Settings.model_validate_json(line) if line.strip() else load_settings(arguments.home)
    threading.Thread(target=_die_with_the_daemon, daemon=True).start()
    _give_way(settings.learner.niceness)
    store = Store.open(settings.store_url, checkpoints=False)
    try:
        return work(settings, store, arguments.run, arguments.fence)
    finally:
        store.close()


def set_up_log() -> None:
    """To stderr, which is the run's log: what the run does, and of the libraries what a reader can act on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("alembic", "httpx2"):  # a line for each request that an engine is asked
        logging.getLogger(chatty).setLevel(logging.WARNING)


def work(settings: Settings, store: Store, run_id: str, fence: int) -> int:
    """Work on a leased run; returns the exit code."""
    try:
        with store.read() as tx:
            run = runs.get_run(tx, run_id)
        assert run is not None  # runs are never deleted
        settings = settings_of(run.method, settings)
    except BadInput as error:
        return _fail(store, run_id, fence, str(error))
    except StoreError as error:
        return _fail(store, run_id, fence, str(error), settings.learner.max_attempts)

    def make_trainer(parent: Path | None, keep: Keep, anchor: Path | None) -> Trainer:
        from learner.backbone_trainer import BackboneTrainer  # it takes seconds: only when there is a lesson
        from learner.subnormals import flush_subnormals

        flush_subnormals()
        if settings.learner.processes > 1:
            return team.trainer(parent, keep, anchor)
        return BackboneTrainer(settings, parent, keep, run_id, anchor)

    team = Team(settings, run_id, give_up=lambda: os._exit(CRASHED))
    model = settings.model_path
    cycle = Cycle(settings, store, run_id, fence, reply_tokenizer(model), make_trainer, context_length(model))
    signal.signal(signal.SIGTERM, lambda *_: cycle.stop())
    try:
        cycle.run()
    except Stopped:
        log.info("Stopped; the run goes on later.")
        return STOPPED
    except LeaseLost as error:
        log.warning("%s", error)
        return LOST
    except (StoreError, OSError, EngineUnavailable, ProcessLost) as error:  # a full disk, for one: that may pass
        log.exception("The run was interrupted.")
        return _fail(store, run_id, fence, _in_plain_words(error), settings.learner.max_attempts)
    except HoneError as error:
        log.error("The run failed: %s", error)  # foreseen: where it was found tells nobody anything
        return _fail(store, run_id, fence, str(error))
    except Exception as error:
        log.exception("The run died.")
        from learner.micro_batches import is_out_of_memory  # as above

        if is_out_of_memory(error):  # as where the base was loaded beside an engine: that may pass, too
            return _fail(store, run_id, fence, _no_memory(error), settings.learner.max_attempts)
        return CRASHED
    finally:
        team.close()
    return 0


def _fail(store: Store, run_id: str, fence: int, why: str, attempts: int = 0) -> int:
    """End the run as failed; if fewer than so many attempts at it were in vain, leave it to be tried again."""
    try:
        with store.begin() as tx:
            run = runs.get_run(tx, run_id)
            if run is not None and runs.in_vain(run) < attempts:
                return CRASHED
            runs.finish_run(tx, run_id, fence, "failed", why)
    except LeaseLost as error:  # it may have succeeded, and only the store's answer to that was lost
        log.warning("%s", error)
        return LOST
    return 0


def _in_plain_words(error: HoneError | OSError) -> str:
    if isinstance(error, HoneError):
        return str(error)
    where = f" {error.filename}" if error.filename else ""
    return f"The run can't read or write{where}: {error.strerror or error}. Free some space, check rights; learn again."


def _no_memory(error: Exception) -> str:
    """Where there was none for what can't be taken in parts."""
    said = (str(error) or type(error).__name__).splitlines()[0]
    return f"There isn't enough memory for the run ({said}). Set learner.quantise to nf4, or train with more memory."


def _give_way(niceness: int) -> None:
    """Step back for chat. Linux may weigh whole sessions against each other first (autogroup, sched(7)): both yield."""
    os.nice(niceness)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness))


def _die_with_the_daemon() -> None:
    """A training that nobody supervises could only waste the machine: its lease will be given to another."""
    while os.read(sys.stdin.fileno(), 1):  # past the buffer, whose lock would be in the way at exit
        pass
    os._exit(LOST)


if __name__ == "__main__":
    sys.exit(main())
