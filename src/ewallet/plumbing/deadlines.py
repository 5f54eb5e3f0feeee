"""One time limit for everything of a kind that is under way.

``asyncio.timeout`` sets a timer and cancels it again each time; with 64 payments at once its two uses were an eighth of
the event loop's time in a payment. What has one and the same limit runs out of time in the order in which it began, so
here a single timer watches the oldest.
"""

import asyncio
import time
from contextvars import ContextVar
from types import TracebackType
from typing import Self

TIME_LEFT_HEADER = "X-Time-Left"
"""In a request of one process of ours to another: the milliseconds for which somebody still waits for the answer. A
span, because two machines' clocks differ."""

request_ends_at: ContextVar[float | None] = ContextVar("request_ends_at", default=None)
"""When nobody waits any more for the request that is being served, in seconds of ``time.monotonic()``; None where that
is not known."""


def ends_at(time_left: bytes) -> float | None:
    """The moment that a value of the header means, if it arrives now; None where it is none."""
    return time.monotonic() + int(time_left) / 1000 if time_left.isdigit() and len(time_left) < _DIGITS else None


_DIGITS = 10


class TimeLimit:
    """So many seconds for each of many things; to be used in one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[Deadline, None] = {}  # as a set in the order of their beginnings
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> "Deadline":
        """The time runs from here; it is enforced in a block ``with`` the deadline, now or later, or never."""
        loop = asyncio.get_running_loop()
        deadline = Deadline(self._running, loop.time() + self._seconds)
        self._running[deadline] = None
        if self._timer is None:
            self._timer = loop.call_at(deadline.at, self._look)
        return deadline

    def _look(self) -> None:
        """End what is out of time, and come again when the next one is."""
        loop = asyncio.get_running_loop()
        while oldest := next(iter(self._running), None):
            if oldest.at > loop.time():
                self._timer = loop.call_at(oldest.at, self._look)
                return
            oldest.expire()
        self._timer = None


class Deadline:
    """When something that has begun must be over. Made by :meth:`TimeLimit.begin`; for one block.

    As with ``asyncio.timeout``, the block is cancelled and leaves with a TimeoutError.
    """

    __slots__ = ("_cancellations", "_running", "_task", "at", "expired")

    def __init__(self, running: dict["Deadline", None], at: float) -> None:
        self._running = running
        self._task: asyncio.Task[object] | None = None
        self._cancellations = 0
        self.at = at
        """In seconds of the event loop's clock, which is that of ``time.monotonic()``."""
        self.expired = False

    def lift(self) -> None:
        """Let it take as long as it takes from here on."""
        self._running.pop(self, None)

    def expire(self) -> None:
        """The time is over: cancel the block, where it has been entered."""
        self.lift()
        self.expired = True
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> Self:
        """TimeoutError: it is too late to begin."""
        if self.expired:
            raise TimeoutError
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task that it can cancel")
        self._task, self._cancellations = task, task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.lift()
        task, self._task = self._task, None
        # Somebody else's cancellation, at the same time, counts for more than ours.
        if self.expired and task and task.uncancel() <= self._cancellations and kind is asyncio.CancelledError:
            raise TimeoutError from error
