"""Several processes that serve from one listener, and one that looks after them: `ewallet serve SERVICE --workers N`.

uvicorn's own supervisor takes applications that it can import by name, and its workers go on when it is killed.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import structlog

log = structlog.get_logger()

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

SHORT_LIFE_SECONDS = 1.0
"""Whoever dies within a second of its start will do so again: its successor waits that long."""

Work = Callable[[int, Callable[[], object]], None]
"""What a worker does until it is told to stop. It is given a descriptor that can be read when nobody looks after it any
more, and what to call when it has started."""


class Workers:
    """Processes that all do the same work. ``announce`` is called, here, when the first of them has started."""

    def __init__(self, work: Work, *, announce: Callable[[], None]) -> None:
        self._work = work
        self._announce = announce
        # Nobody writes to it: it is at its end when its other end is closed, by the death of this process too.
        self._lifeline, self._other_end = os.pipe()
        self._started_at: dict[int, float] = {}
        self._stopping = False
        self._status = 0

    def run(self, count: int) -> NoReturn:
        """Keep so many workers alive until a signal asks to stop, which they are passed; ends this process.

        A worker that dies, or ends well without being asked to, is replaced. One that ends with an error has said what
        is wrong, and all others stop too: the exit status is its own. The first one goes ahead, so that what is wrong
        with all of them is said once; where it is killed before it serves, there are no others.
        """
        for number in _STOP_SIGNALS:
            signal.signal(number, self._stop)
        if self._first_has_started():
            self._announce()
            for _ in range(count - 1):
                self._start()
        else:
            self._stopping = True  # it has said what is wrong, or was killed: the same would happen to the next one
        while self._started_at:
            process_id, status = os.wait()
            if process_id in self._started_at:  # the first process of a container gets everybody's orphans, too
                self._ended(process_id, os.waitstatus_to_exitcode(status))
        sys.exit(self._status)

    def _first_has_started(self) -> bool:
        heard, told = os.pipe()
        self._start(lambda: os.write(told, b"!"))
        os.close(told)  # now the first worker alone has it, and its end is seen
        try:
            return bool(os.read(heard, 1))
        finally:
            os.close(heard)

    def _start(self, started: Callable[[], object] = lambda: None) -> None:
        sys.stdout.flush()
        with _signals_wait():  # until the new process is in our list, and until it is no longer we in the new one
            if self._stopping:
                return
            process_id = os.fork()
            if process_id != 0:
                self._started_at[process_id] = time.monotonic()
                return
            self._become_worker()
        self._work(self._lifeline, started)
        sys.exit()

    def _become_worker(self) -> None:
        os.close(self._other_end)
        os.setpgid(0, 0)  # so that a terminal's Ctrl-C reaches the parent alone, who passes it on
        for number in _STOP_SIGNALS:
            signal.signal(number, _end_well)  # while it is not serving yet, or no longer

    def _ended(self, process_id: int, status: int) -> None:
        lived_seconds = time.monotonic() - self._started_at.pop(process_id)
        if status > 0 or (status < 0 and self._stopping):
            self._status = self._status or max(status, 1)
            self._stop(signal.SIGTERM)
        elif not self._stopping:
            log.warning("worker.replaced", process=process_id, status=status)
            if lived_seconds < SHORT_LIFE_SECONDS:
                time.sleep(SHORT_LIFE_SECONDS)
            self._start()

    def _stop(self, number: int, _frame: FrameType | None = None) -> None:
        self._stopping = True
        for process_id in list(self._started_at):
            with suppress(ProcessLookupError):
                os.kill(process_id, number)


def _end_well(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals that ask to stop are delivered at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
