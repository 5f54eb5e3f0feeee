"""What the inbox promises on both databases, with several processes writing."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, select

from ewallet.kernel.ids import derived_id, new_id
from ewallet.notification import store
from ewallet.plumbing.database import Database, open_database
from ewallet.plumbing.migrations import migrate
from ewallet.plumbing.schema import insert_rows, version_table
from tests.support.notification import CUSTOMER, MERCHANT, NOW


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
    database = open_database(url, "notification")
    yield database
    database.close()


def notification(number: int, user_id: str = CUSTOMER) -> store.NewNotification:
    event_id = derived_id("evt", new_id("pay", NOW, number.to_bytes), "payment.succeeded")
    return store.NewNotification(
        id=derived_id("ntf", event_id, user_id),
        user_id=user_id,
        event="payment.succeeded",
        title="You paid $12.50",
        body="To usr_payee.",
        data="{}",
        created_at=NOW,
    )


def add(database: Database, *notifications: store.NewNotification) -> None:
    database.transact(lambda tx: store.add(tx, notifications))


def ids(database: Database, user_id: str = CUSTOMER) -> list[str]:
    """A user's notifications, oldest first."""
    rows = database.read(lambda tx: store.following(tx, user_id, 0, limit=1000))
    return [row.id for row in rows]


def test_the_migrations_make_exactly_the_tables_that_the_store_uses(database: Database) -> None:
    def differences(tx: Connection) -> list[object]:
        ours = {table.name for table in store.metadata.sorted_tables}
        context = MigrationContext.configure(
            tx,
            opts={
                "version_table": version_table("notification"),
                "compare_type": True,
                "include_name": lambda name, kind, _parents: kind != "table" or name in ours,
            },
        )
        return list(compare_metadata(context, store.metadata))

    assert database.read(differences) == []


def test_a_notification_that_comes_again_is_stored_once(database: Database) -> None:
    first, second = notification(1), notification(2)

    add(database, first)
    add(database, first, second, second)

    assert ids(database) == [first.id, second.id]


def test_the_sequence_has_no_gaps_and_keeps_the_order(database: Database) -> None:
    wanted = [notification(number) for number in range(300)]
    add(database, *wanted[:100])
    add(database, *wanted[50:300])

    rows = database.read(lambda tx: store.following(tx, CUSTOMER, 0, limit=1000))

    assert [(row.sequence, row.id) for row in rows] == [(place, n.id) for place, n in enumerate(wanted, 1)]
    assert database.read(store.last_place) == 300


def test_two_processes_that_store_the_same_at_once_store_it_once(database: Database, other_process: Database) -> None:
    """Two relays, one of which has lost its lease without knowing it."""
    both_ready = threading.Barrier(2)

    def store_all(by: Database) -> None:
        for number in range(20):
            both_ready.wait()
            add(by, notification(number), notification(number, MERCHANT))

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(store_all, by) for by in (database, other_process)]:
            done.result()

    expected = [notification(number).id for number in range(20)]
    assert ids(database) == expected
    assert len(ids(database, MERCHANT)) == 20


def test_whoever_reads_behind_the_last_place_misses_nothing(database: Database, other_process: Database) -> None:
    """A later place never becomes visible before an earlier one, or a stream would pass over the earlier."""
    writers_left = [database, other_process]

    def write(by: Database, start: int) -> None:
        for number in range(start, start + 50):
            add(by, notification(number))
        writers_left.remove(by)

    seen: list[str] = []
    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(write, by, start) for by, start in ((database, 0), (other_process, 1000))]
        place, finished = 0, False
        while not finished:
            finished = not writers_left
            rows = database.read(lambda tx: store.following(tx, CUSTOMER, place, limit=7))  # noqa: B023  # called at once
            finished = finished and not rows
            seen += [row.id for row in rows]
            place = rows[-1].sequence if rows else place
        for writer in done:
            writer.result()

    assert len(seen) == 100
    assert seen == ids(database)


def test_pages_walk_the_whole_inbox_newest_first(database: Database) -> None:
    wanted = [notification(number) for number in range(25)]
    add(database, *wanted, notification(99, MERCHANT))
    walked: list[str] = []
    before = None
    while rows := database.read(
        lambda tx: store.page(tx, CUSTOMER, unread=None, before=before, limit=10)  # noqa: B023  # called at once
    ):
        walked += [row.id for row in rows]
        before = rows[-1].sequence

    assert walked == [n.id for n in reversed(wanted)]


def test_reading_once_is_remembered_with_its_first_time(database: Database) -> None:
    read, unread = notification(1), notification(2)
    add(database, read, unread)

    for now in (NOW + 5, NOW + 9):
        assert database.transact(lambda tx: store.mark_read(tx, CUSTOMER, read.id, now)) is None  # noqa: B023  # called at once

    def page(tx: Connection, *, unread: bool) -> list[tuple[str, int | None]]:
        return [(row.id, row.read_at) for row in store.page(tx, CUSTOMER, unread=unread, before=None, limit=10)]

    assert database.read(lambda tx: page(tx, unread=False)) == [(read.id, NOW + 5)]
    assert database.read(lambda tx: page(tx, unread=True)) == [(unread.id, None)]


def test_nobody_marks_what_belongs_to_another(database: Database) -> None:
    mine = notification(1)
    add(database, mine)

    assert database.transact(lambda tx: store.mark_read(tx, MERCHANT, mine.id, NOW)) is not None
    assert database.read(lambda tx: tx.execute(select(func.count(store.inbox.c.read_at))).scalar_one()) == 0


def test_how_late_deliveries_are_is_told_by_channel(database: Database) -> None:
    """Not of who has nothing to get, nor of who will be tried later."""
    columns = ("id", "channel", "next_at", "owner", "until")
    at_by_id = {"late": NOW - 90_000_000, "later": NOW - 5_000_000, "resting": NOW + 1, "idle": store.NEVER}
    rows = [(name, store.WEBHOOK, at, "", 0) for name, at in at_by_id.items()]
    database.transact(lambda tx: insert_rows(tx, store.receivers, rows, columns=columns))

    found = database.read(lambda tx: list(store.figures(tx, NOW, channels=(store.WEBHOOK, store.EMAIL))))

    assert {figure.labels: figure.value for figure in found} == {("webhook",): 90, ("email",): 0}
