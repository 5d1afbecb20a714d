"""The socket that a service listens on, bound before anything slow starts."""

from __future__ import annotations

import errno
import socket

from service.errors import PortInUse

BACKLOG = 2048


def listen(host: str, port: int, *, at_once: bool = True) -> socket.socket:
    """A socket on this address; port 0 takes a free one. Raises PortInUse.

    `at_once`: callers wait in line from now on. Else they are refused until somebody listens on it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            if at_once:
                listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        other = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise PortInUse(f"Can't listen on {host}:{port}: {error.strerror}.", f"Choose another {other}.") from error
    return listener


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now."""
    with listen(host, 0) as listener:
        return port_of(listener)


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port
