"""People choose how they are told, and are told so."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from ewallet.notification.service import NotificationService
from ewallet.plumbing.outbox import Event
from ewallet.plumbing.settings import SettingsError
from tests.support.mail import PostOffice, post_office
from tests.support.notification import CUSTOMER, MERCHANT, bearer, new_house, payment_event, serving

PREFERENCES = "/notification/preferences"
ADA, SHOP = "ada@example.com", "shop@example.com"
IN_GERMAN = "Sie haben 12,50\N{NO-BREAK SPACE}$ bezahlt"


class Platform:
    """Notification with a mail server."""

    def __init__(self, http: httpx2.AsyncClient, service: NotificationService, office: PostOffice) -> None:
        self.http = http
        self.service = service
        self.office = office

    async def wants(self, user: str, **body: Any) -> dict[str, Any]:
        answer = await self.http.put(PREFERENCES, headers=bearer(user), json=body)
        assert answer.status_code == 200, answer.text
        preferences: dict[str, Any] = answer.json()
        return preferences

    async def mailed(self, count: int) -> list[tuple[str, str]]:
        return [(message["To"], message["Subject"]) for message in await self.office.wait_for(count)]


@asynccontextmanager
async def platform_on(database_url: str) -> AsyncIterator[Platform]:
    async with post_office() as office:
        house = new_house(database_url, smtp_url=office.url, email_from="Shop <payments@shop.example>")
        async with (
            serving(house.application) as (address, _server),
            httpx2.AsyncClient(base_url=address, trust_env=False) as http,
        ):
            yield Platform(http, house.service, office)


@pytest.fixture
async def platform(sqlite_url: str) -> AsyncIterator[Platform]:
    async with platform_on(sqlite_url) as platform:
        yield platform


def frozen() -> Event:
    return payment_event("wallet.frozen", recipients=(CUSTOMER,), reason="A stolen phone")


async def test_each_side_gets_its_own_mail_once(database_url: str) -> None:
    async with platform_on(database_url) as platform:
        await platform.wants(CUSTOMER, email=ADA)
        await platform.wants(MERCHANT, email=SHOP)
        event = payment_event()

        await platform.service.deliver([event, event])
        await platform.service.deliver([event])
        await platform.service.deliver([payment_event("payment.failed")])

        assert sorted(await platform.mailed(4)) == [
            (ADA, "You paid $12.50"),
            (ADA, "Your payment of $12.50 failed"),
            (SHOP, "A payment of $12.50 to you failed"),
            (SHOP, "You received $12.25"),
        ]


async def test_who_has_said_nothing_gets_no_mail(platform: Platform) -> None:
    await platform.wants(MERCHANT, email=SHOP)

    await platform.service.deliver([payment_event()])

    assert await platform.mailed(1) == [(SHOP, "You received $12.25")]
    answer = await platform.http.get(PREFERENCES, headers=bearer(CUSTOMER))
    assert answer.json() == {"email": None, "emailEvents": None, "channelEvents": {}, "locale": None}


async def test_only_events_that_were_asked_for_are_mailed_and_those_about_security_always(platform: Platform) -> None:
    assert await platform.wants(CUSTOMER, email=ADA, emailEvents=["payment.failed"]) == {
        "email": ADA,
        "emailEvents": ["payment.failed"],
        "channelEvents": {},
        "locale": None,
    }

    await platform.service.deliver([payment_event(), payment_event("payment.failed"), frozen()])

    assert sorted(await platform.mailed(2)) == [
        (ADA, "Your payment of $12.50 failed"),
        (ADA, "Your wallet is frozen"),
    ]


async def test_preferences_are_replaced_as_a_whole(platform: Platform) -> None:
    await platform.wants(CUSTOMER, email=ADA, emailEvents=[])
    assert await platform.wants(CUSTOMER) == {"email": None, "emailEvents": None, "channelEvents": {}, "locale": None}

    await platform.service.deliver([frozen()])
    await platform.wants(CUSTOMER, email=ADA)
    await platform.service.deliver([payment_event()])

    assert await platform.mailed(1) == [(ADA, "You paid $12.50")]


async def test_inbox_and_mail_speak_the_language_that_was_chosen(database_url: str) -> None:
    async with platform_on(database_url) as platform:
        await platform.wants(CUSTOMER, email=ADA, locale="de")
        await platform.wants(MERCHANT, email=SHOP)

        await platform.service.deliver([payment_event()])

        assert sorted(await platform.mailed(2)) == [(ADA, IN_GERMAN), (SHOP, "You received $12.25")]
        html = platform.office.messages[0].get_body(("html",)), platform.office.messages[1].get_body(("html",))
        assert sorted(part.get_content().splitlines()[1] for part in html if part) == [
            '<html lang="de">',
            '<html lang="en">',
        ]
        inbox = await platform.http.get("/notification", headers=bearer(CUSTOMER))
        assert [item["title"] for item in inbox.json()["items"]] == [IN_GERMAN]
        await platform.wants(CUSTOMER)
        inbox = await platform.http.get("/notification", headers=bearer(CUSTOMER))
        assert [item["title"] for item in inbox.json()["items"]] == ["You paid $12.50"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"email": "ada"}, "/email"),
        ({"email": "ada@localhost"}, "/email"),
        ({"email": "ada@example.com\r\nBcc: all@example.com"}, "/email"),
        ({"email": "ada@example.com\n"}, "/email"),
        ({"email": "Ada <ada@example.com>"}, "/email"),
        ({"email": "ada@example.com,bob@example.com"}, "/email"),
        ({"email": "=?utf-8?q?bob=40example.com=2C?=@example.com"}, "/email"),
        ({"email": "a" * 250 + "@example.com"}, "/email"),
        ({"emailEvents": ["payment.exploded"]}, "/emailEvents/0"),
        ({"locale": "xx"}, "/locale"),
        ({"sms": "+43"}, "/sms"),
        ({"channelEvents": {"sms": ["payment.failed"]}}, "/channelEvents/sms"),
        ({"channelEvents": {"SMS": []}}, "/channelEvents"),
    ],
)
async def test_what_cannot_be_meant_is_refused_and_nothing_is_stored(
    platform: Platform, body: dict[str, Any], pointer: str
) -> None:
    await platform.wants(CUSTOMER, email=ADA)

    answer = await platform.http.put(PREFERENCES, headers=bearer(CUSTOMER), json=body)

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    kept = await platform.http.get(PREFERENCES, headers=bearer(CUSTOMER))
    assert kept.json()["email"] == ADA


def test_wrong_settings_are_named_at_the_start(sqlite_url: str) -> None:
    for settings, named in (
        ({"smtp_url": "smtp://mail.example"}, "EWALLET_EMAIL_FROM"),
        ({"webhook_allowed_addresses": "nowhere"}, "EWALLET_WEBHOOK_ALLOWED_ADDRESSES"),
        ({"apprise_urls": "sms=json://{to}"}, "EWALLET_APPRISE_URLS"),
        ({"apprise_urls": "sms=nonsense://x/{to}"}, "EWALLET_APPRISE_URLS"),
        ({"locale": "xx"}, "EWALLET_LOCALE"),
        ({"templates": "nowhere"}, "EWALLET_TEMPLATES"),
    ):
        with pytest.raises(SettingsError, match=named):
            new_house(sqlite_url, **settings)
