"""People are told by what an operator has beside e-mail: SMS, push, chat."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from ewallet.kernel.caller import Role
from ewallet.notification.service import NotificationService
from tests.support.notification import CUSTOMER, MERCHANT, STRANGER, bearer, new_house, payment_event, serving
from tests.support.receiver import Receiver, answering, receiving

PREFERENCES = "/notification/preferences"
ADDRESSES = f"/notification/addresses/{CUSTOMER}"
NUMBER = "+43660123"
STAFF = bearer("usr_staff", Role.ADMIN)


class Platform:
    """Notification with the channels ``sms`` and ``chat``, whose services are one server."""

    def __init__(self, http: httpx2.AsyncClient, service: NotificationService, receiver: Receiver) -> None:
        self.http = http
        self.service = service
        self.receiver = receiver

    async def reaches(self, **addresses: str) -> None:
        answer = await self.http.put(ADDRESSES, headers=STAFF, json={"addresses": addresses})
        assert (answer.status_code, answer.json()) == (200, {"addresses": addresses}), answer.text

    async def wants(self, **body: Any) -> None:
        answer = await self.http.put(PREFERENCES, headers=bearer(CUSTOMER), json=body)
        assert answer.status_code == 200, answer.text

    async def told(self, count: int) -> list[tuple[str, str]]:
        """By which channel and where, and what."""
        return sorted((got.path, json.loads(got.body)["title"]) for got in await self.receiver.wait_for(count))


@asynccontextmanager
async def platform_on(database_url: str) -> AsyncIterator[Platform]:
    async with receiving() as receiver:
        server = f"json://127.0.0.1:{receiver.port}"
        house = new_house(database_url, apprise_urls=f"sms={server}/sms/{{to}} chat={server}/chat/{{to}}")
        async with (
            serving(house.application) as (address, _server),
            httpx2.AsyncClient(base_url=address, trust_env=False) as http,
        ):
            yield Platform(http, house.service, receiver)


@pytest.fixture
async def platform(sqlite_url: str) -> AsyncIterator[Platform]:
    async with platform_on(sqlite_url) as platform:
        yield platform


async def test_each_event_comes_once_by_each_channel_that_was_chosen_for_it(database_url: str) -> None:
    """And those about security by every channel."""
    async with platform_on(database_url) as platform:
        await platform.reaches(sms=NUMBER, chat="7")
        await platform.wants(channelEvents={"sms": ["payment.failed"], "chat": ["payment.failed", "payment.succeeded"]})
        paid, frozen = payment_event(), payment_event("wallet.frozen", recipients=(CUSTOMER,), reason="A stolen phone")

        await platform.service.deliver([paid, paid, payment_event("payment.failed"), frozen])
        await platform.service.deliver([paid])

        assert await platform.told(5) == [
            ("/chat/7", "You paid $12.50"),
            ("/chat/7", "Your payment of $12.50 failed"),
            ("/chat/7", "Your wallet is frozen"),
            (f"/sms/{NUMBER}", "Your payment of $12.50 failed"),
            (f"/sms/{NUMBER}", "Your wallet is frozen"),
        ]


async def test_what_somebody_says_and_where_staff_reaches_them_leave_each_other_alone(platform: Platform) -> None:
    await platform.wants(locale="de", channelEvents={"chat": ["payment.succeeded"]})
    await platform.reaches(sms=NUMBER)
    await platform.reaches(chat="7")
    await platform.wants(channelEvents={"chat": ["payment.failed"]})

    answer = await platform.http.get(ADDRESSES, headers=bearer(CUSTOMER))
    assert answer.json() == {"addresses": {"chat": "7"}}
    await platform.service.deliver([payment_event(), payment_event("payment.failed")])
    assert await platform.told(1) == [("/chat/7", "Your payment of $12.50 failed")]


async def test_a_channel_that_takes_nothing_holds_up_no_other_and_is_tried_again(platform: Platform) -> None:
    async def fails_once(receiver: Receiver, got: Any, writer: Any) -> None:
        first = got.path.startswith("/sms") and sum(each.path == got.path for each in receiver.got) == 1
        await answering(500 if first else 200)(receiver, got, writer)

    platform.receiver.behave = fails_once
    await platform.reaches(sms=NUMBER, chat="7")
    await platform.wants(channelEvents={"sms": ["payment.succeeded"], "chat": ["payment.succeeded"]})

    await platform.service.deliver([payment_event()])

    assert [path for path, _ in await platform.told(3)] == ["/chat/7", f"/sms/{NUMBER}", f"/sms/{NUMBER}"]


@pytest.mark.parametrize("channel", ["fax", "email"])
async def test_an_address_on_a_channel_that_is_none_is_refused(platform: Platform, channel: str) -> None:
    answer = await platform.http.put(ADDRESSES, headers=STAFF, json={"addresses": {channel: NUMBER}})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"/addresses/{channel}")
    assert "there are sms, chat" in answer.text


@pytest.mark.parametrize("number", ["", "../admin", "1/2", "1 2", "1?to=2", "1%2F2", f"{NUMBER}\n", "1" * 129])
async def test_an_address_that_cannot_be_is_refused_and_nothing_is_stored(platform: Platform, number: str) -> None:
    await platform.reaches(sms=NUMBER)

    answer = await platform.http.put(ADDRESSES, headers=STAFF, json={"addresses": {"chat": "7", "sms": number}})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/addresses")
    kept = await platform.http.get(ADDRESSES, headers=STAFF)
    assert kept.json() == {"addresses": {"sms": NUMBER}}


async def test_an_address_is_seen_by_its_owner_and_written_by_staff(platform: Platform) -> None:
    """Who could write it could have the operator pay for messages to a number that earns by them."""
    await platform.reaches(sms=NUMBER)

    own = await platform.http.put(ADDRESSES, headers=bearer(CUSTOMER), json={"addresses": {}})
    others = await platform.http.get(ADDRESSES, headers=bearer(STRANGER))
    nobodys = await platform.http.get(f"/notification/addresses/{MERCHANT}", headers=bearer(MERCHANT, Role.MERCHANT))
    no_id = await platform.http.put("/notification/addresses/somebody", headers=STAFF, json={"addresses": {}})

    assert (own.status_code, others.status_code, no_id.status_code) == (403, 404, 404)
    assert nobodys.json() == {"addresses": {}}


async def test_the_audit_tells_who_wrote_an_address_but_not_which(platform: Platform) -> None:
    await platform.reaches(sms=NUMBER)

    trail = await platform.http.get("/notification/audit", headers=STAFF, params={"subject": CUSTOMER})

    [record] = trail.json()["items"]
    assert (record["actor"], record["action"], record["detail"]) == (
        "usr_staff",
        "addresses.replace",
        {"channels": ["sms"]},
    )
    assert NUMBER not in trail.text
