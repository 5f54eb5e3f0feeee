"""Load shares transactions, a lone item never waits, and no item pays for another one's fault."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Column, Connection, MetaData, select
from sqlalchemy.exc import IntegrityError

from ewallet.kernel.errors import OutcomeUnknown, Overloaded
from ewallet.plumbing.batching import Batcher, DeadlinePassed, Failed, Gatherer
from ewallet.plumbing.database import Database
from ewallet.plumbing.schema import IDENTIFIER, insert_rows, table
from ewallet.plumbing.telemetry import request_in_hand
from tests.support.plumbing import make_tables, opened

metadata = MetaData()
items = table("test_items", metadata, Column("name", IDENTIFIER, primary_key=True))


class Runs:
    """What a gatherer runs; it can be held up, so that a test decides what gathers meanwhile."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.begun = asyncio.Event()

    async def __call__(self, batch: Sequence[str]) -> Sequence[str | Failed]:
        self.batches.append(list(batch))
        self.begun.set()
        await self.open.wait()
        if "broken" in batch:
            raise ValueError("a bug in the run")
        return [Failed(KeyError(item)) if item == "refused" else item.upper() for item in batch]


def gatherer(runs: Runs, *, maximum_batch: int = 256, maximum_queue: int = 4096) -> Gatherer[str, str]:
    return Gatherer(runs, name="test", maximum_batch=maximum_batch, maximum_queue=maximum_queue)


async def held_up(runs: Runs, gathering: Gatherer[str, str]) -> asyncio.Task[str]:
    """Let one item occupy the run until `runs.open` is set."""
    runs.open.clear()
    first = asyncio.create_task(gathering.submit("first"))
    await runs.begun.wait()
    return first


async def test_a_lone_item_is_begun_at_once() -> None:
    runs = Runs()

    assert await gatherer(runs).submit("a") == "A"
    assert runs.batches == [["a"]]


async def test_items_that_are_ready_together_share_a_batch() -> None:
    runs = Runs()
    gathering = gatherer(runs)

    assert await asyncio.gather(*(gathering.submit(name) for name in "abc")) == ["A", "B", "C"]
    assert runs.batches == [["a", "b", "c"]]


async def test_what_arrives_during_a_batch_shares_the_next_ones_in_order_of_arrival() -> None:
    runs = Runs()
    gathering = gatherer(runs, maximum_batch=3)
    first = await held_up(runs, gathering)
    rest = [asyncio.create_task(gathering.submit(name)) for name in "abcd"]
    await asyncio.sleep(0)
    runs.open.set()

    assert await asyncio.gather(first, *rest) == ["FIRST", "A", "B", "C", "D"]
    assert runs.batches == [["first"], ["a", "b", "c"], ["d"]]


async def test_how_many_wait_shows_also_while_a_batch_hangs() -> None:
    """That is when somebody looks."""
    runs = Runs()
    gathering = gatherer(runs)
    first = await held_up(runs, gathering)
    others = [asyncio.create_task(gathering.submit(item)) for item in "abc"]
    await asyncio.sleep(0)

    assert REGISTRY.get_sample_value("ewallet_queue_depth", {"database": "test"}) == 3

    runs.open.set()
    await asyncio.gather(first, *others)
    assert REGISTRY.get_sample_value("ewallet_queue_depth", {"database": "test"}) == 0


async def test_a_slow_batch_is_told_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ewallet.plumbing.batching.SLOW_SECONDS", 0.0)

    await gatherer(Runs()).submit("a")

    (line,) = capsys.readouterr().out.splitlines()
    assert "batch.slow" in line
    assert "items=1" in line


async def test_a_batch_belongs_to_no_request() -> None:
    """The next one may be another's, and its log lines must not name the first."""
    seen: list[str | None] = []

    async def run(batch: Sequence[str]) -> Sequence[str]:
        seen.append(request_in_hand.get())
        return batch

    request_in_hand.set("req_1")
    try:
        await Gatherer(run, name="test").submit("a")
    finally:
        request_in_hand.set(None)

    assert seen == [None]


