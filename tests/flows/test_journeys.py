"""Whole journeys through the gateway over real sockets, as clients make them."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import httpx2
import pytest

from tests.support.platform import People, Platform, User, payment

INVENTED_CUSTOMER = "usr_01k00000000000000000000000"


def test_a_customer_pays_a_merchant_and_every_cent_is_accounted_for(people: People) -> None:
    customer, merchant = people.customer(with_amount=100_00), people.merchant()

    response = customer.post("/payment/initiate", payment(merchant, 12_50, reference="order-1", description="Books"))

    assert response.status_code == 201
    receipt = response.json()
    assert receipt["status"] == "SUCCESS"
    assert (receipt["amount"], receipt["fee"], receipt["netAmount"]) == (12_50, 25, 12_25)
    assert (receipt["customerId"], receipt["merchantId"]) == (customer.user_id, merchant.user_id)
    assert (receipt["reference"], receipt["description"], receipt["failureReason"]) == ("order-1", "Books", None)
    assert (customer.available(), merchant.available()) == (87_50, 12_25)


def test_a_merchant_captures_a_part_of_what_is_held_and_refunds_a_part_of_that(people: People) -> None:
    customer, merchant = people.customer(with_amount=100_00), people.merchant()
    held = customer.answer("POST", "/payment/initiate", payment(merchant, 50_00, capture=False, reference="room 7"))
    path = f"/payment/{held['transactionId']}"
    assert (held["status"], customer.available(), customer.held()) == ("AUTHORIZED", 50_00, 50_00)

    captured = merchant.answer("POST", f"{path}/capture", {"amount": 40_00})
    refund = merchant.answer("POST", f"{path}/refund", {"amount": 10_00, "reason": "no breakfast"})

    assert (captured["status"], captured["amount"], captured["authorizedAmount"]) == ("SUCCESS", 40_00, 50_00)
    assert (refund["status"], refund["amount"]) == ("SUCCESS", 10_00)
    assert (customer.available(), customer.held(), merchant.available()) == (70_00, 0, 29_20)
    now = customer.answer("GET", path)
    assert (now["status"], now["refundedAmount"]) == ("PARTIALLY_REFUNDED", 10_00)
    customer.notified_of("wallet.credited", "payment.authorized", "payment.succeeded", "payment.refunded")
    merchant.notified_of("payment.authorized", "payment.succeeded", "payment.refunded")


def test_a_hold_that_is_voided_gives_the_money_back_whole(people: People) -> None:
    customer, merchant = people.customer(with_amount=100_00), people.merchant()
    held = customer.answer("POST", "/payment/initiate", payment(merchant, 50_00, capture=False))

    voided = merchant.answer("POST", f"/payment/{held['transactionId']}/void")

    assert (voided["status"], customer.available(), customer.held(), merchant.available()) == ("VOIDED", 100_00, 0, 0)
    late = merchant.post(f"/payment/{held['transactionId']}/capture")
    assert (late.status_code, late.json()["type"]) == (409, "/problems/invalid-state")
    customer.notified_of("wallet.credited", "payment.authorized", "payment.voided")


def test_a_quote_foretells_the_payment(people: People) -> None:
    customer, merchant = people.customer(with_amount=10_00), people.merchant()

    fine = customer.answer("POST", "/payment/quote", payment(merchant, 10_00))
    too_much = customer.answer("POST", "/payment/quote", payment(merchant, 10_01))

    assert (fine["fee"], fine["netAmount"], fine["wouldSucceed"], fine["reasons"]) == (20, 9_80, True, [])
    assert (too_much["wouldSucceed"], too_much["reasons"]) == (False, ["INSUFFICIENT_FUNDS"])
    assert customer.available() == 10_00


def test_both_sides_see_the_receipt_and_nobody_else_does(people: People) -> None:
    customer, merchant, stranger = people.customer(with_amount=100_00), people.merchant(), people.customer()
    receipt = customer.answer("POST", "/payment/initiate", payment(merchant, 12_50))
    path = f"/payment/{receipt['transactionId']}"

    assert customer.answer("GET", path) == merchant.answer("GET", path) == people.admin().answer("GET", path) == receipt
    assert customer.answer("GET", "/payment")["items"] == merchant.answer("GET", "/payment")["items"] == [receipt]

    hidden = stranger.get(path)
    unknown = stranger.get(f"/payment/{receipt['transactionId'][:-1]}{'0' if path[-1] != '0' else '1'}")
    assert hidden.status_code == unknown.status_code == 404
    assert _without_occasion(hidden) == _without_occasion(unknown)
    assert stranger.answer("GET", "/payment")["items"] == []


def test_the_history_tells_how_the_payment_came_about(people: People) -> None:
    customer, merchant = people.customer(with_amount=100_00), people.merchant()
    receipt = customer.answer("POST", "/payment/initiate", payment(merchant, 12_50))

    history = customer.answer("GET", f"/payment/{receipt['transactionId']}/history")["items"]

    assert sorted(step["status"] for step in history) == ["PENDING", "SUCCESS"]
    assert customer.user_id in {step["actor"] for step in history}


def test_both_inboxes_tell_of_the_payment(people: People) -> None:
    customer, merchant = people.customer(with_amount=100_00), people.merchant()
    receipt = customer.answer("POST", "/payment/initiate", payment(merchant, 12_50))

    _, paid = customer.notified_of("wallet.credited", "payment.succeeded")
    (received,) = merchant.notified_of("payment.succeeded")

    assert paid["data"]["transactionId"] == received["data"]["transactionId"] == receipt["transactionId"]
    assert customer.post(f"/notification/{paid['notificationId']}/read").status_code == 204
    assert [item["event"] for item in customer.answer("GET", "/notification?unread=true")["items"]] == [
        "wallet.credited"
    ]
    assert merchant.post(f"/notification/{paid['notificationId']}/read").status_code == 404


def test_the_live_stream_brings_the_payment_and_resumes_where_it_broke_off(people: People) -> None:
    customer, merchant = people.customer(with_amount=100_00), people.merchant()
    with _stream(merchant) as events:
        first = customer.answer("POST", "/payment/initiate", payment(merchant, 1_00))
        seen = events.get(timeout=10)
    assert (seen["event"], seen["data"]["data"]["transactionId"]) == ("payment.succeeded", first["transactionId"])

    second = customer.answer("POST", "/payment/initiate", payment(merchant, 2_00))
    with _stream(merchant, Last_Event_ID=seen["id"]) as events:
        missed = events.get(timeout=10)
    assert missed["data"]["data"]["transactionId"] == second["transactionId"]


def test_a_payment_without_funds_is_refused_saved_explained_and_notified(people: People) -> None:
    customer, merchant = people.customer(with_amount=10_00), people.merchant()

    response = customer.post("/payment/initiate", payment(merchant, 10_01))

    assert response.status_code == 402
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "/problems/insufficient-funds"
    assert problem["failureReason"] == "INSUFFICIENT_FUNDS"
    assert problem["requestId"] == response.headers["x-request-id"]
    saved = customer.answer("GET", f"/payment/{problem['transactionId']}")
    assert (saved["status"], saved["failureReason"]) == ("FAILED", "INSUFFICIENT_FUNDS")
    assert merchant.answer("GET", "/payment?status=FAILED")["items"] == [saved]
    customer.notified_of("wallet.credited", "payment.failed")
    merchant.notified_of("payment.failed")
    assert (customer.available(), merchant.available()) == (10_00, 0)


def test_the_audit_names_who_did_what_in_which_request(people: People) -> None:
    customer, merchant, admin = people.customer(with_amount=10_00), people.merchant(), people.admin()
    refused = customer.post("/payment/initiate", payment(merchant, 10_01), X_Request_Id=f"audit-{customer.user_id}")

    for service in ("payment", "wallet"):
        records = admin.answer("GET", f"/{service}/audit?requestId=audit-{customer.user_id}")["items"]
        assert any(record["result"] != "ok" for record in records), f"{service} has no record of the refusal"
        assert {record["actor"] for record in records} == {customer.user_id}

    transaction = refused.json()["transactionId"]
    assert admin.answer("GET", f"/payment/audit?subject={transaction}")["items"]
    assert customer.get("/payment/audit").status_code == 403


def test_the_statement_runs_to_the_present_balance(people: People) -> None:
    customer, merchant = people.customer(with_amount=100_00), people.merchant()
    for amount in (10_00, 20_00):
        customer.answer("POST", "/payment/initiate", payment(merchant, amount))

    entries = customer.answer("GET", f"/wallet/{customer.user_id}/entries")["items"]
    running = 0
    for entry in reversed(entries):
        running += entry["amount"] if entry["type"] == "CREDIT" else -entry["amount"]
        assert entry["balanceAfter"] == running
    assert running == customer.available() == 70_00 - 0

    page = customer.answer("GET", f"/wallet/{customer.user_id}/entries?limit=1")
    rest = customer.answer("GET", f"/wallet/{customer.user_id}/entries?limit=100&cursor={page['nextCursor']}")
    assert page["items"] + rest["items"] == entries


def test_frozen_money_does_not_move_and_thaws_whole(people: People) -> None:
    customer, merchant, admin = people.customer(with_amount=50_00), people.merchant(), people.admin()
    admin.answer("POST", f"/wallet/{customer.user_id}/freeze", {"reason": "card reported stolen"})

    refused = customer.post("/payment/initiate", payment(merchant, 1_00))

    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/wallet-frozen")
    assert customer.answer("GET", f"/wallet/{customer.user_id}")["status"] == "FROZEN"
    admin.answer("POST", f"/wallet/{customer.user_id}/unfreeze", {"reason": "found again"})
    assert customer.post("/payment/initiate", payment(merchant, 1_00)).status_code == 201
    assert (customer.available(), merchant.available()) == (49_00, 98)


def test_the_same_key_gets_the_first_answer_again_and_moves_nothing(people: People) -> None:
    customer, merchant = people.customer(with_amount=50_00), people.merchant()
    body = payment(merchant, 10_00)

    first = customer.post("/payment/initiate", body, Idempotency_Key="order-1")
    again = customer.post("/payment/initiate", body, Idempotency_Key='"order-1"')
    other = customer.post("/payment/initiate", payment(merchant, 10_01), Idempotency_Key="order-1")

    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert customer.available() == 40_00


def test_a_refusal_is_replayed_too_even_when_the_money_has_come(people: People) -> None:
    customer, merchant = people.customer(), people.merchant()
    body = payment(merchant, 10_00)
    first = customer.post("/payment/initiate", body, Idempotency_Key="too-early")
    people.credit(customer, 10_00)

    again = customer.post("/payment/initiate", body, Idempotency_Key="too-early")

    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert again.status_code == 402
    assert again.headers["idempotent-replayed"] == "true"
    assert customer.available() == 10_00


async def test_64_concurrent_copies_with_one_key_are_one_payment(people: People) -> None:
    customer, merchant = people.customer(with_amount=100_00), people.merchant()

    responses = await _pay_at_once(customer, [payment(merchant, 10_00)] * 64, Idempotency_Key="order-1")

    statuses = Counter(response.status_code for response in responses)
    assert set(statuses) <= {201, 409}, statuses
    created = [response.json() for response in responses if response.status_code == 201]
    assert created
    assert all(receipt == created[0] for receipt in created)
    assert all(
        response.json()["type"] == "/problems/request-in-progress"
        for response in responses
        if response.status_code == 409
    )
    assert customer.available() == 90_00


async def test_of_200_concurrent_payments_exactly_those_that_are_funded_succeed(people: People) -> None:
    customer, merchant = people.customer(with_amount=100_00), people.merchant()

    responses = await _pay_at_once(customer, [payment(merchant, 10_00)] * 200)

    assert Counter(response.status_code for response in responses) == {201: 10, 402: 190}
    assert (customer.available(), merchant.available()) == (0, 98_00)
    assert len({response.json()["transactionId"] for response in responses}) == 200


def test_two_wanted_equal_payments_without_a_key_are_two(people: People) -> None:
    customer, merchant = people.customer(with_amount=50_00), people.merchant()

    receipts = [customer.answer("POST", "/payment/initiate", payment(merchant, 10_00)) for _ in range(2)]

    assert receipts[0]["transactionId"] != receipts[1]["transactionId"]
    assert customer.available() == 30_00


def test_a_session_is_refreshed_and_ended(people: People) -> None:
    customer = people.customer()
    credentials = {"email": customer.email, "password": customer.password}
    session = customer.answer("POST", "/auth/login", credentials)
    refreshed = customer.answer("POST", "/auth/refresh", {"refreshToken": session["refreshToken"]})

    assert refreshed["refreshToken"] != session["refreshToken"]
    assert customer.post("/auth/logout", {"refreshToken": refreshed["refreshToken"]}).status_code == 204
    assert customer.post("/auth/refresh", {"refreshToken": refreshed["refreshToken"]}).status_code == 401


@pytest.mark.parametrize(
    ("change", "status", "slug"),
    [
        ({"amount": 0}, 422, "validation-error"),
        ({"amount": -1}, 422, "validation-error"),
        ({"amount": 12.5}, 422, "validation-error"),
        ({"amount": "12"}, 422, "validation-error"),
        ({"amount": None}, 422, "validation-error"),
        ({"amount": 10**16}, 422, "validation-error"),
        ({"currency": "usd"}, 422, "validation-error"),
        ({"currency": "EUR"}, 422, "currency-mismatch"),
        ({"merchantId": INVENTED_CUSTOMER}, 422, "unknown-merchant"),
        ({"customerId": INVENTED_CUSTOMER}, 422, "validation-error"),
    ],
    ids=str,
)
def test_a_payment_that_makes_no_sense_moves_nothing(
    people: People, change: dict[str, Any], status: int, slug: str
) -> None:
    customer, merchant = people.customer(with_amount=50_00), people.merchant()

    refused = customer.post("/payment/initiate", payment(merchant, 10_00) | change)

    assert (refused.status_code, refused.json()["type"]) == (status, f"/problems/{slug}")
    assert customer.available() == 50_00


def test_nobody_pays_somebody_who_is_no_merchant(people: People) -> None:
    customer, other = people.customer(with_amount=50_00), people.customer()

    for payee in (other, customer):
        refused = customer.post("/payment/initiate", payment(payee, 10_00))
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/unknown-merchant")


def test_verify_finds_the_books_in_order_while_everything_runs(people: People, running: Platform) -> None:
    customer, merchant = people.customer(with_amount=50_00), people.merchant()
    customer.answer("POST", "/payment/initiate", payment(merchant, 10_00))

    verified = running.run("verify")

    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_the_demo_runs_to_its_end(running: Platform) -> None:
    shown = running.run("demo")

    assert shown.returncode == 0, shown.stdout + shown.stderr
    for words in ("12.50 USD", "0.25 USD", "12.25 USD", "67.50 USD", "31.65 USD", "/problems/insufficient-funds"):
        assert words in shown.stdout
    for event in ("succeeded", "authorized", "refunded", "failed"):
        assert f"payment.{event}" in shown.stdout


# --- helpers ------------------------------------------------------------------------------------------------------


def _without_occasion(problem: httpx2.Response) -> dict[str, Any]:
    """A problem without what belongs to the one request."""
    members: dict[str, Any] = problem.json()
    return {name: value for name, value in members.items() if name not in ("instance", "requestId")}


async def _pay_at_once(customer: User, bodies: list[dict[str, Any]], **headers: str) -> list[httpx2.Response]:
    """Send all payments at the same time, each over a connection of its own."""
    sent = {"Authorization": f"Bearer {customer.token}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    limits = httpx2.Limits(max_connections=len(bodies))
    async with httpx2.AsyncClient(base_url=customer.address, timeout=30, trust_env=False, limits=limits) as http:
        return await asyncio.gather(*(http.post("/payment/initiate", json=body, headers=sent) for body in bodies))


@contextmanager
def _stream(user: User, **headers: str) -> Iterator[SimpleQueue[dict[str, Any]]]:
    """The user's live stream, open; its events as they come."""
    events: SimpleQueue[dict[str, Any]] = SimpleQueue()
    sent = {"Authorization": f"Bearer {user.token}", "Accept": "text/event-stream"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    with (
        httpx2.Client(timeout=30, trust_env=False) as http,
        http.stream("GET", f"{user.address}/notification/stream", headers=sent) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        reader = threading.Thread(target=_read_events, args=(response, events), daemon=True)
        reader.start()
        yield events


def _read_events(response: httpx2.Response, events: SimpleQueue[dict[str, Any]]) -> None:
    """Put every event of a stream into a queue, until the stream is closed under us."""
    event: dict[str, Any] = {}
    try:
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                event[name] = json.loads(value) if name == "data" else value
            elif "data" in event:
                events.put(event)
                event = {}
    except (httpx2.HTTPError, httpx2.StreamError, OSError):
        return
