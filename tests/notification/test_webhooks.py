"""Merchants' endpoints over HTTP, with a merchant's server at the other end."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest

from ewallet.kernel.caller import Role
from ewallet.notification import store
from ewallet.notification import verify as verify_audit
from ewallet.notification.domain.endpoints import ENDPOINTS_PER_MERCHANT
from ewallet.notification.senders import webhooks as sender_module
from ewallet.notification.service import NotificationService
from ewallet.webhooks import verify
from tests.support.notification import CUSTOMER, MERCHANT, STRANGER, bearer, new_house, payment_event, serving
from tests.support.plumbing import opened
from tests.support.receiver import Behave, Got, Receiver, answering, dripping, receiving, silent

PATIENCE_SECONDS = 30
HOOKS = "/notification/webhooks"


class Merchant:
    """A merchant at the platform."""

    def __init__(self, http: httpx2.AsyncClient, service: NotificationService, user_id: str = MERCHANT) -> None:
        self.http = http
        self.service = service
        self.user_id = user_id

    async def call(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        headers = bearer(self.user_id, Role.MERCHANT)
        return await self.http.request(method, path, json=body, headers=headers)

    async def answer(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        response = await self.call(method, path, body)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer

    async def listens(self, url: str, **more: Any) -> dict[str, Any]:
        return await self.answer("POST", HOOKS, {"url": url, **more})

    async def deliveries(self, hook: dict[str, Any]) -> list[dict[str, Any]]:
        """Newest first."""
        page = await self.answer("GET", f"{HOOKS}/{hook['webhookId']}/deliveries?limit=100")
        items: list[dict[str, Any]] = page["items"]
        return items

    async def deliveries_when(
        self, hook: dict[str, Any], wanted: Callable[[list[dict[str, Any]]], bool]
    ) -> list[dict[str, Any]]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not wanted(items := await self.deliveries(hook)):  # noqa: ASYNC110  # only the log tells
                await asyncio.sleep(0.02)
        return items


def every(status: str) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda items: bool(items) and {item["status"] for item in items} == {status}


@asynccontextmanager
async def merchant(database_url: str, **settings: Any) -> AsyncIterator[Merchant]:
    house = new_house(database_url, **{"webhook_allowed_addresses": "127.0.0.1/32", **settings})
    async with (
        serving(house.application) as (address, _server),
        httpx2.AsyncClient(base_url=address, trust_env=False, timeout=30) as http,
    ):
        yield Merchant(http, house.service)


@pytest.fixture
async def shop(sqlite_url: str) -> AsyncIterator[Merchant]:
    async with merchant(sqlite_url) as shop:
        yield shop


async def test_an_event_arrives_signed_and_is_in_the_log(database_url: str) -> None:
    async with merchant(database_url) as shop, receiving() as receiver:
        hook = await shop.listens(receiver.url)
        event = payment_event()

        await shop.service.deliver([event])
        [got] = await receiver.wait_for(1)
        [delivery] = await shop.deliveries_when(hook, every("DELIVERED"))

        assert verify(got.body, got.headers, hook["secret"]) == {
            "type": "payment.succeeded",
            "timestamp": "2026-09-21T14:13:20.000Z",
            "data": event.data,
        }
        assert got.id == delivery["eventId"] == event.id
        assert (delivery["attempts"], delivery["responseStatus"], delivery["error"]) == (1, 204, None)
        assert delivery["nextAttemptAt"] is None


async def test_an_endpoint_has_the_members_of_the_contract_and_shows_its_secret_once(shop: Merchant) -> None:
    hook = await shop.listens("https://1.1.1.1/hook", events=["payment.succeeded"])

    assert hook["webhookId"].startswith("whk_")
    assert hook["secret"].startswith("whsec_")
    shown = {name: value for name, value in hook.items() if name != "secret"}
    assert (shown["url"], shown["events"], shown["status"]) == (
        "https://1.1.1.1/hook",
        ["payment.succeeded"],
        "ENABLED",
    )
    assert await shop.answer("GET", f"{HOOKS}/{hook['webhookId']}") == shown
    assert await shop.answer("GET", HOOKS) == {"items": [shown], "nextCursor": None}


async def test_an_event_that_comes_again_is_sent_once(shop: Merchant) -> None:
    async with receiving() as receiver:
        hook = await shop.listens(receiver.url)
        event, later = payment_event(), payment_event()

        await shop.service.deliver([event, event])
        await shop.service.deliver([event])
        await shop.service.deliver([later])
        await receiver.wait_for(2)

        assert [got.id for got in receiver.got] == [event.id, later.id]
        assert len(await shop.deliveries(hook)) == 2


async def test_merchants_get_their_own_events_and_those_they_asked_for(shop: Merchant) -> None:
    async with receiving() as all_events, receiving() as failures, receiving() as others:
        await shop.listens(all_events.url)
        await shop.listens(failures.url, events=["payment.failed"])
        await Merchant(shop.http, shop.service, STRANGER).listens(others.url)

        await shop.service.deliver([payment_event(), payment_event("payment.failed")])
        await all_events.wait_for(2)
        [failure] = await failures.wait_for(1)

        assert b"payment.failed" in failure.body
        assert others.got == []


async def test_what_is_not_taken_is_sent_again_with_the_same_id_and_the_same_bytes(shop: Merchant) -> None:
    async with receiving(answering(500)) as receiver:
        hook = await shop.listens(receiver.url)
        await shop.service.deliver([payment_event()])
        await receiver.wait_for(1)
        [failed] = await shop.deliveries_when(hook, lambda items: items[0]["attempts"] == 1)
        receiver.behave = answering(200)

        first, second = await receiver.wait_for(2)
        [delivered] = await shop.deliveries_when(hook, every("DELIVERED"))

        assert (failed["status"], failed["responseStatus"]) == ("PENDING", 500)
        assert failed["nextAttemptAt"] is not None
        assert delivered["attempts"] == 2
        assert (first.id, first.body) == (second.id, second.body)


async def test_events_of_one_payment_arrive_in_their_order_and_others_pass(shop: Merchant) -> None:
    """The first attempt of the first event fails; what follows of the same payment waits for it."""
    stubborn = payment_event("payment.authorized")
    follower = _following(stubborn, "payment.succeeded")
    other = payment_event()

    async def fail_once(receiver: Receiver, got: Got, writer: asyncio.StreamWriter) -> None:
        seen = [before.id for before in receiver.got].count(got.id)
        await answering(500 if got.id == stubborn.id and seen == 1 else 200)(receiver, got, writer)

    async with receiving(fail_once) as receiver:
        await shop.listens(receiver.url)
        await shop.service.deliver([stubborn, follower, other])

        ids = [got.id for got in await receiver.wait_for(4)]

    assert set(ids[:2]) == {stubborn.id, other.id}
    assert ids[2:] == [stubborn.id, follower.id]


def _following(event: Any, name: str) -> Any:
    later = payment_event(name, transactionId=event.data["transactionId"])
    return type(later)(
        id=later.id,
        name=later.name,
        ordering_key=event.ordering_key,
        recipients=later.recipients,
        data=later.data,
        occurred_at=later.occurred_at,
        request_id=later.request_id,
    )


async def test_an_endpoint_that_is_gone_hears_no_more_until_it_is_enabled(shop: Merchant) -> None:
    async with receiving(answering(410)) as receiver:
        hook = await shop.listens(receiver.url)
        path = f"{HOOKS}/{hook['webhookId']}"
        await shop.service.deliver([payment_event()])
        [dead] = await shop.deliveries_when(hook, every("DEAD"))
        await shop.service.deliver([payment_event()])

        assert (dead["attempts"], dead["responseStatus"]) == (1, 410)
        assert (await shop.answer("GET", path))["status"] == "GONE"
        assert len(await shop.deliveries(hook)) == 1
        assert (await shop.call("POST", f"{path}/test")).status_code == 409
        again = f"{path}/deliveries/{dead['deliveryId']}/redeliver"
        assert (await shop.call("POST", again)).json()["type"] == "/problems/invalid-state"

        receiver.behave = answering(200)
        assert (await shop.answer("POST", f"{path}/enable"))["status"] == "ENABLED"
        assert (await shop.answer("POST", again))["status"] == "PENDING"
        [delivered] = await shop.deliveries_when(hook, every("DELIVERED"))
        assert delivered["deliveryId"] == dead["deliveryId"]


async def test_an_old_url_that_is_gone_does_not_close_the_new_one(shop: Merchant) -> None:
    """Its answer comes when the merchant has moved on."""
    moved = asyncio.Event()

    async def gone_at_last(receiver: Receiver, got: Got, writer: asyncio.StreamWriter) -> None:
        await moved.wait()
        await answering(410)(receiver, got, writer)

    async with receiving(gone_at_last) as old, receiving() as new:
        hook = await shop.listens(old.url)
        await shop.service.deliver([payment_event()])
        await old.wait_for(1)
        await shop.answer("PUT", f"{HOOKS}/{hook['webhookId']}", {"url": new.url})
        moved.set()
        await shop.deliveries_when(hook, every("DEAD"))

        await shop.service.deliver([payment_event()])
        assert len(await new.wait_for(1)) == 1
        assert (await shop.answer("GET", f"{HOOKS}/{hook['webhookId']}"))["status"] == "ENABLED"


async def test_what_is_added_while_an_endpoint_is_turned_off_is_cancelled(database_url: str) -> None:
    """By a process that had looked before: the other one's transaction is not over when it adds."""
    async with merchant(database_url) as shop, receiving() as receiver:
        hook = await shop.listens(receiver.url)
        await shop.answer("POST", f"{HOOKS}/{hook['webhookId']}/disable")
        late = store.NewDelivery("dlv_1", hook["webhookId"], "evt_1", "payment.failed", "pay_1", "{}", 1)
        with opened(database_url) as database:
            database.transact(lambda tx: store.add_deliveries(tx, [late]))

        await shop.deliveries_when(hook, every("CANCELLED"))
        assert receiver.got == []