async def test_a_full_queue_refuses_at_once_and_takes_again_later() -> None:
    runs = Runs()
    gathering = gatherer(runs, maximum_queue=2)
    first = await held_up(runs, gathering)
    waiting = [asyncio.create_task(gathering.submit(name)) for name in "ab"]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded, match="full"):
        await gathering.submit("c")
    runs.open.set()
    await asyncio.gather(first, *waiting)

    assert await gathering.submit("d") == "D"
    assert ["c"] not in runs.batches


async def test_an_item_whose_time_is_up_before_its_turn_is_never_begun() -> None:
    runs = Runs()
    gathering = gatherer(runs)
    first = await held_up(runs, gathering)
    late = asyncio.create_task(gathering.submit("late", deadline=time.monotonic() - 1))
    early = asyncio.create_task(gathering.submit("early", deadline=time.monotonic() + 60))
    await asyncio.sleep(0)
    runs.open.set()
    await first

    with pytest.raises(DeadlinePassed):
        await late
    assert await early == "EARLY"
    assert runs.batches == [["first"], ["early"]]


async def test_an_item_that_is_refused_alone_gets_the_error() -> None:
    gathering = gatherer(Runs())

    outcomes = await asyncio.gather(*(gathering.submit(name) for name in ("a", "refused")), return_exceptions=True)

    assert outcomes[0] == "A"
    assert isinstance(outcomes[1], KeyError)


