"""Group commit: requests that arrive while a batch is under way share the next one.

The cost of a small write is its round trips and its fsync, so a thousand concurrent writes should share a few commits
(DESIGN section 4). There are no timers: a lone item starts at once, and load alone makes batches larger.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Connection

from ewallet.kernel.errors import InvariantBroken, OutcomeUnknown, Overloaded
from ewallet.plumbing.database import Database, DatabaseUnavailable
from ewallet.plumbing.telemetry import BATCH_SECONDS, BATCH_SIZE, QUEUE_DEPTH

Item = TypeVar("Item")
Result = TypeVar("Result")

MAXIMUM_BATCH = 256
"""Bounds the time one transaction holds its locks; beyond about this size a batch gains little."""

MAXIMUM_QUEUE = 4096
"""At a thousand items a second, some four seconds of work: who comes later is better told at once."""


class DeadlinePassed(Overloaded):
    """The caller's time was up before the item's turn came; it was dropped and nothing was done."""


@dataclass(frozen=True, slots=True)
class Failed:
    """What an item gets instead of a result: an error that its caller sees raised."""

    error: Exception


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    deadline: float | None


class Gatherer(Generic[Item, Result]):
    """Hands items to ``run`` in batches, in order of arrival, one batch at a time.

    ``run`` returns one result for each item, in their order; a :class:`Failed` is raised to that item's caller, and an
    error of ``run`` itself to all of them.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Failed]]],
        *,
        name: str,
        maximum_batch: int = MAXIMUM_BATCH,
        maximum_queue: int = MAXIMUM_QUEUE,
    ) -> None:
        self._run = run
        self._name = name
        self._maximum_batch = maximum_batch
        self._maximum_queue = maximum_queue
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._batch_size = BATCH_SIZE.labels(name)
        self._batch_seconds = BATCH_SECONDS.labels(name)
        self._queue_depth = QUEUE_DEPTH.labels(name)

    async def submit(self, item: Item, *, deadline: float | None = None) -> Result:
        """Have one item done; ``deadline`` in seconds of ``time.monotonic()``, after which it is not begun any more.

        Overloaded: the queue is full, or the deadline passed in it; nothing was done.
        """
        return await self.enqueue(item, deadline=deadline)

    def enqueue(self, item: Item, *, deadline: float | None = None) -> asyncio.Future[Result]:
        """:meth:`submit` for who waits for many items and need not have a task for each, which costs 5 µs.

        Overloaded is raised at once where the queue is full.
        """
        if len(self._queue) >= self._maximum_queue:
            raise Overloaded(f"the {self._name} queue is full")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(item, future, deadline))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return future

    async def _work(self) -> None:
        """Run batches until the queue is empty. Starting as a task lets everything that is ready now join the first."""
        try:
            while self._queue:
                if batch := self._take():
                    await self._do(batch)
        finally:
            self._worker = None

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The next items that somebody still waits for."""
        self._queue_depth.set(len(self._queue))
        now = time.monotonic()
        batch: list[_Waiting[Item, Result]] = []
        while self._queue and len(batch) < self._maximum_batch:
            waiting = self._queue.popleft()
            if waiting.future.done():
                continue
            if waiting.deadline is not None and waiting.deadline < now:
                waiting.future.set_exception(DeadlinePassed("the deadline passed while waiting to be begun"))
            else:
                batch.append(waiting)
        return batch

    async def _do(self, batch: Sequence[_Waiting[Item, Result]]) -> None:
        started = time.perf_counter()
        try:
            outcomes = _one_each(await self._run([waiting.item for waiting in batch]), batch)
        except asyncio.CancelledError:
            # The loop is being shut down in the middle of a batch: whether it took effect is unknown.
            _settle(batch, [Failed(OutcomeUnknown(f"{self._name} is shutting down"))] * len(batch))
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, every caller must hear of it
            outcomes = [Failed(error)] * len(batch)
        self._batch_size.observe(len(batch))
        self._batch_seconds.observe(time.perf_counter() - started)
        _settle(batch, outcomes)


def _one_each(outcomes: Sequence[Result | Failed], batch: Sequence[object]) -> Sequence[Result | Failed]:
    if len(outcomes) != len(batch):
        raise InvariantBroken(f"{len(outcomes)} outcomes of {len(batch)} items")
    return outcomes


def _settle(batch: Sequence[_Waiting[Item, Result]], outcomes: Sequence[Result | Failed]) -> None:
    for waiting, outcome in zip(batch, outcomes, strict=True):
        if waiting.future.done():
            continue
        if isinstance(outcome, Failed):
            waiting.future.set_exception(outcome.error)
        else:
            waiting.future.set_result(outcome)


class Batcher(Generic[Item, Result]):
    """A gatherer whose batches are database transactions.

    ``apply`` gets the transaction and the items and returns one result for each, in their order; a refusal is a result.
    It may run more than once for the same items (see ``Database.transact``) and must then return the same results.
    An error that is not transient splits the batch until the item that causes it stands alone and alone gets it.
    """

    def __init__(
        self,
        database: Database,
        apply: Callable[[Connection, Sequence[Item]], Sequence[Result]],
        *,
        maximum_batch: int = MAXIMUM_BATCH,
        maximum_queue: int = MAXIMUM_QUEUE,
    ) -> None:
        self._database = database
        self._apply = apply
        self._gatherer: Gatherer[Item, Result] = Gatherer(
            self._run, name=database.name, maximum_batch=maximum_batch, maximum_queue=maximum_queue
        )

    async def submit(self, item: Item, *, deadline: float | None = None) -> Result:
        """Apply one item; see :meth:`Gatherer.submit`."""
        return await self._gatherer.enqueue(item, deadline=deadline)

    def enqueue(self, item: Item) -> asyncio.Future[Result]:
        """Apply one item of many; see :meth:`Gatherer.enqueue`."""
        return self._gatherer.enqueue(item)

    async def _run(self, items: Sequence[Item]) -> Sequence[Result | Failed]:
        return await self._database.in_writer_thread(lambda: self._outcomes(items))

    def _outcomes(self, items: Sequence[Item]) -> Sequence[Result | Failed]:
        """In the writer thread: one transaction, or several smaller ones around an item that cannot be applied."""
        try:
            return self._database.transact(lambda tx: self._apply(tx, items))
        except DatabaseUnavailable as error:
            return [Failed(error)] * len(items)
        except Exception as error:  # noqa: BLE001  # it belongs to one of the items, which is found by halving
            if len(items) == 1:
                return [Failed(error)]
        middle = len(items) // 2
        return [*self._outcomes(items[:middle]), *self._outcomes(items[middle:])]
