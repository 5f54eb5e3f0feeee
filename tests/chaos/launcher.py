"""Starts `ewallet` processes in which a test can let things go wrong: ``python -m tests.chaos.launcher``.

What runs is the ordinary command line. To load the product takes a second of processor time, so this process loads it
once and forks for every start; a child has a process id, sockets, connections and files of its own like any other.

Standard input: one :class:`Start` a line, as JSON; standard output: the process id. At the end of the input every
child is killed.
"""

import ctypes
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import httpx2
import pymysql
from sqlalchemy.exc import OperationalError

import ewallet.cli.serving  # noqa: F401  # loaded here, so that no child has to
from ewallet.cli import main as command_line
from ewallet.kernel.errors import OutcomeUnknown, Overloaded
from ewallet.plumbing import failpoints
from ewallet.plumbing.failpoints import Point
from tests.chaos.arming import ARMED, FIRED, Action, Arming, Start, exit_line
from tests.chaos.mutants import MUTANTS

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that a process gets when its parent dies, however it dies."""


def main() -> None:
    """Fork one child for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever waits for a child does so by its pidfd
    libc = ctypes.CDLL(None)
    for line in sys.stdin:
        start = Start(**json.loads(line))
        held_back, let_go = os.pipe()
        process_id = os.fork()
        if process_id == 0:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.close(let_go)
            os.read(held_back, 1)
            _become(start)
        os.close(held_back)
        print(process_id, flush=True)  # noqa: T201  # the answer
        sys.stdin.readline()  # The harness holds its pidfd: a child that has ended before could not be waited for.
        os.close(let_go)


def _become(start: Start) -> None:
    """Be the process that was ordered, until its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    log = os.open(start.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(start.environment)
    sys.argv = ["ewallet", *start.command]
    status = 1
    try:
        if start.mutant:
            MUTANTS[start.mutant]()
        _listen(start.control, held=start.held)
        command_line()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        os.write(log, exit_line(status))
        os._exit(status)


# --- what happens at a point --------------------------------------------------------------------------------------


@dataclass
class Trap:
    """What one connection of the harness has armed; it springs once."""

    arming: Arming
    connection: socket.socket
    on_mysql: bool

    def spring(self, point: Point) -> None:
        if self.arming.action == Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        self.connection.send(FIRED)
        raise _error(Action(self.arming.action), at_door=point.startswith("door."), on_mysql=self.on_mysql)


class Traps:
    """The failpoints' handler: at most one trap is set at a time."""

    def __init__(self) -> None:
        self._trap: Trap | None = None
        self._lock = threading.Lock()
        self._passed = threading.local()

    def set(self, trap: Trap) -> None:
        self._trap = trap

    def __call__(self, point: Point, which: str) -> None:
        trap = self._trap
        if trap is None:
            return
        arming = trap.arming
        if point == arming.since:
            self._passed.since = True
        if point == arming.point and which == arming.which and (not arming.since or self._has_passed()):
            with self._lock:
                mine, self._trap = self._trap is trap, None
            if mine:
                trap.spring(point)
        if point == "commit.after":
            self._passed.since = False

    def _has_passed(self) -> bool:
        return getattr(self._passed, "since", False)


def _error(action: Action, *, at_door: bool, on_mysql: bool) -> Exception:
    """What a driver, or the other service, would raise."""
    match action:
        case Action.BUSY if on_mysql:
            return OperationalError("a statement", (), pymysql.OperationalError(1213, "Deadlock found"))
        case Action.BROKEN if on_mysql:
            return OperationalError("a statement", (), pymysql.OperationalError(1030, "Got error 5"))
        case Action.BUSY:
            return _sqlite_error("database is locked", sqlite3.SQLITE_BUSY)
        case Action.BROKEN:
            return _sqlite_error("disk I/O error", sqlite3.SQLITE_IOERR)
        case Action.REFUSED:
            return httpx2.ConnectError("refused") if at_door else Overloaded("refused")
        case Action.LOST:
            return httpx2.ReadTimeout("lost") if at_door else OutcomeUnknown("lost")
    raise ValueError(action)


def _sqlite_error(message: str, code: int) -> OperationalError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return OperationalError("a statement", (), error)


def _listen(control: str, *, held: bool) -> None:
    """Take orders of the harness in a thread, one connection after the other; ``held`` waits for the first."""
    if not control:
        return
    Path(control).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(control)
    listener.listen()
    traps, on_mysql = Traps(), os.environ.get("EWALLET_WALLET_DATABASE_URL", "").startswith("mysql")
    failpoints.arm(traps)

    def take_one() -> None:
        connection, _ = listener.accept()
        arming = Arming(**json.loads(connection.recv(4096)))
        if arming.point not in get_args(Point):
            raise ValueError(f"there is no point {arming.point}")
        traps.set(Trap(arming, connection, on_mysql))
        connection.send(ARMED)

    def serve() -> None:
        while True:
            take_one()

    if held:
        take_one()
    threading.Thread(target=serve, name="chaos", daemon=True).start()


if __name__ == "__main__":
    main()
