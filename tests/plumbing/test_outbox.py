"""An event reaches its receiver at least once and in order, whatever happens to the relay; poison stops nobody."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import cycle

import pytest
from sqlalchemy import Connection, MetaData, func, select

from ewallet.kernel.errors import OutcomeUnknown, Overloaded
from ewallet.plumbing.database import Database
from ewallet.plumbing.leases import Leases
from ewallet.plumbing.outbox import (
    BATCH,
    LEASE_NAME,
    LEASE_SECONDS,
    MAXIMUM_ATTEMPTS,
    Event,
    Outbox,
    Relay,
    Undeliverable,
)
from ewallet.plumbing.worker import working
from tests.support.plumbing import ManualClock, make_tables, opened

NOW = 1_790_000_000_000_000

metadata = MetaData()
outbox = Outbox(metadata, "test")
leases = Leases(metadata, "test")


class Receiver:
    """Stores an event's effect once, as notification does, and remembers every time that it was handed over."""

    def __init__(self) -> None:
        self.taken: dict[str, Event] = {}
        self.handed_over: list[str] = []
        self.poison: set[str] = set()
        self.unavailable: Exception | None = None

    async def deliver(self, events: Sequence[Event]) -> Sequence[Undeliverable]:
        self.handed_over += [event.id for event in events]
        await asyncio.sleep(0)
        if self.unavailable is not None:
            raise self.unavailable
        for event in events:
            if event.ordering_key not in self.poison:
                self.taken.setdefault(event.id, event)
        return [Undeliverable(event.id, "poison") for event in events if event.ordering_key in self.poison]


class Bench:
    """One outbox, its receiver, and as many relays as a test wants, on the connections of two processes."""

    def __init__(self, database: Database, other_process: Database) -> None:
        self.database = database
        self._processes = cycle((database, other_process))
        self.receiver = Receiver()
        self.clock = ManualClock(NOW)

    def relay(self, owner: str) -> Relay:
        return Relay(next(self._processes), outbox, leases, self.receiver.deliver, owner=owner, clock=self.clock)

    def add(self, *events: Event) -> None:
        self.database.transact(lambda tx: outbox.add(tx, events))

    def left(self) -> int:
        return self.database.read(
            lambda tx: int(tx.execute(select(func.count()).select_from(outbox.events)).scalar_one())
        )

    def dead(self) -> list[tuple[str, str]]:
        return self.database.read(lambda tx: [(row.event_id, row.error) for row in tx.execute(select(outbox.dead))])


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    make_tables(database_url, metadata)
    with opened(database_url) as database, opened(database_url) as other_process:
        bench = Bench(database, other_process)
        bench.database.transact(lambda tx: leases.introduce(tx, LEASE_NAME))
        yield bench


def event(number: int, *, key: str = "") -> Event:
    return Event(
        id=f"evt_{number:05}",
        name="payment.succeeded",
        ordering_key=key or f"pay_{number}",
        recipients=("usr_1",),
        data={"number": number},
        occurred_at=NOW,
        request_id="req_1",
    )


async def drain(relay: Relay) -> None:
    while await relay.run_once():
        pass


async def test_events_arrive_whole_and_in_order_and_leave_the_outbox(bench: Bench) -> None:
    events = [event(number) for number in range(BATCH + 10)]
    bench.add(*events)

    await drain(bench.relay("one"))

    assert list(bench.receiver.taken.values()) == events
    assert bench.left() == 0


async def test_a_round_without_events_finds_no_work(bench: Bench) -> None:
    assert await bench.relay("one").run_once() == 0


async def test_an_event_of_a_transaction_that_failed_was_never_there(bench: Bench) -> None:
    def fail(tx: Connection) -> None:
        outbox.add(tx, [event(1)])
        raise KeyError

    with pytest.raises(KeyError):
        bench.database.transact(fail)
    await drain(bench.relay("one"))

    assert bench.receiver.handed_over == []


@pytest.mark.parametrize("seed", range(3))
async def test_two_relays_that_are_killed_at_random_deliver_everything_once_in_effect(bench: Bench, seed: int) -> None:
    """A cancelled round stands for a killed process: whatever it had begun and not finished must not matter."""
    chance = random.Random(seed)
    keys = [f"key_{chance.randrange(300)}" for _ in range(1000)]
    events = [event(number, key=key) for number, key in enumerate(keys)]
    bench.add(*events)
    generation = 0
    while bench.left():
        generation += 1
        relays = [bench.relay(f"{name}-{generation}") for name in ("one", "other")]
        rounds = [asyncio.create_task(drain(relay)) for relay in relays]
        await asyncio.wait(rounds, timeout=chance.random() * 0.1)
        for killed in rounds:
            killed.cancel()
            with suppress(asyncio.CancelledError):
                await killed
        bench.clock.pass_seconds(LEASE_SECONDS + 1)

    assert set(bench.receiver.taken) == {one.id for one in events}
    for key in set(keys):
        numbers = [int(one.data["number"]) for one in bench.receiver.taken.values() if one.ordering_key == key]
        assert numbers == sorted(numbers)


