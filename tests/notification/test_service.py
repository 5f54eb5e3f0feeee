"""What the use cases promise beyond what the doors and the HTTP tests see."""

import asyncio
from collections.abc import Sequence

import pytest

from ewallet.kernel.errors import Overloaded
from ewallet.notification.messages import NotificationList
from ewallet.notification.service import NotificationService
from ewallet.plumbing.batching import MAXIMUM_QUEUE
from ewallet.plumbing.outbox import Event
from tests.support.notification import CUSTOMER, MERCHANT, caller, payment_event, running

PATIENCE_SECONDS = 30


async def told(service: NotificationService, user: str) -> list[str]:
    page = await service.inbox(caller(user), unread=None, limit=100, cursor=None)
    assert isinstance(page, NotificationList)
    return [item.data["reference"] for item in page.items]


async def test_what_the_database_refuses_is_given_back_and_the_others_are_told(mariadb_url: str) -> None:
    unending = "usr_" + "x" * 100
    impossible = payment_event(customerId=unending, recipients=(unending, MERCHANT))
    async with running(mariadb_url) as service:
        [undeliverable] = await service.deliver(
            [payment_event(reference="before"), impossible, payment_event(reference="after")]
        )

        assert undeliverable.event_id == impossible.id
        assert "user_id" in undeliverable.error
        assert await told(service, MERCHANT) == ["after", "before"]


async def test_an_event_that_one_recipient_cannot_be_told_is_told_to_none(sqlite_url: str) -> None:
    """All of an event or nothing, so that its coming again finds either."""
    async with running(sqlite_url) as service:
        [undeliverable] = await service.deliver([payment_event(recipients=(CUSTOMER, "usr_stranger"))])

        assert "no part" in undeliverable.error
        assert await told(service, CUSTOMER) == []


async def test_two_processes_that_get_the_same_events_at_once_tell_them_once(database_url: str) -> None:
    events = [payment_event(reference=f"order-{number}") for number in range(40)]
    async with running(database_url) as one, running(database_url) as other:
        await asyncio.gather(*(process.deliver(events[start:]) for start in (0, 10, 20) for process in (one, other)))

        assert sorted(await told(one, CUSTOMER)) == sorted(f"order-{number}" for number in range(40))
        assert len(await told(other, MERCHANT)) == 40


async def test_more_than_the_queue_holds_is_refused_and_told_once_when_it_comes_again(sqlite_url: str) -> None:
    events = [payment_event(recipients=(MERCHANT,)) for _ in range(MAXIMUM_QUEUE + 1)]
    async with running(sqlite_url) as service:
        with pytest.raises(Overloaded):
            await service.deliver(events)
        for start in range(0, len(events), 1000):
            await deliver_until_taken(service, events[start : start + 1000])

        cursor, stored = None, set[str]()
        while cursor is not None or not stored:
            page = await service.inbox(caller(MERCHANT), unread=True, limit=100, cursor=cursor)
            assert isinstance(page, NotificationList)
            stored |= {item.data["transactionId"] for item in page.items}
            cursor = page.next_cursor

    assert stored == {event.data["transactionId"] for event in events}


async def deliver_until_taken(service: NotificationService, events: Sequence[Event]) -> None:
    """What a relay does: the same events again, later."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                assert list(await service.deliver(events)) == []
            except Overloaded:
                await asyncio.sleep(0.01)
            else:
                return