async def test_an_error_of_the_run_reaches_everybody_and_the_next_batch_works() -> None:
    gathering = gatherer(Runs())

    outcomes = await asyncio.gather(*(gathering.submit(name) for name in ("a", "broken")), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [ValueError, ValueError]
    assert await gathering.submit("b") == "B"


async def test_a_caller_who_leaves_while_waiting_is_dropped_and_nobody_else_notices() -> None:
    runs = Runs()
    gathering = gatherer(runs)
    first = await held_up(runs, gathering)
    leaver, stayer = (asyncio.create_task(gathering.submit(name)) for name in ("leaver", "stayer"))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.sleep(0)
    runs.open.set()

    assert list(await asyncio.gather(first, stayer)) == ["FIRST", "STAYER"]
    assert runs.batches == [["first"], ["stayer"]]


async def test_a_caller_who_leaves_during_a_batch_does_not_stop_it() -> None:
    runs = Runs()
    gathering = gatherer(runs)
    first = await held_up(runs, gathering)
    first.cancel()
    second = asyncio.create_task(gathering.submit("second"))
    await asyncio.sleep(0)
    runs.open.set()

    assert await second == "SECOND"


async def test_callers_of_a_batch_that_a_shutdown_cuts_off_are_told_that_its_outcome_is_unknown() -> None:
    runs = Runs()
    gathering = gatherer(runs)
    first = await held_up(runs, gathering)
    worker = gathering._worker
    if worker is None:
        raise AssertionError("the gatherer does not work")
    worker.cancel()

    with pytest.raises(OutcomeUnknown):
        await first


# --- batches as transactions ----------------------------------------------------------------------------------------


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    make_tables(database_url, metadata)
    with opened(database_url) as database:
        yield database


def insert(tx: Connection, names: Sequence[str]) -> Sequence[str]:
    insert_rows(tx, items, [(name,) for name in names])
    return [name.upper() for name in names]


def stored(database: Database) -> set[str]:
    return set(database.read(lambda tx: tx.execute(select(items.c.name)).scalars().all()))


async def test_a_batch_is_one_transaction_in_another_thread(database: Database) -> None:
    threads: list[str] = []

    def apply(tx: Connection, names: Sequence[str]) -> Sequence[str]:
        threads.append(threading.current_thread().name)
        return insert(tx, names)

    batcher: Batcher[str, str] = Batcher(database, apply)

    assert await asyncio.gather(*(batcher.submit(name) for name in "abc")) == ["A", "B", "C"]
    assert stored(database) == {"a", "b", "c"}
    assert threads == ["test-writer_0"]


async def test_a_poisonous_item_is_found_and_alone_gets_the_error(database: Database) -> None:
    batcher: Batcher[str, str] = Batcher(database, insert)
    await batcher.submit("taken")
    names = [f"item-{number}" for number in range(50)]
    names[33] = "taken"

    outcomes = await asyncio.gather(*(batcher.submit(name) for name in names), return_exceptions=True)

    failed = [name for name, outcome in zip(names, outcomes, strict=True) if isinstance(outcome, Exception)]
    assert failed == ["taken"]
    assert isinstance(outcomes[33], IntegrityError)
    assert stored(database) == set(names)


async def test_a_bug_in_the_rules_hurts_only_the_item_that_meets_it(database: Database) -> None:
    def apply(tx: Connection, names: Sequence[str]) -> Sequence[str]:
        if "bug" in names:
            raise ZeroDivisionError
        return insert(tx, names)

    batcher: Batcher[str, str] = Batcher(database, apply)

    outcomes = await asyncio.gather(*(batcher.submit(name) for name in ("a", "bug", "b")), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [str, ZeroDivisionError, str]
    assert stored(database) == {"a", "b"}


async def test_a_batch_takes_what_arrived_while_the_one_before_it_was_in_its_transaction(database: Database) -> None:
    begun, proceed = threading.Event(), threading.Event()
    batches: list[list[str]] = []

    def apply(tx: Connection, names: Sequence[str]) -> Sequence[str]:
        batches.append(list(names))
        begun.set()
        proceed.wait(10)
        return insert(tx, names)

    batcher: Batcher[str, str] = Batcher(database, apply)
    first = asyncio.create_task(batcher.submit("first"))
    await asyncio.to_thread(begun.wait, 10)
    late = asyncio.create_task(batcher.submit("late", deadline=time.monotonic() - 1))
    rest = [asyncio.create_task(batcher.submit(name)) for name in "ab"]
    await asyncio.sleep(0)
    proceed.set()

    assert await asyncio.gather(first, *rest) == ["FIRST", "A", "B"]
    with pytest.raises(DeadlinePassed):
        await late
    assert batches == [["first"], ["a", "b"]]


async def test_batches_without_end_leave_the_writer_to_others_now_and_then(database: Database) -> None:
    """The relay's writes and leases use the same thread: a busy platform must not starve them."""
    batcher: Batcher[str, str] = Batcher(database, insert, maximum_batch=1)
    payments = [asyncio.create_task(batcher.submit(f"item-{number:03}")) for number in range(200)]
    await asyncio.sleep(0)

    seen = await database.writing(lambda tx: len(tx.execute(select(items.c.name)).all()))

    assert seen < 100
    await asyncio.gather(*payments)


async def test_callers_are_told_when_there_is_no_writer_any_more(database_url: str) -> None:
    make_tables(database_url, metadata)
    with opened(database_url) as database:
        batcher: Batcher[str, str] = Batcher(database, insert)

    with pytest.raises(RuntimeError, match="shutdown"):
        await batcher.submit("late")


async def test_callers_of_a_transaction_that_a_shutdown_cuts_off_are_told_that_its_outcome_is_unknown(
    database: Database,
) -> None:
    begun, proceed = threading.Event(), threading.Event()

    def apply(tx: Connection, names: Sequence[str]) -> Sequence[str]:
        begun.set()
        proceed.wait(10)
        return insert(tx, names)

    batcher: Batcher[str, str] = Batcher(database, apply)
    caller = asyncio.create_task(batcher.submit("a"))
    await asyncio.to_thread(begun.wait, 10)
    worker = batcher._worker
    if worker is None:
        raise AssertionError("the batcher does not work")
    worker.cancel()

    with pytest.raises(OutcomeUnknown):
        await caller
    proceed.set()
