"""Time as integers: microseconds since 1970-01-01 UTC. The only place that reads the system's clock."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

Clock = Callable[[], int]
"""Returns the present as microseconds since the epoch. Passed in, so that a test can own the time."""

MICROSECONDS_PER_SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def system_clock() -> int:
    """The present, in microseconds since the epoch."""
    return time.time_ns() // 1_000


def rfc3339(microseconds: int) -> str:
    """Render as the contract does: ``2026-11-22T08:15:30.123Z`` (RFC 3339, UTC, milliseconds, never rounded up)."""
    seconds, fraction = divmod(microseconds, MICROSECONDS_PER_SECOND)
    return f"{_second(seconds)}.{fraction // 1000:03d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    """Most times that are rendered lie in the last few seconds."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def parse_rfc3339(text: str) -> int | None:
    """Microseconds since the epoch, or None where the text is no RFC 3339 time with an offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None or "T" not in text:
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1)
