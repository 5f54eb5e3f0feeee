"""Background work: a dull loop around ``run_once``."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from ewallet.kernel.errors import OutcomeUnknown, Overloaded
from ewallet.plumbing.telemetry import WORKER_ERRORS

log = structlog.get_logger()


@asynccontextmanager
async def working(*loops: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let loops go on in the background until the block is left: then each is cancelled, and its end waited for."""
    workers = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def run_forever(
    name: str,
    run_once: Callable[[], Awaitable[int]],
    *,
    pause_seconds: float,
    rest_seconds: float = 0.0,
    wake: asyncio.Event | None = None,
) -> None:
    """Call ``run_once`` until cancelled: again after a rest while it finds work, else after a pause or when woken.

    The rest lets work gather, where a round costs about the same whatever it finds; the first piece never waits.

    A round that fails is logged and counted and the next one tries again: a worker never dies of one bad moment.
    """
    wake = wake or asyncio.Event()
    while True:
        wake.clear()
        try:
            found_work = await run_once() > 0
        except (OutcomeUnknown, Overloaded) as error:
            # Something that it needs is out of order; whoever mends that needs no stack trace every second.
            WORKER_ERRORS.labels(name).inc()
            log.warning("worker.round_put_off", worker=name, error=str(error))
            found_work = False
        except Exception:
            WORKER_ERRORS.labels(name).inc()
            log.exception("worker.round_failed", worker=name)
            found_work = False
        if found_work:
            await asyncio.sleep(rest_seconds)
            continue
        # Not wait_for: on Python 3.11 it loses a cancellation that comes together with the wake, and a stop would hang.
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_seconds):
                await wake.wait()
