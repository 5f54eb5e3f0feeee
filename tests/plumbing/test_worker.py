"""Background work goes on whatever happens in one of its rounds."""

import asyncio
import time
from contextlib import suppress

import pytest
from prometheus_client import REGISTRY

from ewallet.kernel.errors import OutcomeUnknown
from ewallet.plumbing.worker import run_forever, working

LONG = 3600.0
PATIENCE_SECONDS = 10


class Work:
    """Rounds that a test scripts: a number is the work found, an exception is raised; afterwards there is none."""

    def __init__(self, *script: int | Exception) -> None:
        self.script = list(script)
        self.rounds = 0
        self.idle = asyncio.Event()

    async def run_once(self) -> int:
        self.rounds += 1
        if not self.script:
            self.idle.set()
            return 0
        outcome = self.script.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_work_is_done_without_a_pause_while_there_is_any() -> None:
    work = Work(3, 1, 2)
    loop = asyncio.create_task(run_forever("test", work.run_once, pause_seconds=LONG))

    await asyncio.wait_for(work.idle.wait(), PATIENCE_SECONDS)
    await stop(loop)

    assert work.rounds == 4


async def test_a_wake_ends_the_pause() -> None:
    work, wake = Work(), asyncio.Event()
    loop = asyncio.create_task(run_forever("test", work.run_once, pause_seconds=LONG, wake=wake))
    await asyncio.wait_for(work.idle.wait(), PATIENCE_SECONDS)
    work.idle.clear()

    wake.set()

    await asyncio.wait_for(work.idle.wait(), PATIENCE_SECONDS)
    await stop(loop)


async def test_the_end_of_a_pause_starts_the_next_round() -> None:
    work = Work(0, 0)
    loop = asyncio.create_task(run_forever("test", work.run_once, pause_seconds=0.001))

    await asyncio.wait_for(work.idle.wait(), PATIENCE_SECONDS)
    await stop(loop)


async def test_a_round_that_fails_is_counted_and_the_next_one_tries_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = {"worker": "test-failing"}
    work = Work(RuntimeError("a bad moment"), RuntimeError("and another"))
    loop = asyncio.create_task(run_forever("test-failing", work.run_once, pause_seconds=0.001))

    await asyncio.wait_for(work.idle.wait(), PATIENCE_SECONDS)
    await stop(loop)

    assert REGISTRY.get_sample_value("ewallet_worker_errors_total", labels) == 2
    assert "a bad moment" in capsys.readouterr().out


async def test_what_goes_on_failing_is_told_when_it_begins_when_it_changes_and_when_it_is_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A full disk may stay full for hours, and every worker finds that out every second."""
    labels = {"worker": "test-put-off"}
    work = Work(*[OutcomeUnknown("the disk is full")] * 50, *[OutcomeUnknown("the disk is broken")] * 50)
    loop = asyncio.create_task(run_forever("test-put-off", work.run_once, pause_seconds=0.001))

    await asyncio.wait_for(work.idle.wait(), PATIENCE_SECONDS)
    await stop(loop)

    assert REGISTRY.get_sample_value("ewallet_worker_errors_total", labels) == 100
    full, broken, well = capsys.readouterr().out.splitlines()
    assert "the disk is full" in full
    assert "the disk is broken" in broken
    assert "failed_rounds=100" in well


async def test_the_last_good_round_is_known() -> None:
    labels = {"worker": "test-good"}
    before = time.time()
    work = Work(RuntimeError("at first"))
    loop = asyncio.create_task(run_forever("test-good", work.run_once, pause_seconds=0.001))

    await asyncio.wait_for(work.idle.wait(), PATIENCE_SECONDS)
    await stop(loop)

    last = REGISTRY.get_sample_value("ewallet_worker_last_success_timestamp_seconds", labels) or 0
    assert last >= before


async def test_a_stop_is_heard_also_when_a_wake_comes_with_it() -> None:
    work, wake = Work(), asyncio.Event()
    loop = asyncio.create_task(run_forever("test", work.run_once, pause_seconds=LONG, wake=wake))
    await asyncio.wait_for(work.idle.wait(), PATIENCE_SECONDS)

    wake.set()
    loop.cancel()

    done, _pending = await asyncio.wait([loop], timeout=PATIENCE_SECONDS)
    assert done == {loop}


async def test_whoever_leaves_waits_until_the_background_work_has_ended() -> None:
    """What a worker writes on its way out needs the database that is closed afterwards."""
    work, ended = Work(), list[str]()

    async def loop(name: str) -> None:
        try:
            await run_forever(name, work.run_once, pause_seconds=LONG)
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async with working(loop("first"), loop("second")):
        await asyncio.wait_for(work.idle.wait(), PATIENCE_SECONDS)

    assert ended == ["first", "second"]
