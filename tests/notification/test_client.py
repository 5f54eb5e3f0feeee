"""Both doors to notification keep the same promises."""

from collections.abc import AsyncIterator

import msgspec
import pytest
from msgspec.structs import replace

from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import InvariantBroken, Overloaded
from ewallet.notification.client import HttpNotification, NotificationClient
from ewallet.notification.service import NotificationService
from ewallet.plumbing.http.doors import Door
from ewallet.plumbing.reconciling import KeptEvents
from tests.support.notification import (
    CUSTOMER,
    INTERNAL_SECRET,
    MERCHANT,
    STRANGER,
    caller,
    new_house,
    payment_event,
    serving,
)


def door(address: str, secret: str = INTERNAL_SECRET) -> Door:
    return Door(address, caller="payment", secret=secret, clock=system_clock)


@pytest.fixture(params=["direct", "http"])
async def doors(
    request: pytest.FixtureRequest, sqlite_url: str
) -> AsyncIterator[tuple[NotificationClient, NotificationService]]:
    """A door, and the service behind it."""
    house = new_house(sqlite_url)
    async with serving(house.application) as (address, _server):
        if request.param == "direct":
            yield house.service, house.service
        else:
            http = door(address)
            yield HttpNotification(http), house.service
            await http.close()


async def titles(service: NotificationService, user: str) -> list[str]:
    page = await service.inbox(caller(user), unread=None, limit=100, cursor=None)
    return [] if not hasattr(page, "items") else [item.title for item in page.items]


async def test_each_recipient_is_told_once_however_often_the_event_comes(
    doors: tuple[NotificationClient, NotificationService],
) -> None:
    client, service = doors
    event = payment_event()

    assert list(await client.deliver([event, event])) == []
    assert list(await client.deliver([event])) == []

    assert await titles(service, CUSTOMER) == ["You paid $12.50"]
    assert await titles(service, MERCHANT) == ["You received $12.25"]


async def test_a_poison_event_comes_back_and_the_others_are_told(
    doors: tuple[NotificationClient, NotificationService],
) -> None:
    client, service = doors
    unknown = payment_event("payment.exploded")
    no_part = payment_event(recipients=(CUSTOMER,) * 2 + (STRANGER,))

    undeliverable = await client.deliver([payment_event(), unknown, no_part, payment_event("payment.failed")])

    assert {one.event_id for one in undeliverable} == {unknown.id, no_part.id}
    assert await titles(service, CUSTOMER) == ["Your payment of $12.50 failed", "You paid $12.50"]


async def test_what_comes_behind_a_poison_event_of_the_same_key_is_not_told_before_it(
    doors: tuple[NotificationClient, NotificationService],
) -> None:
    """Far behind it, too: over HTTP these events need several calls."""
    client, service = doors
    poison = payment_event("payment.exploded")
    others = [payment_event(reference=f"order-{number}", description="é" * 1000) for number in range(100)]
    behind = [replace(others[number], ordering_key=poison.ordering_key) for number in (0, 99)]

    undeliverable = await client.deliver([poison, behind[0], *others[1:99], behind[1]])

    assert [one.event_id for one in undeliverable] == [poison.id, behind[0].id, behind[1].id]
    page = await service.inbox(caller(CUSTOMER), unread=None, limit=100, cursor=None)
    assert len(getattr(page, "items", [])) == 98


async def test_an_event_is_untold_until_each_of_its_recipients_has_it(
    doors: tuple[NotificationClient, NotificationService],
) -> None:
    """More of them than a body holds."""
    client, _service = doors
    told = [payment_event() for _ in range(3)]
    untold = [payment_event() for _ in range(500)]
    half = replace(payment_event(), recipients=(CUSTOMER,))
    await client.deliver([*told, half])
    whole = replace(half, recipients=(CUSTOMER, MERCHANT))

    found = await client.untold([*told, *untold, whole])

    assert sorted(found) == sorted(event.id for event in [*untold, whole])
    assert list(await client.untold([])) == []


async def test_events_with_a_memo_are_kept_for_their_sender_and_the_memo_is_shown_to_nobody(
    doors: tuple[NotificationClient, NotificationService],
) -> None:
    client, service = doors
    kept = [replace(payment_event(reference=f"{number}"), memo={"key": f"{number}"}) for number in range(2)]
    await client.deliver([kept[0], payment_event(), kept[1], kept[0]])

    page = await client.kept_after(0)

    # Each is kept beside the notification of each of its two recipients.
    assert [(each.name, each.data["reference"], each.memo) for each in page.items] == [
        ("payment.succeeded", f"{number}", {"key": f"{number}"}) for number in (0, 0, 1, 1)
    ]
    assert page.after is not None
    assert await client.kept_after(page.after) == KeptEvents([], None)
    inbox = await service.inbox(caller(CUSTOMER), unread=None, limit=100, cursor=None)
    assert b"key" not in msgspec.json.encode(inbox)


async def test_no_events_are_no_work(doors: tuple[NotificationClient, NotificationService]) -> None:
    client, _service = doors

    assert list(await client.deliver([])) == []


async def test_a_delivery_larger_than_a_body_may_be_arrives_whole_and_in_order(
    doors: tuple[NotificationClient, NotificationService],
) -> None:
    """A relay hands over 500 events at once, some of them with long descriptions."""
    client, service = doors
    events = [payment_event(reference=f"order-{number}", description="é" * 1000) for number in range(100)]

    assert list(await client.deliver(events)) == []

    page = await service.inbox(caller(CUSTOMER), unread=None, limit=100, cursor=None)
    assert [item.data["reference"] for item in getattr(page, "items", [])] == [
        f"order-{number}" for number in reversed(range(100))
    ]


async def test_only_our_own_services_may_hand_events_over(sqlite_url: str) -> None:
    async with serving(new_house(sqlite_url).application) as (address, _server):
        stranger = door(address, secret="another secret, of the length that is needed")
        with pytest.raises(InvariantBroken, match="401"):
            await HttpNotification(stranger).deliver([payment_event()])
        await stranger.close()


async def test_a_service_that_is_not_there_is_asked_again_later() -> None:
    nobody = door("http://127.0.0.1:1")

    with pytest.raises(Overloaded):
        await HttpNotification(nobody).deliver([payment_event()])
    await nobody.close()