async def test_a_relay_that_is_stopped_lets_the_next_one_start_at_once(bench: Bench) -> None:
    first, second = bench.relay("first"), bench.relay("second")
    bench.add(event(1))
    assert await first.run_once() == 1
    bench.add(event(2))
    assert await second.run_once() == 0

    async with working(first.run_forever()):
        await asyncio.sleep(0)  # It has begun a round.

    assert await second.run_once() == 1
    await first.release()
    bench.add(event(3))
    assert await bench.relay("third").run_once() == 0, "a lease that is another's was given back"


async def test_a_relay_whose_lease_ran_out_while_it_worked_does_no_harm(bench: Bench) -> None:
    """A stopped process wakes up and finishes what another one has already done."""
    bench.add(event(1), event(2))
    sleeper, other = bench.relay("sleeper"), bench.relay("other")
    asleep, awake = asyncio.Event(), asyncio.Event()
    deliver = bench.receiver.deliver

    async def fall_asleep(events: Sequence[Event]) -> Sequence[Undeliverable]:
        outcome = await deliver(events)
        asleep.set()
        await awake.wait()
        return outcome

    sleeper._deliver = fall_asleep
    sleeping = asyncio.create_task(sleeper.run_once())
    await asleep.wait()
    assert await other.run_once() == 0
    bench.clock.pass_seconds(LEASE_SECONDS + 1)
    assert await other.run_once() == 2
    bench.add(event(3))
    awake.set()
    await sleeping

    assert bench.left() == 1
    assert list(bench.receiver.taken) == ["evt_00001", "evt_00002"]


@pytest.mark.parametrize("error", [OutcomeUnknown("no answer"), Overloaded("not now")])
async def test_a_receiver_that_is_away_loses_nothing_and_costs_no_attempt(bench: Bench, error: Exception) -> None:
    bench.add(event(1))
    relay = bench.relay("one")
    bench.receiver.unavailable = error
    for _ in range(MAXIMUM_ATTEMPTS + 1):
        with pytest.raises(type(error)):
            await relay.run_once()

    bench.receiver.unavailable = None
    await drain(relay)

    assert list(bench.receiver.taken) == ["evt_00001"]
    assert bench.dead() == []


async def test_a_poison_event_is_tried_later_and_later_and_then_kept_in_the_dead_letters(bench: Bench) -> None:
    bench.add(event(1))
    bench.receiver.poison = {"pay_1"}
    relay = bench.relay("one")
    pauses = []
    for _ in range(MAXIMUM_ATTEMPTS):
        before = bench.clock.now
        handed_over = len(bench.receiver.handed_over)
        while len(bench.receiver.handed_over) == handed_over:
            await relay.run_once()
            bench.clock.pass_seconds(1)
        pauses.append((bench.clock.now - before) // 1_000_000)

    assert bench.left() == 0
    assert bench.dead() == [("evt_00001", "poison")]
    assert pauses == [1, 1, 2, 4, 8, 16]


async def test_events_behind_a_poison_one_wait_for_it_and_others_pass(bench: Bench) -> None:
    bench.receiver.poison = {"bad"}
    bench.add(event(1, key="bad"), event(2, key="good"), event(3, key="bad"), event(4, key="good"))
    relay = bench.relay("one")

    await drain(relay)
    assert list(bench.receiver.taken) == ["evt_00002", "evt_00004"]

    bench.receiver.poison = set()
    bench.clock.pass_seconds(2)
    await drain(relay)
    assert list(bench.receiver.taken) == ["evt_00002", "evt_00004", "evt_00001", "evt_00003"]


async def test_many_events_of_one_key_go_out_together(bench: Bench) -> None:
    """One of them a round would leave a wallet that is credited a hundred times a second behind for ever."""
    events = [event(number, key="hot") for number in range(BATCH)]
    bench.add(*events)

    assert await bench.relay("one").run_once() == BATCH

    assert list(bench.receiver.taken.values()) == events


async def test_an_event_that_only_waits_for_a_poison_one_keeps_all_its_attempts(bench: Bench) -> None:
    bench.receiver.poison = {"bad"}
    bench.add(event(1, key="bad"), event(2, key="bad"))
    relay = bench.relay("one")
    while not bench.dead():
        await relay.run_once()
        bench.clock.pass_seconds(1)

    bench.receiver.poison = set()
    await drain(relay)

    assert bench.dead() == [("evt_00001", "poison")]
    assert list(bench.receiver.taken) == ["evt_00002"]


async def test_others_pass_however_many_events_wait(bench: Bench) -> None:
    """More waiting events than one batch holds, of one key and of many."""
    many = [event(number, key="bad") for number in range(BATCH + 50)]
    bad_keys = [f"bad_{number}" for number in range(BATCH + 50)]
    each = [event(1000 + number, key=key) for number, key in enumerate(bad_keys)]
    bench.receiver.poison = {"bad", *bad_keys}
    bench.add(*many, *each, event(9999, key="good"))
    relay = bench.relay("one")

    for _ in range(4):
        await relay.run_once()

    assert list(bench.receiver.taken) == ["evt_09999"]


async def test_a_second_poison_event_finds_its_place_in_the_dead_letters_too(bench: Bench) -> None:
    """On a quiet platform each finds the outbox empty, and its number must still be a new one."""
    bench.receiver.poison = {"pay_1", "pay_2"}
    relay = bench.relay("one")
    for number in (1, 2):
        bench.add(event(number))
        while bench.left():
            await relay.run_once()
            bench.clock.pass_seconds(5)

    assert bench.dead() == [("evt_00001", "poison"), ("evt_00002", "poison")]
