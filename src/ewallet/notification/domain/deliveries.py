"""When something that is sent out of the platform is sent again, and when it is given up."""

from dataclasses import dataclass
from enum import StrEnum

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND

RETRY_SECONDS = (3, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 21600, 36000)
"""Pauses between attempts: the first within seconds, all together 23 h 51 min. A receiver that is down over night
misses nothing; one that is down for a day has a dead letter."""

JITTER_PARTS = 1000
"""A pause is shortened by up to a fifth, so that all that failed together does not come back together."""


class State(StrEnum):
    """How far a delivery has come."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"
    """Given up: in the dead-letter list until somebody re-drives it."""
    CANCELLED = "CANCELLED"
    """Its receiver was disabled or removed before it was sent."""


class Verdict(StrEnum):
    """What an attempt has come to."""

    TAKEN = "TAKEN"
    FAILED = "FAILED"
    """Not taken, or nobody knows: it is sent again."""
    REFUSED = "REFUSED"
    """Never to be taken, so it is not sent again."""
    GONE = "GONE"
    """The receiver wants nothing any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended; ``status`` is the receiver's number for it, ``error`` our sentence."""

    verdict: Verdict
    status: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A delivery after an attempt; ``next_attempt_at`` counts while it is pending."""

    state: State
    attempts: int
    next_attempt_at: int


def after(outcome: Outcome, *, attempts: int, now: int, jitter: int) -> Progress:
    """Where a delivery stands after one more attempt. ``jitter`` is random, below :data:`JITTER_PARTS`."""
    match outcome.verdict:
        case Verdict.TAKEN:
            return Progress(State.DELIVERED, attempts + 1, now)
        case Verdict.FAILED if attempts < len(RETRY_SECONDS):
            return Progress(State.PENDING, attempts + 1, now + _pause(RETRY_SECONDS[attempts], jitter))
        case _:
            return Progress(State.DEAD, attempts + 1, now)


def _pause(seconds: int, jitter: int) -> int:
    """In microseconds: between four fifths and the whole."""
    return seconds * MICROSECONDS_PER_SECOND * (5 * JITTER_PARTS - jitter) // (5 * JITTER_PARTS)
