"""Who may send to a receiver, and what is due: on both databases, with several processes."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from sqlalchemy import Connection

from ewallet.notification import store
from ewallet.notification.domain.deliveries import Progress, State
from ewallet.notification.domain.endpoints import EndpointStatus
from ewallet.notification.worker import Forgetting
from ewallet.plumbing.database import Database, open_database
from tests.support.migrated import migrate
from tests.support.notification import MERCHANT, NOW

ONE, OTHER = "own_one", "own_other"
HOOK = "whk_1"
SECOND = 1_000_000
LEASE = 5


@pytest.fixture
def url(database_url: str) -> str:
    migrate("notification", database_url)
    return database_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = open_database(url, "notification")
    yield database
    database.close()


@pytest.fixture
def other_process(url: str) -> Iterator[Database]:
    """A second set of connections: all that another process has in common with this one is the database."""
    other = open_database(url, "notification")
    yield other
    other.close()


@pytest.fixture
def hook(database: Database) -> str:
    webhook = {
        "id": HOOK,
        "user_id": MERCHANT,
        "status": EndpointStatus.ENABLED,
        "url": "https://1.1.1.1/",
        "events": None,
        "secret": "whsec_",
        "created_at": NOW,
        "updated_at": NOW,
    }
    database.transact(lambda tx: store.add_webhook(tx, webhook))
    return HOOK


def add(database: Database, *keys: str, at: int = NOW) -> None:
    """One delivery for each ordering key; they are numbered from 1."""
    known = database.read(lambda tx: len(store.deliveries_of(tx, HOOK, before=None, limit=10_000)))
    new = [
        store.NewDelivery(f"dlv_{number}", HOOK, f"evt_{number}", "payment.failed", key, "{}", at)
        for number, key in enumerate(keys, start=known + 1)
    ]
    database.transact(lambda tx: store.add_deliveries(tx, new))


def claim(database: Database, owner: str, now: int, *, limit: int = 10) -> list[str]:
    claimed = database.transact(lambda tx: store.claim(tx, owner, [store.WEBHOOK], now=now, seconds=LEASE, limit=limit))
    return [receiver for receiver, _channel in claimed]


def settle(database: Database, number: int, progress: Progress) -> None:
    database.transact(lambda tx: store.settle(tx, [store.Settlement(number, progress, 500, None, NOW)]))


def due(database: Database, now: int, *, limit: int = 100) -> list[str]:
    rows = database.read(lambda tx: store.due(tx, HOOK, now, limit=limit))
    return [row.id.removeprefix("dlv_") for row in rows]


def test_one_process_at_a_time_looks_after_a_receiver(database: Database, hook: str) -> None:
    add(database, "a")

    assert claim(database, ONE, NOW) == [hook]
    assert claim(database, OTHER, NOW) == []
    assert claim(database, ONE, NOW) == []


def test_a_lease_that_is_not_prolonged_runs_out(database: Database, hook: str) -> None:
    add(database, "a")
    claim(database, ONE, NOW)

    assert claim(database, OTHER, NOW + LEASE * SECOND) == []
    assert claim(database, OTHER, NOW + LEASE * SECOND + 1) == [hook]


def test_a_lease_that_is_prolonged_holds_and_one_that_was_lost_is_not_taken_back(database: Database, hook: str) -> None:
    add(database, "a")
    claim(database, ONE, NOW)
    later, too_late = NOW + 4 * SECOND, NOW + 20 * SECOND

    database.transact(lambda tx: store.prolong(tx, ONE, now=later, seconds=LEASE))
    assert claim(database, OTHER, NOW + 6 * SECOND) == []

    assert claim(database, OTHER, too_late) == [hook]
    database.transact(lambda tx: store.prolong(tx, ONE, now=too_late, seconds=LEASE))
    assert database.transact(lambda tx: store.give_back(tx, hook, ONE)) == store.NEVER
    assert claim(database, ONE, too_late + 1) == []


def test_a_receiver_without_work_is_nobodys(database: Database, hook: str) -> None:
    assert claim(database, ONE, NOW) == []
    assert not database.read(lambda tx: store.anybody_waits(tx, NOW, [store.WEBHOOK]))

    add(database, "a")
    assert database.read(lambda tx: store.anybody_waits(tx, NOW, [store.WEBHOOK]))
    claim(database, ONE, NOW)
    settle(database, 1, Progress(State.DELIVERED, 1, NOW))
    assert database.transact(lambda tx: store.give_back(tx, hook, ONE)) == store.NEVER
    assert claim(database, OTHER, NOW + SECOND) == []


def test_what_is_added_while_a_receiver_is_given_back_is_not_forgotten(database: Database, hook: str) -> None:
    add(database, "a")
    claim(database, ONE, NOW)
    settle(database, 1, Progress(State.DELIVERED, 1, NOW))

    add(database, "b")
    database.transact(lambda tx: store.give_back(tx, hook, ONE))

    assert claim(database, OTHER, NOW) == [hook]


def test_what_another_process_is_adding_to_a_receiver_that_is_given_back_is_not_forgotten(
    database: Database, other_process: Database, hook: str
) -> None:
    """It cannot be seen before its commit, so giving back has to wait for it."""
    add(database, "a")
    claim(database, ONE, NOW)
    settle(database, 1, Progress(State.DELIVERED, 1, NOW))
    added, commit = threading.Event(), threading.Event()

    def add_slowly(tx: Connection) -> None:
        store.add_deliveries(tx, [store.NewDelivery("dlv_2", HOOK, "evt_2", "payment.failed", "b", "{}", NOW + SECOND)])
        added.set()
        assert commit.wait(10)

    with ThreadPoolExecutor(2) as threads:
        adding = threads.submit(other_process.transact, add_slowly)
        assert added.wait(10)
        returning = threads.submit(database.transact, lambda tx: store.give_back(tx, hook, ONE))
        wait([returning], timeout=0.2)  # as long as it likes, were it not for the other
        commit.set()
        adding.result()

    assert returning.result() == NOW + SECOND
    assert claim(database, OTHER, NOW + SECOND) == [hook]


def test_a_receiver_comes_back_when_its_next_attempt_is_due(database: Database, hook: str) -> None:
    add(database, "a", "a")
    claim(database, ONE, NOW)
    settle(database, 1, Progress(State.PENDING, 1, NOW + 3 * SECOND))

    next_at = database.transact(lambda tx: store.give_back(tx, hook, ONE))

    assert next_at == NOW + 3 * SECOND  # the second of its key waits, although its own time has come
    assert claim(database, ONE, NOW + 2 * SECOND) == []
    assert claim(database, ONE, NOW + 3 * SECOND) == [hook]


def test_a_process_that_goes_gives_everything_back(database: Database, hook: str) -> None:
    add(database, "a")
    claim(database, ONE, NOW)

    database.transact(lambda tx: store.give_all_back(tx, ONE))

    assert claim(database, OTHER, NOW) == [hook]


@pytest.mark.usefixtures("hook")
def test_of_each_key_the_first_is_due_and_no_other(database: Database) -> None:
    add(database, "a", "b", "a", "c", "b")
    assert due(database, NOW) == ["1", "2", "4"]
    assert due(database, NOW, limit=2) == ["1", "2"]

    settle(database, 1, Progress(State.PENDING, 1, NOW + SECOND))
    settle(database, 2, Progress(State.DELIVERED, 1, NOW))
    assert due(database, NOW) == ["4", "5"]

    settle(database, 1, Progress(State.DEAD, 2, NOW))
    assert due(database, NOW) == ["3", "4", "5"]


@pytest.mark.usefixtures("hook")
def test_what_waits_behind_a_long_line_is_found(database: Database) -> None:
    add(database, *["stuck"] * (2 * store.SCAN_ROWS), "free")
    settle(database, 1, Progress(State.PENDING, 1, NOW + SECOND))

    assert due(database, NOW) == [str(2 * store.SCAN_ROWS + 1)]


@pytest.mark.usefixtures("hook")
def test_of_two_outcomes_of_one_attempt_the_first_one_counts(database: Database) -> None:
    """Two processes sent it, because one of them was stopped past its lease."""
    add(database, "a", "b")
    settle(database, 1, Progress(State.DELIVERED, 1, NOW))
    settle(database, 1, Progress(State.PENDING, 1, NOW))
    settle(database, 2, Progress(State.PENDING, 1, NOW + SECOND))
    settle(database, 2, Progress(State.DEAD, 1, NOW))

    rows = database.read(lambda tx: store.deliveries_of(tx, HOOK, before=None, limit=10))
    assert [row.state for row in rows] == [State.PENDING, State.DELIVERED]


def test_an_attempt_from_before_a_redelivery_does_not_end_it(database: Database, hook: str) -> None:
    add(database, "a")
    settle(database, 1, Progress(State.PENDING, 1, NOW))
    database.transact(lambda tx: store.try_again(tx, hook, "dlv_1", NOW))

    settle(database, 1, Progress(State.DEAD, 2, NOW))

    assert due(database, NOW) == ["1"]


def test_what_was_cancelled_stays_so_when_its_answer_comes_late(database: Database, hook: str) -> None:
    add(database, "a")
    database.transact(lambda tx: store.cancel(tx, hook, "The endpoint was disabled.", NOW))

    settle(database, 1, Progress(State.DELIVERED, 1, NOW))

    assert due(database, NOW) == []
    [row] = database.read(lambda tx: store.deliveries_of(tx, HOOK, before=None, limit=10))
    assert (row.state, row.last_error) == (State.CANCELLED, "The endpoint was disabled.")


async def test_what_is_long_over_is_forgotten_and_what_waits_is_not(
    database: Database, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "FORGOTTEN_AT_ONCE", 2)
    add(database, "delivered", "dead", "cancelled", "waits", "sent again")
    for number, state in enumerate((State.DELIVERED, State.DEAD, State.CANCELLED, State.PENDING), start=1):
        settle(database, number, Progress(state, 1, NOW))
    add(database, "young", at=NOW + SECOND)
    settle(database, 6, Progress(State.DELIVERED, 1, NOW))
    database.transact(lambda tx: store.try_again(tx, hook, "dlv_5", NOW + SECOND))

    def forgetting(after_seconds: int) -> Forgetting:
        return Forgetting(database, clock=lambda: NOW + 11 * SECOND, after_seconds=after_seconds)

    assert await forgetting(0).run_once() == await forgetting(11).run_once() == 0
    assert [await forgetting(10).run_once() for _ in range(3)] == [2, 1, 0]
    left = database.read(lambda tx: store.deliveries_of(tx, hook, before=None, limit=10))
    assert [row.ordering_key for row in left] == ["young", "sent again", "waits"]
