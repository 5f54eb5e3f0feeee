"""Background work: a dull loop around ``run_once``."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from ewallet.plumbing.telemetry import WORKER_ERRORS

log = structlog.get_logger()


async def run_forever(
    name: str,
    run_once: Callable[[], Awaitable[int]],
    *,
    pause_seconds: float,
    wake: asyncio.Event | None = None,
) -> None:
    """Call ``run_once`` until cancelled: at once again while it finds work, else after a pause or when woken.

    A round that fails is logged and counted and the next one tries again: a worker never dies of one bad moment.
    """
    wake = wake or asyncio.Event()
    while True:
        wake.clear()
        try:
            found_work = await run_once() > 0
        except Exception:
            WORKER_ERRORS.labels(name).inc()
            log.exception("worker.round_failed", worker=name)
            found_work = False
        if found_work:
            continue
        # Not wait_for: on Python 3.11 it loses a cancellation that comes together with the wake, and a stop would hang.
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_seconds):
                await wake.wait()
