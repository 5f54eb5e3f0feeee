"""Payment over HTTP, as the contract says it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from ewallet.kernel.caller import Role
from ewallet.kernel.ids import is_id
from ewallet.plumbing.settings import SettingsError
from tests.support.payment import (
    CUSTOMER,
    MERCHANT,
    STRANGER,
    TWO_PERCENT,
    MemoryNotification,
    MemoryWallet,
    bearer,
    no_room,
    served,
)

INITIATE = "/payment/initiate"
UNKNOWN = "pay_00000000000000000000000000"
ORDER: dict[str, Any] = {"merchantId": MERCHANT, "amount": 1250, "currency": "USD"}
FUNDS = 100_000


@pytest.fixture
def wallet() -> MemoryWallet:
    wallet = MemoryWallet()
    wallet.credit(CUSTOMER, FUNDS)
    return wallet


@pytest.fixture
def notification() -> MemoryNotification:
    return MemoryNotification()


@pytest.fixture
async def client(
    sqlite_url: str, wallet: MemoryWallet, notification: MemoryNotification
) -> AsyncIterator[httpx2.AsyncClient]:
    async with served(sqlite_url, wallet, notification) as client:
        yield client


async def initiate(client: httpx2.AsyncClient, body: Any = ORDER, **headers: str) -> httpx2.Response:
    return await client.post(INITIATE, json=body, headers=bearer() | headers)


async def listed(client: httpx2.AsyncClient, who: dict[str, str], **parameters: Any) -> list[str]:
    """The ids of a list, walked page by page."""
    ids: list[str] = []
    while True:
        answer = await client.get("/payment", headers=who, params=parameters)
        assert answer.status_code == 200, answer.text
        ids += [item["transactionId"] for item in answer.json()["items"]]
        if answer.json()["nextCursor"] is None:
            return ids
        parameters["cursor"] = answer.json()["nextCursor"]


def slug(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


# --- initiate -----------------------------------------------------------------------------------------------------


async def test_a_payment_has_the_members_of_the_contract(client: httpx2.AsyncClient) -> None:
    answer = await initiate(client, ORDER | {"reference": "order-17", "description": "Tea", "metadata": {"a": "b"}})

    assert answer.status_code == 201
    assert "idempotent-replayed" not in answer.headers
    body = answer.json()
    assert is_id(body.pop("transactionId"), "pay")
    assert body.pop("createdAt") <= body.pop("updatedAt")
    assert body == {
        "status": "SUCCESS",
        "customerId": CUSTOMER,
        "merchantId": MERCHANT,
        "amount": 1250,
        "fee": 25,
        "netAmount": 1225,
        "authorizedAmount": 1250,
        "refundedAmount": 0,
        "currency": "USD",
        "reference": "order-17",
        "description": "Tea",
        "metadata": {"a": "b"},
        "failureReason": None,
    }


async def test_a_refused_payment_is_a_problem_with_its_transaction_and_reason(client: httpx2.AsyncClient) -> None:
    answer = await initiate(client, ORDER | {"amount": FUNDS + 1}, **{"X-Request-Id": "mine"})

    problem = answer.json()
    payment = await client.get(f"/payment/{problem['transactionId']}", headers=bearer())
    assert slug(answer) == (402, "insufficient-funds")
    assert (problem["failureReason"], problem["requestId"], problem["instance"]) == (
        "INSUFFICIENT_FUNDS",
        "mine",
        INITIATE,
    )
    assert (payment.json()["status"], payment.json()["failureReason"]) == ("FAILED", "INSUFFICIENT_FUNDS")


@pytest.mark.parametrize("amount", [1250, FUNDS + 1])
async def test_copies_get_the_first_answer_byte_by_byte(client: httpx2.AsyncClient, amount: int) -> None:
    body = ORDER | {"amount": amount}
    answers = await asyncio.gather(
        *(initiate(client, body, **{"Idempotency-Key": "key", "X-Request-Id": f"r{n}"}) for n in range(64))
    )
    late = await initiate(client, body, **{"Idempotency-Key": '"key"'})

    assert {(answer.status_code, answer.content) for answer in answers} == {(late.status_code, late.content)}
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert late.headers["idempotent-replayed"] == "true"
    assert late.headers["content-type"] == answers[0].headers["content-type"]


async def test_a_key_of_another_request_is_refused(client: httpx2.AsyncClient) -> None:
    await initiate(client, **{"Idempotency-Key": "key"})

    answer = await initiate(client, ORDER | {"amount": 7}, **{"Idempotency-Key": "key"})

    assert slug(answer) == (422, "idempotency-key-reused")


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, '""'])
async def test_a_key_that_is_none_is_refused(client: httpx2.AsyncClient, wallet: MemoryWallet, key: str) -> None:
    assert slug(await initiate(client, **{"Idempotency-Key": key})) == (400, "idempotency-key-invalid")
    assert wallet.orders == []


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"amount": 0}, "/amount"),
        ({"amount": -1}, "/amount"),
        ({"amount": 1.5}, "/amount"),
        ({"amount": 1000.0}, "/amount"),
        ({"amount": "12"}, "/amount"),
        ({"amount": True}, "/amount"),
        ({"amount": None}, "/amount"),
        ({"amount": 10**15 + 1}, "/amount"),
        ({"amount": 10**16}, "/amount"),
        ({"currency": "usd"}, "/currency"),
        ({"currency": "XYZ"}, "/currency"),
        ({"currency": "USD\n"}, "/currency"),
        ({"currency": None}, "/currency"),
        ({"merchantId": ""}, "/merchantId"),
        ({"merchantId": "a b"}, "/merchantId"),
        ({"merchantId": "é"}, "/merchantId"),
        ({"merchantId": "x" * 65}, "/merchantId"),
        ({"merchantId": 7}, "/merchantId"),
        ({"reference": "x" * 256}, "/reference"),
        ({"description": "x" * 501}, "/description"),
        ({"metadata": {"a": 1}}, "/metadata"),
        ({"metadata": {"x" * 41: "a"}}, "/metadata"),
        ({"metadata": {"a": "x" * 501}}, "/metadata"),
        ({"metadata": {str(n): "a" for n in range(21)}}, "/metadata"),
        ({"capture": 1}, "/capture"),
        ({"customerId": STRANGER}, "/customerId"),
        ({"fee": 0}, "/fee"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_written(
    client: httpx2.AsyncClient, wallet: MemoryWallet, change: dict[str, Any], pointer: str
) -> None:
    answer = await initiate(client, ORDER | change)

    assert slug(answer) == (422, "validation-error")
    assert answer.json()["errors"][0]["pointer"].startswith(pointer)
    assert wallet.orders == []
    assert await listed(client, bearer()) == []


@pytest.mark.parametrize("missing", ["merchantId", "amount", "currency"])
async def test_a_missing_field_is_named(client: httpx2.AsyncClient, missing: str) -> None:
    answer = await initiate(client, {name: value for name, value in ORDER.items() if name != missing})

    assert slug(answer) == (422, "validation-error")
    assert answer.json()["errors"][0]["pointer"] == f"/{missing}"


@pytest.mark.parametrize("amount", ["1e3", "1250.0", "12500000000000000000000"])
async def test_only_a_whole_number_is_an_amount(client: httpx2.AsyncClient, amount: str) -> None:
    body = f'{{"merchantId": "{MERCHANT}", "amount": {amount}, "currency": "USD"}}'
    headers = bearer() | {"Content-Type": "application/json"}

    assert slug(await client.post(INITIATE, content=body, headers=headers)) == (422, "validation-error")


@pytest.mark.parametrize("role", [Role.MERCHANT, Role.ADMIN, Role.SERVICE])
async def test_only_customers_pay(client: httpx2.AsyncClient, wallet: MemoryWallet, role: Role) -> None:
    answer = await client.post(INITIATE, json=ORDER, headers=bearer(CUSTOMER, role))

    assert slug(answer) == (403, "forbidden")
    assert wallet.orders == []


async def test_an_unknown_outcome_is_told_with_the_transaction_to_look_at(
    client: httpx2.AsyncClient, wallet: MemoryWallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallet.gate = asyncio.Event()
    wallet.always = no_room
    monkeypatch.setattr("ewallet.payment.saga.LONGEST_PAUSE_SECONDS", 0.02)
    waiting = asyncio.create_task(initiate(client))
    await wallet.called.acquire()
    wallet.gate.set()

    answer = await waiting

    assert slug(answer) == (504, "timeout")
    assert answer.headers["retry-after"] == "1"
    payment = await client.get(f"/payment/{answer.json()['transactionId']}", headers=bearer())
    assert payment.json()["status"] == "PENDING"


# --- holds and refunds --------------------------------------------------------------------------------------------


async def operate(
    client: httpx2.AsyncClient, transaction_id: str, what: str, body: Any = None, **headers: str
) -> httpx2.Response:
    shop = bearer(MERCHANT, Role.MERCHANT)
    return await client.post(f"/payment/{transaction_id}/{what}", json=body, headers=shop | headers)


@pytest.fixture
async def held(client: httpx2.AsyncClient) -> str:
    """Give the id of a payment of 12.50 whose money is held."""
    answer = await initiate(client, ORDER | {"capture": False})
    assert (answer.status_code, answer.json()["status"]) == (201, "AUTHORIZED")
    return str(answer.json()["transactionId"])


@pytest.mark.parametrize(("body", "amount", "fee"), [(None, 1250, 25), ({}, 1250, 25), ({"amount": 500}, 500, 10)])
async def test_a_capture_answers_the_payment(
    client: httpx2.AsyncClient, held: str, body: Any, amount: int, fee: int
) -> None:
    answer = await operate(client, held, "capture", body)

    assert answer.status_code == 200
    payment = answer.json()
    assert (payment["status"], payment["amount"], payment["fee"]) == ("SUCCESS", amount, fee)
    assert (payment["netAmount"], payment["authorizedAmount"], payment["refundedAmount"]) == (amount - fee, 1250, 0)
    assert (await client.get(f"/payment/{held}", headers=bearer())).json() == payment


@pytest.mark.parametrize("body", [None, {}])
async def test_a_void_answers_the_payment(client: httpx2.AsyncClient, held: str, body: Any) -> None:
    answer = await operate(client, held, "void", body)

    assert (answer.status_code, answer.json()["status"], answer.json()["amount"]) == (200, "VOIDED", 1250)


async def test_a_refund_has_the_members_of_the_contract_and_is_listed(client: httpx2.AsyncClient) -> None:
    transaction_id = (await initiate(client)).json()["transactionId"]

    answer = await operate(client, transaction_id, "refund", {"amount": 250, "reason": "torn page"})

    assert answer.status_code == 201
    refund = answer.json()
    assert is_id(refund["refundId"], "rfd")
    assert refund == {
        "refundId": refund["refundId"],
        "transactionId": transaction_id,
        "amount": 250,
        "currency": "USD",
        "reason": "torn page",
        "status": "SUCCESS",
        "failureReason": None,
        "createdAt": refund["createdAt"],
    }
    for who in (bearer(), bearer(MERCHANT, Role.MERCHANT), bearer("usr_admin", Role.ADMIN)):
        listed = await client.get(f"/payment/{transaction_id}/refunds", headers=who)
        assert listed.json() == {"items": [refund], "nextCursor": None}
    payment = (await client.get(f"/payment/{transaction_id}", headers=bearer())).json()
    assert (payment["status"], payment["refundedAmount"]) == ("PARTIALLY_REFUNDED", 250)


@pytest.mark.parametrize("what", ["capture", "void", "refund"])
async def test_copies_of_an_operation_get_the_first_answer_byte_by_byte(
    client: httpx2.AsyncClient, wallet: MemoryWallet, held: str, what: str
) -> None:
    wallet.credit(MERCHANT, 100)
    if what == "refund":
        await operate(client, held, "capture")

    answers = [
        await operate(client, held, what, **{"Idempotency-Key": "key", "X-Request-Id": f"r{n}"}) for n in range(3)
    ]

    assert len({(answer.status_code, answer.content) for answer in answers}) == 1
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", "true"]
    other = "capture" if what == "void" else "void"
    reused = await operate(client, held, other, **{"Idempotency-Key": "key"})
    assert slug(reused) == (422, "idempotency-key-reused")


@pytest.mark.parametrize("what", ["capture", "void", "refund"])
async def test_an_operation_that_the_state_forbids_is_a_conflict(
    client: httpx2.AsyncClient, held: str, what: str
) -> None:
    if what != "refund":
        await operate(client, held, "void")

    answer = await operate(client, held, what)

    assert slug(answer) == (409, "invalid-state")
    assert (answer.json()["transactionId"], answer.json()["failureReason"]) == (held, "INVALID_STATE")


@pytest.mark.parametrize(
    ("what", "body", "pointer"),
    [
        ("capture", {"amount": 0}, "/amount"),
        ("capture", {"amount": 1251}, "/amount"),
        ("capture", {"amount": 12.5}, "/amount"),
        ("capture", {"amount": "12"}, "/amount"),
        ("capture", {"reason": "x"}, "/reason"),
        ("void", {"amount": 1}, "/amount"),
        ("refund", {"amount": 0}, "/amount"),
        ("refund", {"amount": 10**15 + 1}, "/amount"),
        ("refund", {"reason": ""}, "/reason"),
        ("refund", {"reason": "x" * 501}, "/reason"),
        ("refund", {"fee": 1}, "/fee"),
    ],
)
async def test_a_wrong_field_of_an_operation_is_named_and_nothing_moves(
    client: httpx2.AsyncClient, held: str, what: str, body: Any, pointer: str
) -> None:
    before = await client.get(f"/payment/{held}", headers=bearer())

    answer = await operate(client, held, what, body)

    assert slug(answer) == (422, "validation-error")
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert (await client.get(f"/payment/{held}", headers=bearer())).json() == before.json()


@pytest.mark.parametrize("what", ["capture", "void", "refund"])
async def test_only_its_merchant_and_administrators_operate_on_a_payment(
    client: httpx2.AsyncClient, held: str, what: str
) -> None:
    address = f"/payment/{held}/{what}"

    assert slug(await client.post(address)) == (401, "invalid-token")
    for who in (bearer(), bearer("cli_backend", Role.SERVICE)):
        assert slug(await client.post(address, headers=who)) == (403, "forbidden")
    other = bearer(STRANGER, Role.MERCHANT)
    nobodys = await client.post(f"/payment/{UNKNOWN}/{what}", headers=other)
    elses = await client.post(address, headers=other)
    assert slug(elses) == slug(nobodys) == (404, "not-found")
    assert elses.json()["detail"] == nobodys.json()["detail"]


@pytest.mark.parametrize(("amount", "reasons"), [(1250, []), (FUNDS + 1, ["INSUFFICIENT_FUNDS"])])
async def test_a_quote_has_the_fee_and_says_whether_it_would_succeed(
    client: httpx2.AsyncClient, wallet: MemoryWallet, amount: int, reasons: list[str]
) -> None:
    answer = await client.post("/payment/quote", json=ORDER | {"amount": amount}, headers=bearer())

    fee = TWO_PERCENT.of(amount, "USD")
    assert answer.status_code == 200
    assert answer.json() == {
        "amount": amount,
        "currency": "USD",
        "fee": fee,
        "netAmount": amount - fee,
        "wouldSucceed": not reasons,
        "reasons": reasons,
    }
    assert wallet.outcomes == {}
    assert await listed(client, bearer()) == []


async def test_a_hold_lasts_as_long_as_is_configured(sqlite_url: str, wallet: MemoryWallet) -> None:
    """And the platform ends it by itself, without anybody asking."""
    notification = MemoryNotification()
    async with served(sqlite_url, wallet, notification, hold_seconds=1) as client:
        payment = (await initiate(client, ORDER | {"capture": False})).json()
        async with asyncio.timeout(20):
            while (event := await notification.next_event()).name != "payment.expired":
                pass
        after = (await client.get(f"/payment/{payment['transactionId']}", headers=bearer())).json()

    assert (event.data["transactionId"], event.recipients) == (payment["transactionId"], (CUSTOMER, MERCHANT))
    assert after["status"] == "EXPIRED"


# --- looking ------------------------------------------------------------------------------------------------------


async def test_the_two_sides_and_the_staff_see_a_payment_and_nobody_else(client: httpx2.AsyncClient) -> None:
    payment = (await initiate(client)).json()
    address = f"/payment/{payment['transactionId']}"

    for path in (address, f"{address}/history"):
        for who in (
            bearer(CUSTOMER),
            bearer(MERCHANT, Role.MERCHANT),
            bearer("usr_admin", Role.ADMIN),
            bearer("cli_backend", Role.SERVICE),
        ):
            assert (await client.get(path, headers=who)).status_code == 200
        for who in (bearer(STRANGER), bearer(STRANGER, Role.MERCHANT)):
            assert slug(await client.get(path, headers=who)) == (404, "not-found")
        assert slug(await client.get(path)) == (401, "invalid-token")
    assert (await client.get(address, headers=bearer())).json() == payment


@pytest.mark.parametrize("unknown", [UNKNOWN, "é", "%00", "pay_", "x" * 300])
async def test_an_unknown_payment_looks_like_somebody_elses(client: httpx2.AsyncClient, unknown: str) -> None:
    payment = (await initiate(client)).json()
    elses = await client.get(f"/payment/{payment['transactionId']}", headers=bearer(STRANGER))

    for path in (f"/payment/{unknown}", f"/payment/{unknown}/history"):
        answer = await client.get(path, headers=bearer())
        assert slug(answer) == slug(elses)
        assert answer.json()["detail"] == elses.json()["detail"]


async def test_the_history_has_every_state(client: httpx2.AsyncClient) -> None:
    payment = (await initiate(client)).json()
    failed = (await initiate(client, ORDER | {"amount": FUNDS + 1})).json()

    answer = await client.get(f"/payment/{payment['transactionId']}/history", headers=bearer())
    of_failed = await client.get(f"/payment/{failed['transactionId']}/history", headers=bearer())

    assert answer.json() == {
        "items": [
            {"status": "PENDING", "at": payment["createdAt"], "actor": CUSTOMER},
            {"status": "SUCCESS", "at": payment["updatedAt"], "actor": CUSTOMER},
        ]
    }
    last = of_failed.json()["items"][-1]
    assert (last["status"], last["reason"]) == ("FAILED", "INSUFFICIENT_FUNDS")


async def test_everybody_lists_the_own_payments_and_staff_all(client: httpx2.AsyncClient, wallet: MemoryWallet) -> None:
    wallet.credit(STRANGER, FUNDS)
    other_merchant = "usr_other_merchant"
    wallet.roles[other_merchant] = Role.MERCHANT
    first = (await initiate(client)).json()["transactionId"]
    second = (await initiate(client, ORDER | {"merchantId": other_merchant})).json()["transactionId"]
    third = (await client.post(INITIATE, json=ORDER, headers=bearer(STRANGER))).json()["transactionId"]

    assert set(await listed(client, bearer())) == {first, second}
    assert set(await listed(client, bearer(STRANGER))) == {third}
    assert set(await listed(client, bearer(MERCHANT, Role.MERCHANT))) == {first, third}
    for role in (Role.ADMIN, Role.SERVICE):
        assert set(await listed(client, bearer("usr_staff", role))) == {first, second, third}


async def test_pages_follow_each_other_newest_first_without_gap_or_repetition(client: httpx2.AsyncClient) -> None:
    for _ in range(7):
        await initiate(client)

    whole = await listed(client, bearer())

    assert len(whole) == 7
    assert whole == sorted(whole, reverse=True)
    assert await listed(client, bearer(), limit=3) == whole


async def test_lists_filter_by_state_and_by_time(client: httpx2.AsyncClient) -> None:
    payment = (await initiate(client)).json()
    await initiate(client, ORDER | {"amount": FUNDS + 1})

    assert await listed(client, bearer(), status="SUCCESS") == [payment["transactionId"]]
    assert await listed(client, bearer(), status="REFUNDED") == []
    assert await listed(client, bearer(), to=payment["createdAt"]) == []
    assert len(await listed(client, bearer(), **{"from": payment["createdAt"]})) == 2
    assert await listed(client, bearer(), **{"from": "2999-01-01T00:00:00+01:00"}) == []
    assert await listed(client, bearer(), to="1066-10-14T09:00:00Z") == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("colour=red", "colour"),
        ("customerId=usr_other", "customerId"),
        ("from_=2026-01-01T00:00:00Z", "from_"),
        ("status=DONE", "status"),
        ("status=", "status"),
        ("from=yesterday", "from"),
        ("to=2026-11-22T08:15:30", "to"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("cursor=AAAA", "cursor"),
        ("cursor=WyJhIl0", "cursor"),
        ("cursor=%C3%A9", "cursor"),
        ("limit=1&limit=2", "limit"),
    ],
)
async def test_a_wrong_query_parameter_is_named(client: httpx2.AsyncClient, query: str, parameter: str) -> None:
    answer = await client.get(f"/payment?{query}", headers=bearer())

    assert slug(answer) == (422, "validation-error")
    assert answer.json()["errors"][0]["pointer"] == parameter


# --- audit --------------------------------------------------------------------------------------------------------


async def test_an_administrator_reads_who_did_what(client: httpx2.AsyncClient) -> None:
    payment = (await initiate(client, **{"X-Request-Id": "req-17"})).json()
    failed = (await initiate(client, ORDER | {"amount": FUNDS + 1})).json()
    admin = bearer("usr_admin", Role.ADMIN)

    whole = (await client.get("/payment/audit", headers=admin)).json()
    by_subject = (await client.get("/payment/audit", headers=admin, params={"subject": failed["transactionId"]})).json()
    by_request = (await client.get("/payment/audit", headers=admin, params={"requestId": "req-17"})).json()

    assert [item["sequence"] for item in whole["items"]] == [2, 1]
    assert by_subject["items"] == whole["items"][:1]
    assert by_request["items"] == whole["items"][1:]
    [record] = by_request["items"]
    assert len(record.pop("hash")) == 64
    assert len(record["detail"].pop("line")) == 32
    assert record == {
        "sequence": 1,
        "at": payment["updatedAt"],
        "actor": CUSTOMER,
        "action": "payment.succeeded",
        "subject": payment["transactionId"],
        "requestId": "req-17",
        "result": "ok",
        "detail": {
            "version": 2,
            "customerId": CUSTOMER,
            "merchantId": MERCHANT,
            "amount": 1250,
            "fee": 25,
            "currency": "USD",
        },
    }


async def test_the_audit_goes_page_by_page(client: httpx2.AsyncClient) -> None:
    for _ in range(3):
        await initiate(client)
    admin = bearer("usr_admin", Role.ADMIN)

    first = (await client.get("/payment/audit?limit=2", headers=admin)).json()
    second = (await client.get(f"/payment/audit?limit=2&cursor={first['nextCursor']}", headers=admin)).json()

    assert [item["sequence"] for item in first["items"] + second["items"]] == [3, 2, 1]
    assert second["nextCursor"] is None


@pytest.mark.parametrize("role", [Role.CUSTOMER, Role.MERCHANT, Role.SERVICE])
async def test_nobody_else_reads_the_audit(client: httpx2.AsyncClient, role: Role) -> None:
    assert slug(await client.get("/payment/audit", headers=bearer(CUSTOMER, role))) == (403, "forbidden")


@pytest.mark.parametrize(
    "query", ["subject=%C3%A9", "requestId=a%20b", "cursor=WzEuNV0", "cursor=Wzk5OTk5OTk5OTk5OTk5OTk5OTk5XQ"]
)
async def test_an_audit_query_that_cannot_be_is_refused(client: httpx2.AsyncClient, query: str) -> None:
    answer = await client.get(f"/payment/audit?{query}", headers=bearer("usr_admin", Role.ADMIN))

    assert slug(answer) == (422, "validation-error")


# --- put together -------------------------------------------------------------------------------------------------


async def test_events_reach_notification_without_waiting_for_the_next_round(
    client: httpx2.AsyncClient, notification: MemoryNotification
) -> None:
    payment = (await initiate(client)).json()

    async with asyncio.timeout(5):
        event = await notification.next_event()

    assert (event.name, event.recipients) == ("payment.succeeded", (CUSTOMER, MERCHANT))
    assert event.data["transactionId"] == payment["transactionId"]


async def test_a_stop_waits_for_what_is_under_way(sqlite_url: str, wallet: MemoryWallet) -> None:
    wallet.gate = asyncio.Event()
    async with served(sqlite_url, wallet) as client:
        gone = asyncio.create_task(initiate(client, **{"Idempotency-Key": "key"}))
        await wallet.called.acquire()
        gone.cancel()
        asyncio.get_running_loop().call_later(0.05, wallet.gate.set)

    async with served(sqlite_url, wallet) as client:
        answer = await initiate(client, **{"Idempotency-Key": "key"})

    assert (answer.status_code, answer.headers["idempotent-replayed"]) == (201, "true")
    assert wallet.groups_posted == 1


async def test_a_wrong_fee_schedule_stops_the_start(sqlite_url: str, wallet: MemoryWallet) -> None:
    with pytest.raises(SettingsError, match="EWALLET_FEES is wrong: XYZ is not a currency"):
        async with served(sqlite_url, wallet, fees="XYZ=1+0"):
            pass
