"""Whatever has a time limit ends with it, whoever else is under way; and without a timer for each."""

import asyncio

import pytest

from ewallet.plumbing.deadlines import Deadline, TimeLimit

NEVER = 60.0


async def stuck(deadline: Deadline) -> None:
    with deadline:
        await asyncio.sleep(NEVER)


async def test_a_block_that_takes_too_long_ends_with_a_timeout() -> None:
    deadline = TimeLimit(0.01).begin()

    with pytest.raises(TimeoutError):
        await stuck(deadline)
    assert deadline.expired


async def test_a_block_that_is_over_in_time_is_left_alone_afterwards() -> None:
    limit = TimeLimit(0.01)
    with limit.begin() as deadline:
        pass

    await asyncio.sleep(0.03)

    assert not deadline.expired


async def test_each_has_its_own_time_from_its_own_beginning() -> None:
    limit = TimeLimit(0.05)
    first = asyncio.create_task(stuck(limit.begin()))
    await asyncio.sleep(0.03)
    second = asyncio.create_task(stuck(limit.begin()))

    with pytest.raises(TimeoutError):
        await first
    assert not second.done()
    with pytest.raises(TimeoutError):
        await second


async def test_the_limit_works_again_after_a_time_when_nothing_was_under_way() -> None:
    limit = TimeLimit(0.01)
    with pytest.raises(TimeoutError):
        await stuck(limit.begin())
    await asyncio.sleep(0.03)

    with pytest.raises(TimeoutError):
        await stuck(limit.begin())


async def test_the_time_runs_from_the_beginning_not_from_the_block() -> None:
    deadline = TimeLimit(0.01).begin()
    await asyncio.sleep(0.03)

    with pytest.raises(TimeoutError):
        await stuck(deadline)


async def test_a_lifted_deadline_ends_nothing() -> None:
    limit = TimeLimit(0.01)
    with limit.begin() as deadline:
        deadline.lift()
        await asyncio.sleep(0.03)

    assert not deadline.expired


async def test_a_cancellation_from_outside_stays_one() -> None:
    task = asyncio.create_task(stuck(TimeLimit(NEVER).begin()))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_outside_at_the_same_moment_wins() -> None:
    deadline = TimeLimit(NEVER).begin()
    task = asyncio.create_task(stuck(deadline))
    await asyncio.sleep(0)
    deadline.expire()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_passes_even_where_the_time_is_over() -> None:
    deadline = TimeLimit(NEVER).begin()

    async def fails_when_cancelled() -> None:
        with deadline:
            try:
                await asyncio.sleep(NEVER)
            except asyncio.CancelledError:
                raise ValueError("on the way out") from None

    task = asyncio.create_task(fails_when_cancelled())
    await asyncio.sleep(0)
    deadline.expire()

    with pytest.raises(ValueError, match="on the way out"):
        await task


async def test_a_thousand_at_once_share_one_timer() -> None:
    limit = TimeLimit(0.01)
    tasks = [asyncio.create_task(stuck(limit.begin())) for _ in range(1000)]
    timer = limit._timer

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 1000
    assert timer is not None
    assert limit._timer is None


def test_a_deadline_needs_a_task() -> None:
    async def in_a_callback() -> Exception:
        loop, raised = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        deadline = TimeLimit(NEVER).begin()

        def enter() -> None:
            try:
                deadline.__enter__()
            except RuntimeError as error:
                raised.set_result(error)

        loop.call_soon(enter)
        outcome: Exception = await raised
        return outcome

    assert "task" in str(asyncio.run(in_a_callback()))
