"""The watch wakes who has something new from another process, and costs nothing while nobody listens."""

from collections.abc import Iterator

import pytest
from sqlalchemy import event

from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import Refusal
from ewallet.notification.senders.streams import Listener, Listeners
from ewallet.notification.service import NotificationService
from ewallet.notification.worker import Watch
from ewallet.plumbing.database import Database
from tests.support.migrated import migrate
from tests.support.notification import CUSTOMER, LANGUAGES, MERCHANT, STRANGER, payment_event
from tests.support.plumbing import opened


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    migrate("notification", sqlite_url)
    with opened(sqlite_url) as database:
        yield database


@pytest.fixture
def other_process(database: Database) -> NotificationService:
    """A service whose own listeners are not ours: it cannot wake them."""
    return NotificationService(database, languages=LANGUAGES, clock=system_clock)


def listen(listeners: Listeners, user: str) -> Listener:
    listener = listeners.open(user)
    assert not isinstance(listener, Refusal)
    return listener


async def woken(listener: Listener) -> bool:
    return await listener.news(seconds=0)


async def test_nobody_listening_means_no_query(database: Database, other_process: NotificationService) -> None:
    await other_process.deliver([payment_event()])
    statements: list[str] = []
    event.listen(database._reader, "before_cursor_execute", lambda *call: statements.append(call[2]))

    assert await Watch(database, Listeners()).run_once() == 0
    assert statements == []


async def test_the_first_look_wakes_everybody(database: Database) -> None:
    """Something may have been stored between a listener's own look and this one."""
    listeners = Listeners()
    customer, stranger = listen(listeners, CUSTOMER), listen(listeners, STRANGER)

    assert await Watch(database, listeners).run_once() == 2
    assert await woken(customer)
    assert await woken(stranger)


async def test_later_looks_wake_only_who_has_something_new(
    database: Database, other_process: NotificationService
) -> None:
    listeners = Listeners()
    customer, stranger = listen(listeners, CUSTOMER), listen(listeners, STRANGER)
    watch = Watch(database, listeners)
    await watch.run_once()
    await woken(customer)
    await woken(stranger)

    assert await watch.run_once() == 0
    await other_process.deliver([payment_event(), payment_event()])
    assert await watch.run_once() == len({CUSTOMER, MERCHANT})

    assert await woken(customer)
    assert not await woken(stranger)
    assert await watch.run_once() == 0


async def test_a_watch_that_rested_starts_anew(database: Database, other_process: NotificationService) -> None:
    listeners = Listeners()
    customer = listen(listeners, CUSTOMER)
    watch = Watch(database, listeners)
    await watch.run_once()
    listeners.close(CUSTOMER, customer)
    await watch.run_once()

    await other_process.deliver([payment_event()])
    customer = listen(listeners, CUSTOMER)
    await watch.run_once()

    assert await woken(customer)
