"""Background work: a dull loop around ``run_once``."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from ewallet.kernel.errors import OutcomeUnknown, Overloaded
from ewallet.plumbing.telemetry import WORKER_ERRORS, WORKER_LAST_SUCCESS

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

    A round that fails is counted and the next one tries again: a worker never dies of one bad moment.
    """
    wake = wake or asyncio.Event()
    trouble = _Trouble(name)
    while True:
        wake.clear()
        try:
            found_work = await run_once() > 0
            trouble.over()
        except Exception as error:  # noqa: BLE001  # whatever it is, there is a next round
            trouble.met(error)
            found_work = False
        if found_work:
            await asyncio.sleep(rest_seconds)
            continue
        # Not wait_for: on Python 3.11 it loses a cancellation that comes together with the wake, and a stop would hang.
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_seconds):
                await wake.wait()


class _Trouble:
    """Tells of rounds that fail: when it begins, when it becomes another one, and when it is over.

    A full disk may stay full for hours, and a line every second would hide everything else; the metrics show how long.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._errors = WORKER_ERRORS.labels(worker)
        self._last_success = WORKER_LAST_SUCCESS.labels(worker)
        self._rounds = 0
        self._what = ""

    def met(self, error: Exception) -> None:
        """A round has failed."""
        self._errors.inc()
        self._rounds += 1
        what = f"{type(error).__name__}: {error}"
        if what == self._what:
            return
        self._what = what
        if isinstance(error, OutcomeUnknown | Overloaded):
            # Something that it needs is out of order; whoever mends that needs no stack trace.
            log.warning("worker.rounds_put_off", worker=self._worker, error=what)
        else:
            log.error("worker.rounds_fail", worker=self._worker, error=what, exc_info=error)

    def over(self) -> None:
        """A round has gone well."""
        self._last_success.set_to_current_time()
        if self._rounds:
            log.warning("worker.well_again", worker=self._worker, failed_rounds=self._rounds)
            self._rounds, self._what = 0, ""
