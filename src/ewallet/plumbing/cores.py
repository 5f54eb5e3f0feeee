"""Keeping the threads that share the interpreter's lock on one core.

The event loop and the writers' threads compute in turn. Where the turns are taken on two cores, each costs a wake-up
and a cold cache; on one, none. Threads that compute without the lock may :func:`roam`.

A process that is bound to a core cannot give way to another one that is bound to the same, so it looks around from time
to time and moves. Everybody else is moved by the operating system.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import structlog

LOOK_SECONDS = 2.0
"""Between two looks around; long enough for the shares to mean something."""

WORTH_MOVING = 0.25
"""Of a core's time: a smaller difference is often gone with the next look."""

CAN_BIND = hasattr(os, "sched_setaffinity")
"""Linux can."""

EVERYWHERE = frozenset(os.sched_getaffinity(0)) if CAN_BIND else frozenset()
"""The cores that this process was given."""

_IDLE = slice(3, 5)  # in the columns of /proc/stat, see proc(5): idle, and idle while a disk is waited for
_GUESTS = 8  # these and what follows are counted in the columns before them

log = structlog.get_logger()


def roam() -> None:
    """Let this thread run on every core, for work that does not need the interpreter's lock."""
    if CAN_BIND:
        with suppress(OSError):  # where that is forbidden, it never was bound
            os.sched_setaffinity(0, EVERYWHERE)


class Look(NamedTuple):
    """How long each core has computed for whomever, and for us, at a time; all in seconds."""

    at: float
    busy: Mapping[int, float]
    ours: float


def look() -> Look:
    """At our cores, now."""
    return Look(time.monotonic(), _busy_seconds(), time.process_time())


class OneCore:
    """Binds the thread that makes it, and with it all threads that it will start, to one core after the other."""

    def __init__(self, *, random_below: Callable[[int], int], look: Callable[[], Look] = look) -> None:
        self._random_below = random_below
        self._look = look
        self._core = sorted(EVERYWHERE)[random_below(len(EVERYWHERE))]
        self._before = look()
        with suppress(OSError):  # a sandbox may forbid it; then no thread is bound, and none will be moved
            os.sched_setaffinity(0, {self._core})

    async def run_once(self) -> int:
        """Look around, and move to where there is more room; never has more to do at once."""
        now = self._look()
        core = roomiest(_used_by_others(self._before, now, self._core), self._core)
        self._before = now
        # Of two processes that see each other on one core, both would go. By lot, one of them soon goes alone.
        if core != self._core and self._random_below(2):
            self._move(core)
        return 0

    def _move(self, core: int) -> None:
        log.debug("core.changed", before=self._core, now=core)
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended
                if os.sched_getaffinity(int(thread.name)) == {self._core}:
                    os.sched_setaffinity(int(thread.name), {core})
        self._core = core


def roomiest(used: Mapping[int, float], current: int) -> int:
    """The core that others use least, of those with their shares in ``used``; the current one if it is little worse."""
    best = min(used, key=lambda core: used[core])
    return best if used[current] - used[best] > WORTH_MOVING else current


def _used_by_others(before: Look, now: Look, core: int) -> dict[int, float]:
    """The share of each core's time that others have used meanwhile, if we have used only this one."""
    used = {each: now.busy[each] - before.busy[each] for each in now.busy}
    used[core] = max(0.0, used[core] - (now.ours - before.ours))
    return {each: busy / (now.at - before.at) for each, busy in used.items()}


def _busy_seconds() -> dict[int, float]:
    """Of each of our cores."""
    lines = [line.split() for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()]
    columns = {name: [int(ticks) for ticks in rest[:_GUESTS]] for name, *rest in lines if name.startswith("cpu")}
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    ours = {core: columns[f"cpu{core}"] for core in EVERYWHERE}
    return {core: (sum(ticks) - sum(ticks[_IDLE])) / ticks_per_second for core, ticks in ours.items()}