async def test_a_bug_of_a_sender_is_the_failure_of_one_delivery(
    shop: Merchant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever met it again and again would never come to the others."""

    async def broken(_sender: sender_module.WebhookSender, _parcel: object) -> int:
        raise ZeroDivisionError

    async with receiving() as receiver:
        with monkeypatch.context() as patched:
            patched.setattr(sender_module.WebhookSender, "_post", broken)
            hook = await shop.listens(receiver.url)
            await shop.service.deliver([payment_event()])
            [failed] = await shop.deliveries_when(hook, lambda items: items[0]["attempts"] == 1)
        assert (failed["status"], failed["error"]) == (
            "PENDING",
            "It could not be sent because of an error on our side.",
        )

        [delivered] = await shop.deliveries_when(hook, every("DELIVERED"))
        assert delivered["eventId"] == receiver.got[0].id


async def test_a_disabled_endpoint_hears_nothing_and_what_was_pending_is_cancelled(shop: Merchant) -> None:
    async with receiving(answering(500)) as receiver:
        hook = await shop.listens(receiver.url)
        await shop.service.deliver([payment_event()])
        await shop.deliveries_when(hook, lambda items: items[0]["attempts"] == 1)

        disabled = await shop.answer("POST", f"{HOOKS}/{hook['webhookId']}/disable")
        await shop.service.deliver([payment_event()])

        [cancelled] = await shop.deliveries(hook)
        assert (disabled["status"], cancelled["status"]) == ("DISABLED", "CANCELLED")


async def test_for_a_day_after_a_rotation_both_secrets_sign(shop: Merchant) -> None:
    async with receiving() as receiver:
        hook = await shop.listens(receiver.url)
        rotated = await shop.answer("POST", f"{HOOKS}/{hook['webhookId']}/rotate-secret")
        await shop.service.deliver([payment_event()])
        [got] = await receiver.wait_for(1)

        assert rotated["secret"] != hook["secret"]
        for secret in (rotated["secret"], hook["secret"]):
            verify(got.body, got.headers, secret)


async def test_a_test_event_arrives_whatever_events_an_endpoint_asked_for(shop: Merchant) -> None:
    async with receiving() as receiver:
        hook = await shop.listens(receiver.url, events=["payment.failed"])
        queued = await shop.answer("POST", f"{HOOKS}/{hook['webhookId']}/test")
        [got] = await receiver.wait_for(1)

        event = verify(got.body, got.headers, hook["secret"])
        assert (event["type"], event["data"]) == ("webhook.test", {"webhookId": hook["webhookId"]})
        assert (queued["status"], queued["eventId"]) == ("PENDING", got.id)


async def test_another_url_gets_what_is_pending(shop: Merchant) -> None:
    async with receiving(answering(500)) as old, receiving() as new:
        hook = await shop.listens(old.url)
        await shop.service.deliver([payment_event()])
        await old.wait_for(1)

        changed = await shop.answer(
            "PUT", f"{HOOKS}/{hook['webhookId']}", {"url": new.url, "events": ["payment.failed"]}
        )

        [got] = await new.wait_for(1)
        assert (changed["url"], changed["events"]) == (new.url, ["payment.failed"])
        assert got.id == old.got[0].id


async def test_a_deleted_endpoint_is_gone_with_its_deliveries(shop: Merchant) -> None:
    async with receiving() as receiver:
        hook = await shop.listens(receiver.url)
        await shop.service.deliver([payment_event()])
        await shop.deliveries_when(hook, every("DELIVERED"))

        assert (await shop.call("DELETE", f"{HOOKS}/{hook['webhookId']}")).status_code == 204
        await shop.service.deliver([payment_event()])

        assert (await shop.call("DELETE", f"{HOOKS}/{hook['webhookId']}")).status_code == 404
        assert (await shop.call("GET", f"{HOOKS}/{hook['webhookId']}/deliveries")).status_code == 404
        assert len(receiver.got) == 1


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": "http://169.254.169.254/latest/meta-data"}, "/url"),
        ({"url": "http://localhost:1/"}, "/url"),
        ({"url": "http://[::1]/"}, "/url"),
        ({"url": "http://2130706433/"}, "/url"),
        ({"url": "ftp://1.1.1.1/"}, "/url"),
        ({"url": ""}, "/url"),
        ({"url": 7}, "/url"),
        ({}, "/url"),
        ({"url": "https://1.1.1.1/", "events": []}, "/events"),
        ({"url": "https://1.1.1.1/", "events": ["payment.exploded"]}, "/events/0"),
        ({"url": "https://1.1.1.1/", "events": "payment.failed"}, "/events"),
        ({"url": "https://1.1.1.1/", "secret": "mine"}, "/secret"),
    ],
)
async def test_an_endpoint_that_cannot_be_is_refused_with_what_is_wrong(
    sqlite_url: str, body: dict[str, Any], pointer: str
) -> None:
    async with merchant(sqlite_url, webhook_allowed_addresses="") as shop:
        answer = await shop.call("POST", HOOKS, body)

        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation-error")
        assert answer.json()["errors"][0]["pointer"] == pointer
        assert (await shop.answer("GET", HOOKS))["items"] == []


async def test_production_sends_nothing_in_the_clear(sqlite_url: str) -> None:
    async with merchant(sqlite_url, environment="production") as shop:
        assert (await shop.call("POST", HOOKS, {"url": "http://1.1.1.1/"})).status_code == 422
        assert (await shop.call("POST", HOOKS, {"url": "https://1.1.1.1/"})).status_code == 201


async def test_there_is_an_end_to_endpoints(shop: Merchant) -> None:
    for number in range(ENDPOINTS_PER_MERCHANT):
        await shop.listens(f"https://1.1.1.1/{number}")

    assert (await shop.call("POST", HOOKS, {"url": "https://1.1.1.1/"})).status_code == 409

    first = await shop.answer("GET", f"{HOOKS}?limit=6")
    second = await shop.answer("GET", f"{HOOKS}?limit=6&cursor={first['nextCursor']}")
    urls = [item["url"] for item in first["items"] + second["items"]]
    assert urls == [f"https://1.1.1.1/{number}" for number in reversed(range(ENDPOINTS_PER_MERCHANT))]
    assert second["nextCursor"] is None


async def test_another_merchants_endpoint_looks_like_one_that_is_not_there(shop: Merchant) -> None:
    hook = await shop.listens("https://1.1.1.1/")
    delivery = await shop.answer("POST", f"{HOOKS}/{hook['webhookId']}/test")
    stranger = Merchant(shop.http, shop.service, STRANGER)
    calls = [
        ("GET", "", None),
        ("PUT", "", {"url": "https://1.1.1.2/"}),
        ("DELETE", "", None),
        *(("POST", f"/{action}", None) for action in ("enable", "disable", "rotate-secret", "test")),
        ("GET", "/deliveries", None),
        ("POST", f"/deliveries/{delivery['deliveryId']}/redeliver", None),
    ]

    for method, rest, body in calls:
        for webhook_id in (hook["webhookId"], "whk_00000000000000000000000000", "ß"):
            answer = await stranger.call(method, f"{HOOKS}/{webhook_id}{rest}", body)
            assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found"), (method, rest)

    assert (await shop.answer("GET", f"{HOOKS}/{hook['webhookId']}"))["url"] == "https://1.1.1.1/"


async def test_a_delivery_of_another_endpoint_is_not_sent_again(shop: Merchant) -> None:
    one, other = await shop.listens("https://1.1.1.1/"), await shop.listens("https://1.1.1.1/")
    delivery = await shop.answer("POST", f"{HOOKS}/{one['webhookId']}/test")

    for delivery_id in (delivery["deliveryId"], "dlv_00000000000000000000000000", "ß"):
        answer = await shop.call("POST", f"{HOOKS}/{other['webhookId']}/deliveries/{delivery_id}/redeliver")
        assert answer.status_code == 404


async def test_customers_have_no_endpoints(shop: Merchant) -> None:
    answer = await shop.http.post(HOOKS, headers=bearer(CUSTOMER), json={"url": "https://1.1.1.1/"})

    assert answer.status_code == 403


async def test_receivers_that_never_answer_do_not_delay_the_others(
    shop: Merchant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bad ones among twenty: each of the others has its events while the bad ones still have their first chance."""
    monkeypatch.setattr(sender_module, "ANSWER_SECONDS", 10 * PATIENCE_SECONDS)
    behaviours: list[Behave] = [silent, dripping, *([answering(200)] * 18)]
    async with AsyncExitStack() as stack:
        receivers = [await stack.enter_async_context(receiving(behave)) for behave in behaviours]
        users = [f"{MERCHANT[:-2]}{number:02}" for number in range(len(receivers))]
        for user, receiver in zip(users, receivers, strict=True):
            await Merchant(shop.http, shop.service, user).listens(receiver.url)

        for _ in range(5):
            await shop.service.deliver([payment_event(merchantId=user, recipients=(user,)) for user in users])
        await asyncio.gather(*(receiver.wait_for(5, seconds=PATIENCE_SECONDS) for receiver in receivers[2:]))


async def test_receivers_that_never_answer_take_no_turns_from_the_others(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of somebody who hosts many shops, each of which is told of many payments."""
    monkeypatch.setattr(sender_module, "ANSWER_SECONDS", 10 * PATIENCE_SECONDS)
    monkeypatch.setattr(sender_module, "CALLS_AT_ONCE", 4)
    async with merchant(sqlite_url) as shop, AsyncExitStack() as stack:
        behaviours: list[Behave] = [silent, silent, silent, answering(200)]
        receivers = [await stack.enter_async_context(receiving(behave)) for behave in behaviours]
        users = [f"{MERCHANT[:-2]}{number:02}" for number in range(len(receivers))]
        for user, receiver in zip(users, receivers, strict=True):
            await Merchant(shop.http, shop.service, user).listens(receiver.url)

        for user in users:
            await shop.service.deliver([payment_event(merchantId=user, recipients=(user,)) for _ in range(20)])
        await receivers[3].wait_for(20, seconds=PATIENCE_SECONDS)

        assert [receiver.connections for receiver in receivers[:3]] == [1, 1, 1]


async def test_several_processes_share_the_work_and_send_everything_in_order(database_url: str) -> None:
    """Three processes, one of which ends in the middle: nothing is lost, and each payment's events keep their order."""
    payments = [payment_event("payment.authorized", reference=f"order-{number}") for number in range(40)]
    events = [*payments, *(_following(payment, "payment.succeeded") for payment in payments)]
    async with receiving() as receiver, merchant(database_url) as one, merchant(database_url) as _two:
        hook = await one.listens(receiver.url)
        async with merchant(database_url) as three:
            await asyncio.gather(*(shop.service.deliver(events) for shop in (one, three)))
        await one.deliveries_when(hook, every("DELIVERED"))

        firsts = dict.fromkeys(got.id for got in receiver.got)
        assert firsts.keys() == {event.id for event in events}
        order = {event_id: place for place, event_id in enumerate(firsts)}
        by_payment = defaultdict(list)
        for event in events:
            by_payment[event.ordering_key].append(order[event.id])
        assert all(places == sorted(places) for places in by_payment.values())


async def test_the_audit_tells_who_did_what_to_an_endpoint_and_holds_no_secret(database_url: str) -> None:
    async with merchant(database_url) as shop, receiving(answering(410)) as receiver:
        hook = await shop.listens(f"{receiver.url}/token-in-the-path", events=["payment.failed"])
        place = f"{HOOKS}/{hook['webhookId']}"
        await shop.answer("PUT", place, {"url": f"{receiver.url}/token-in-the-path"})
        await shop.answer("POST", f"{place}/rotate-secret")
        await shop.answer("POST", f"{place}/test")
        await shop.deliveries_when(hook, every("DEAD"))
        await shop.answer("POST", f"{place}/enable")
        await shop.answer("POST", f"{place}/disable")
        await shop.answer("DELETE", place)
        assert (await shop.call("DELETE", place)).status_code == 404

        path = f"/notification/audit?subject={hook['webhookId']}"
        trail = await shop.http.get(path, headers=bearer("usr_admin", Role.ADMIN))
        faults = await shop.service._database.reading(lambda tx: list(verify_audit.faults(tx)))

    items = trail.json()["items"]
    assert [(item["action"].removeprefix("webhook."), item["actor"]) for item in items[::-1]] == [
        ("create", MERCHANT),
        ("change", MERCHANT),
        ("rotate_secret", MERCHANT),
        ("gone", "service:platform"),
        ("enable", MERCHANT),
        ("disable", MERCHANT),
        ("remove", MERCHANT),
    ]
    assert items[-1]["detail"] == {"host": "127.0.0.1", "events": ["payment.failed"]}
    assert "whsec_" not in trail.text
    assert "token-in-the-path" not in trail.text
    assert faults == []
