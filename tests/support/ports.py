"""TCP ports for servers that tests start."""

import socket
from contextlib import suppress

_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, and which nobody else is given as long as this process lives.

    It stays bound here. Linux lets a server with ``SO_REUSEADDR``, which servers set, bind it as well, but chooses it
    neither for another free port nor for an outgoing connection.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    _reserved.append(reservation)
    port: int = reservation.getsockname()[1]
    return port


def neighbouring_ports() -> tuple[int, int]:
    """Two such ports, the second of which follows the first."""
    for _ in range(100):
        first = free_port()
        reservation = socket.socket()
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _reserved.append(reservation)
        with suppress(OSError):
            reservation.bind(("127.0.0.1", first + 1))
            return first, first + 1
    raise AssertionError("no two free ports follow each other")
