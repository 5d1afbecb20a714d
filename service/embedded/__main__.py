"""`python -m service.embedded`: bind the port, start the worker, serve until told to stop."""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from service.embedded.arguments import EngineArguments, parse_arguments
from service.embedded.chat_template import CHAT_MODEL, NO_TEMPLATE
from service.embedded.errors import EngineError
from service.embedded.link import EngineLink
from service.embedded.server import EngineServer
from service.embedded.tokenizer import load_tokenizer
from service.errors import HoneError
from service.listening import listen

GRACE = 10  # seconds that running replies have to end after SIGTERM
KEEP = 75  # seconds that an idle connection stays open, longer than clients keep theirs in a pool


class Server(uvicorn.Server):
    """uvicorn, except that being told to stop is a success: it would raise the signal again and die of it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    def stop(self) -> None:
        self.should_exit = True


async def serve(arguments: EngineArguments, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; raises EngineError when the worker fails."""
    link = EngineLink(arguments)
    try:
        ready = await link.ready
        tokenizer = load_tokenizer(Path(ready.model_path))
        app = EngineServer(arguments, link, ready, tokenizer).app()
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE, timeout_keep_alive=KEEP
        )
        server = Server(config)
        link.on_failure = server.stop
        host, port = listening.getsockname()[:2]
        lacking = [] if tokenizer.can_chat else [f"{NO_TEMPLATE} {CHAT_MODEL}"]
        for line in [*ready.lines, *lacking, f"Serving on http://{host}:{port}."]:
            _say(line)
        gc.freeze()  # a collection that looks through all this would hold up every stream for a tenth of a second
        await server.serve(sockets=[listening])
        if link.failure is not None:
            raise EngineError(link.failure)
    finally:
        link.close()


def main() -> int:
    arguments = parse_arguments()
    try:
        listening = listen(arguments.host, arguments.port, at_once=False)
        with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
            runner.run(serve(arguments, listening))
    except HoneError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
