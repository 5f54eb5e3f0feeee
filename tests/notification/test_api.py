"""The inbox over HTTP, as the contract says it."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from ewallet.kernel.caller import Role
from ewallet.notification.service import NotificationService
from tests.support.notification import CUSTOMER, MERCHANT, STRANGER, bearer, new_house, payment_event, serving

UNKNOWN = "ntf_00000000000000000000000000"


@pytest.fixture
async def platform(sqlite_url: str) -> AsyncIterator[tuple[httpx2.AsyncClient, NotificationService]]:
    """A client of a running notification service, and the service itself."""
    house = new_house(sqlite_url)
    async with (
        serving(house.application) as (address, _server),
        httpx2.AsyncClient(base_url=address, trust_env=False) as client,
    ):
        yield client, house.service


Platform = tuple[httpx2.AsyncClient, NotificationService]


async def inbox(client: httpx2.AsyncClient, user: str, **parameters: Any) -> dict[str, Any]:
    answer = await client.get("/notification", headers=bearer(user), params=parameters)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def test_a_notification_has_the_members_of_the_contract(platform: Platform) -> None:
    client, service = platform
    event = payment_event()
    await service.deliver([event])

    page = await inbox(client, CUSTOMER)

    assert page["nextCursor"] is None
    [item] = page["items"]
    assert item.pop("notificationId").startswith("ntf_")
    assert item == {
        "event": "payment.succeeded",
        "title": "You paid $12.50",
        "body": f"To {MERCHANT} for order-17.",
        "data": event.data,
        "readAt": None,
        "createdAt": "2026-09-21T14:13:20.000Z",
    }


@pytest.mark.parametrize("role", [Role.CUSTOMER, Role.MERCHANT, Role.ADMIN])
async def test_every_user_has_an_inbox_of_the_own(platform: Platform, role: Role) -> None:
    client, service = platform
    await service.deliver([payment_event()])

    answer = await client.get("/notification", headers=bearer(STRANGER, role))

    assert (answer.status_code, answer.json()) == (200, {"items": [], "nextCursor": None})


async def test_pages_follow_each_other_without_gap_or_repetition(platform: Platform) -> None:
    client, service = platform
    await service.deliver([payment_event(reference=f"order-{number}") for number in range(7)])
    walked: list[str] = []
    page = await inbox(client, CUSTOMER, limit=3)
    while True:
        walked += [item["data"]["reference"] for item in page["items"]]
        if page["nextCursor"] is None:
            break
        page = await inbox(client, CUSTOMER, limit=3, cursor=page["nextCursor"])

    assert walked == [f"order-{number}" for number in reversed(range(7))]


async def test_reading_moves_a_notification_from_the_unread_to_the_read(platform: Platform) -> None:
    client, service = platform
    await service.deliver([payment_event(), payment_event("payment.failed")])
    newest, oldest = (item["notificationId"] for item in (await inbox(client, CUSTOMER))["items"])

    for _ in range(2):
        answer = await client.post(f"/notification/{newest}/read", headers=bearer(CUSTOMER))
        assert (answer.status_code, answer.content) == (204, b"")

    [read] = (await inbox(client, CUSTOMER, unread="false"))["items"]
    [unread] = (await inbox(client, CUSTOMER, unread="true"))["items"]
    assert (read["notificationId"], unread["notificationId"]) == (newest, oldest)
    assert read["readAt"] is not None


async def test_what_belongs_to_another_looks_like_what_does_not_exist(platform: Platform) -> None:
    client, service = platform
    await service.deliver([payment_event()])
    [item] = (await inbox(client, CUSTOMER))["items"]

    answers = [
        await client.post(f"/notification/{notification_id}/read", headers=bearer(user, role))
        for notification_id, user, role in [
            (item["notificationId"], MERCHANT, Role.MERCHANT),
            (item["notificationId"], STRANGER, Role.ADMIN),
            (UNKNOWN, CUSTOMER, Role.CUSTOMER),
            ("não-é-um-id", CUSTOMER, Role.CUSTOMER),
        ]
    ]

    assert {(answer.status_code, answer.json()["type"], answer.json()["detail"]) for answer in answers} == {
        (404, "/problems/not-found", "There is no such notification, or it is not yours.")
    }


@pytest.mark.parametrize(
    "query",
    [
        "unread=maybe",
        "limit=0",
        "limit=101",
        "limit=ten",
        "cursor=nonsense",
        "cursor=WyJ4Il0",  # ["x"]
        "cursor=Wy0xXQ",  # [-1]
        "cursor=WzEwMDAwMDAwMDAwMDAwMDAwMDAwMDAwXQ",  # [10^23], which no database could bind
        "userId=somebody",
        "limit=1&limit=2",
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused(platform: Platform, query: str) -> None:
    client, _service = platform

    answer = await client.get(f"/notification?{query}", headers=bearer(CUSTOMER))

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation-error")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/notification"), ("GET", "/notification/stream"), ("POST", f"/notification/{UNKNOWN}/read")],
)
async def test_nobody_gets_in_without_the_token_of_a_user(platform: Platform, method: str, path: str) -> None:
    client, _service = platform

    without = await client.request(method, path)
    expired = await client.request(method, path, headers=bearer(CUSTOMER, seconds=-1))
    service = await client.request(method, path, headers=bearer("svc_backend", Role.SERVICE))

    assert (without.status_code, without.headers["www-authenticate"]) == (401, "Bearer")
    assert expired.status_code == 401
    assert service.status_code == 403


async def test_users_cannot_hand_events_over(platform: Platform) -> None:
    client, _service = platform

    answer = await client.post(
        "/internal/notification/events", headers=bearer(CUSTOMER, Role.ADMIN), json={"events": []}
    )

    assert answer.status_code == 401


async def test_the_document_names_what_users_see_and_nothing_internal(platform: Platform) -> None:
    client, _service = platform

    document = (await client.get("/openapi/openapi.json")).json()

    assert set(document["paths"]) == {
        "/notification",
        "/notification/stream",
        "/notification/audit",
        "/notification/{notificationId}/read",
        "/notification/preferences",
        "/notification/addresses/{userId}",
        "/notification/webhooks",
        "/notification/webhooks/{webhookId}",
        "/notification/webhooks/{webhookId}/enable",
        "/notification/webhooks/{webhookId}/disable",
        "/notification/webhooks/{webhookId}/rotate-secret",
        "/notification/webhooks/{webhookId}/test",
        "/notification/webhooks/{webhookId}/deliveries",
        "/notification/webhooks/{webhookId}/deliveries/{deliveryId}/redeliver",
    }
    stream = document["paths"]["/notification/stream"]["get"]
    assert list(stream["responses"]["200"]["content"]) == ["text/event-stream"]


async def test_operators_see_that_the_service_lives_and_can_work(platform: Platform) -> None:
    client, _service = platform

    live, ready, metrics = [await client.get(path) for path in ("/health/live", "/health/ready", "/metrics")]

    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert "ewallet_batch_size" in metrics.text
