"""What the harness and the processes that it starts say to each other."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

ARMED = b"armed"
FIRED = b"fired"


def exit_line(status: int) -> bytes:
    """The last line in the log of a process that was not killed."""
    return f"\nexit status {status}\n".encode()


class Action(StrEnum):
    """What happens to a process, or to what it is doing, at a failpoint."""

    KILL = "kill"
    BUSY = "busy"
    """The driver reports an error that doing the transaction again may mend."""
    BROKEN = "broken"
    """The driver reports an error that nothing mends."""
    REFUSED = "refused"
    """No connection to the other service, which has therefore done nothing."""
    LOST = "lost"
    """No answer from the other service, which may have done everything."""


@dataclass(frozen=True, slots=True)
class Arming:
    """Something that shall happen once, the next time that a point is reached.

    ``which`` is which one of several like it. ``since`` is another point that the same thread must have reached
    before: it tells one commit of a database from another.
    """

    point: str
    action: str
    which: str = ""
    since: str = ""

    def __str__(self) -> str:
        where = f"{self.point} {self.which}".strip()
        return f"{self.action} at {where}" + (f" after {self.since}" if self.since else "")


@dataclass(frozen=True, slots=True)
class Start:
    """One process: `ewallet COMMAND` with an environment and a log, taking armings at a socket's path.

    One that is ``held`` does nothing before it has taken the first.
    """

    command: tuple[str, ...]
    environment: dict[str, Any]
    log: str
    control: str
    mutant: str = ""
    held: bool = False
