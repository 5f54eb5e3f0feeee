"""The wallet's HTTP side, against the contract."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from ewallet.kernel.caller import Role
from ewallet.plumbing.http.application import openapi_document
from ewallet.plumbing.settings import SettingsError
from tests.support.wallet import (
    ALICE,
    BOB,
    Listener,
    ServedWallet,
    bearer,
    fresh,
    open_wallet,
    payment,
    served_wallet,
)

ADMIN = bearer("usr_admin", Role.ADMIN)
BACK_END = bearer("cli_backend", Role.SERVICE)
OWNER = bearer(ALICE)
OTHER = bearer(BOB, Role.MERCHANT)
MOVEMENT = {"customerId": ALICE, "amount": 10_00, "currency": "USD"}


@pytest.fixture
async def served(sqlite_url: str) -> AsyncIterator[ServedWallet]:
    """Alice with 100.00 USD, Bob with nothing. One database is enough here: the services' tests run on both."""
    async with served_wallet(sqlite_url) as wallet:
        await open_wallet(wallet.service, ALICE, amount=100_00)
        await open_wallet(wallet.service, BOB, role=Role.MERCHANT)
        yield wallet


@pytest.fixture
def client(served: ServedWallet) -> httpx2.AsyncClient:
    return served.client


def movement(**changes: Any) -> dict[str, Any]:
    return {**MOVEMENT, "reference": fresh("ref"), **changes}


def problem(answer: httpx2.Response) -> tuple[int, str]:
    """Status and slug of a problem, whose form is checked by the way."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == answer.status_code
    assert body["requestId"]
    return answer.status_code, body["type"].removeprefix("/problems/")


async def test_a_credit_answers_field_by_field_what_the_contract_says(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/wallet/credit", json=movement(reference="salary", description="März"), headers=ADMIN)

    body = answer.json()
    assert answer.status_code == 201
    assert body.pop("transferId").startswith("trf_")
    assert body.pop("createdAt").endswith("Z")
    assert body == {
        "customerId": ALICE,
        "type": "CREDIT",
        "amount": 10_00,
        "currency": "USD",
        "available": 110_00,
        "reference": "salary",
    }


async def test_a_repetition_answers_the_same_bytes_and_says_so(client: httpx2.AsyncClient) -> None:
    body = movement()
    first = await client.post("/wallet/debit", json=body, headers=BACK_END)
    again = await client.post("/wallet/debit", json=body, headers=BACK_END)

    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)


async def test_a_repeated_refusal_answers_the_same_bytes_and_says_so(client: httpx2.AsyncClient) -> None:
    body = movement(amount=100_01)
    first = await client.post("/wallet/debit", json=body, headers=BACK_END)
    await client.post("/wallet/credit", json=movement(amount=500_00), headers=BACK_END)
    again = await client.post("/wallet/debit", json=body, headers=BACK_END)

    assert problem(first) == (402, "insufficient-funds")
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)


async def test_a_key_with_another_request_is_refused(client: httpx2.AsyncClient) -> None:
    keyed = {**BACK_END, "Idempotency-Key": '"key-1"'}
    first = await client.post("/wallet/debit", json=movement(), headers=keyed)
    other = await client.post("/wallet/debit", json=movement(), headers={**BACK_END, "Idempotency-Key": "key-1"})

    assert first.status_code == 201
    assert problem(other) == (422, "idempotency-key-reused")


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, '""'])
async def test_a_key_that_is_none_is_refused(client: httpx2.AsyncClient, key: str) -> None:
    answer = await client.post("/wallet/debit", json=movement(), headers={**BACK_END, "Idempotency-Key": key})

    assert problem(answer) == (400, "idempotency-key-invalid")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"amount": 0}, "/amount"),
        ({"amount": -5}, "/amount"),
        ({"amount": 10**15 + 1}, "/amount"),
        ({"amount": 10**16}, "/amount"),
        ({"amount": 10**30}, "/amount"),
        ({"amount": 12.5}, "/amount"),
        ({"amount": 12.0}, "/amount"),
        ({"amount": "12"}, "/amount"),
        ({"amount": True}, "/amount"),
        ({"amount": None}, "/amount"),
        ({"currency": "usd"}, "/currency"),
        ({"currency": "XYZ"}, "/currency"),
        ({"currency": "USDT"}, "/currency"),
        ({"currency": None}, "/currency"),
        ({"customerId": ""}, "/customerId"),
        ({"customerId": "x" * 65}, "/customerId"),
        ({"customerId": "usr é"}, "/customerId"),
        ({"customerId": 7}, "/customerId"),
        ({"reference": ""}, "/reference"),
        ({"reference": "x" * 256}, "/reference"),
        ({"reference": "two\nlines"}, "/reference"),
        ({"reference": "ends\n"}, "/reference"),
        ({"reference": None}, "/reference"),
        ({"description": "x" * 501}, "/description"),
        ({"description": 1}, "/description"),
        ({"amout": 5}, "/amout"),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_booked(
    client: httpx2.AsyncClient, change: dict[str, Any], pointer: str
) -> None:
    for path in ("/wallet/credit", "/wallet/debit"):
        answer = await client.post(path, json=movement(**change), headers=BACK_END)
        assert problem(answer) == (422, "validation-error")
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]

    view = (await client.get(f"/wallet/{ALICE}", headers=OWNER)).json()
    assert view["balances"] == [{"currency": "USD", "available": 100_00, "held": 0}]


async def test_a_reference_and_a_description_may_be_in_any_language(client: httpx2.AsyncClient) -> None:
    body = movement(reference="工资" * 127 + "x", description="🎉" * 500)
    answer = await client.post("/wallet/credit", json=body, headers=BACK_END)

    assert answer.status_code == 201
    entries = (await client.get(f"/wallet/{ALICE}/entries?limit=1", headers=OWNER)).json()["items"]
    assert (entries[0]["reference"], entries[0]["description"]) == (body["reference"], body["description"])


async def test_an_unknown_customer_is_not_found(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/wallet/credit", json=movement(customerId="usr_nobody"), headers=BACK_END)

    assert problem(answer) == (404, "not-found")


async def test_a_wallet_is_shown_to_its_owner_and_to_staff_only(client: httpx2.AsyncClient) -> None:
    for headers in (OWNER, ADMIN, BACK_END):
        answer = await client.get(f"/wallet/{ALICE}", headers=headers)
        assert answer.status_code == 200
        assert set(answer.json()) == {"customerId", "status", "balances", "createdAt", "updatedAt"}

    for path in ("/wallet/{}", "/wallet/{}/entries"):
        others = await client.get(path.format(ALICE), headers=OTHER)
        nobodys = await client.get(path.format("usr_nobody"), headers=OTHER)
        assert problem(others) == problem(nobodys) == (404, "not-found")
        assert others.json()["detail"] == nobodys.json()["detail"]


STAFF_ONLY = [("POST", "/wallet/credit"), ("POST", "/wallet/debit")]
ADMIN_ONLY = [
    ("POST", f"/wallet/{ALICE}/freeze"),
    ("POST", f"/wallet/{ALICE}/unfreeze"),
    ("POST", f"/wallet/{ALICE}/close"),
    ("PUT", f"/wallet/{ALICE}/limits/USD"),
    ("DELETE", f"/wallet/{ALICE}/limits/USD"),
    ("GET", "/wallet/audit"),
]
EVERYONE = [
    ("GET", f"/wallet/{ALICE}"),
    ("GET", f"/wallet/{ALICE}/entries"),
    ("GET", f"/wallet/{ALICE}/limits"),
    ("POST", "/wallet/validate"),
    ("POST", f"/wallet/{ALICE}/balances"),
]
INTERNAL = [
    ("POST", "/internal/wallet/groups"),
    ("POST", "/internal/wallet/groups/try"),
    ("POST", "/internal/wallet/groups/abandon"),
    ("POST", "/internal/wallet/wallets"),
]


@pytest.mark.parametrize(("method", "path"), STAFF_ONLY + ADMIN_ONLY)
async def test_customers_and_merchants_may_not(client: httpx2.AsyncClient, method: str, path: str) -> None:
    for headers in (OWNER, OTHER):
        assert problem(await client.request(method, path, json={}, headers=headers)) == (403, "forbidden")


@pytest.mark.parametrize(("method", "path"), ADMIN_ONLY)
async def test_a_back_end_is_no_administrator(client: httpx2.AsyncClient, method: str, path: str) -> None:
    assert problem(await client.request(method, path, json={}, headers=BACK_END)) == (403, "forbidden")


@pytest.mark.parametrize(("method", "path"), STAFF_ONLY + ADMIN_ONLY + EVERYONE + INTERNAL)
async def test_nothing_is_open_to_strangers(client: httpx2.AsyncClient, method: str, path: str) -> None:
    spoofed = {"X-User-Id": ALICE, "X-Auth-Subject": ALICE, "X-Auth-Role": "ADMIN"}
    for headers in ({}, spoofed, {"Authorization": "Bearer nonsense"}):
        assert problem(await client.request(method, path, json={}, headers=headers)) == (401, "invalid-token")


@pytest.mark.parametrize(("method", "path"), INTERNAL)
async def test_the_inner_door_is_shut_for_every_token(client: httpx2.AsyncClient, method: str, path: str) -> None:
    for headers in (OWNER, ADMIN, BACK_END):
        assert problem(await client.request(method, path, json={}, headers=headers)) == (401, "invalid-token")


async def test_a_statement_answers_field_by_field_what_the_contract_says(served: ServedWallet) -> None:
    order = payment(ALICE, BOB, 12_50, 25)
    await served.service.post_group(order)

    answer = await served.client.get(f"/wallet/{BOB}/entries", headers=OTHER)

    body = answer.json()
    assert body["nextCursor"] is None
    [entry] = body["items"]
    assert entry.pop("createdAt").endswith("Z")
    assert entry == {
        "transferId": order.transfers[0].id,
        "type": "CREDIT",
        "amount": 12_25,
        "currency": "USD",
        "balanceAfter": 12_25,
        "counterparty": ALICE,
        "transactionId": order.transaction_id,
        "reference": None,
        "description": None,
    }


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=x",
        "from=yesterday",
        "to=2026",
        "currency=usd",
        "form=x",
        "limit=1&limit=2",
    ],
)
async def test_a_query_that_is_not_understood_is_refused(client: httpx2.AsyncClient, query: str) -> None:
    answer = await client.get(f"/wallet/{ALICE}/entries?{query}", headers=OWNER)

    assert problem(answer) == (422, "validation-error")


async def test_freeze_unfreeze_and_close_answer_the_wallet(client: httpx2.AsyncClient) -> None:
    async def change(verb: str) -> httpx2.Response:
        return await client.post(f"/wallet/{BOB}/{verb}", json={"reason": "a doubt"}, headers=ADMIN)

    seen = [(await change(verb)).json().get("status") for verb in ("freeze", "freeze", "unfreeze", "close", "close")]

    assert seen == ["FROZEN", "FROZEN", "ACTIVE", "CLOSED", "CLOSED"]
    assert problem(await change("freeze")) == (409, "wallet-closed")
    full = await client.post(f"/wallet/{ALICE}/close", json={"reason": "x"}, headers=ADMIN)
    assert problem(full) == (409, "invalid-state")
    unknown = await client.post("/wallet/usr_nobody/freeze", json={"reason": "x"}, headers=ADMIN)
    assert problem(unknown) == (404, "not-found")


async def test_the_owner_opens_a_balance_in_another_currency(client: httpx2.AsyncClient) -> None:
    answer = await client.post(f"/wallet/{ALICE}/balances", json={"currency": "KWD"}, headers=OWNER)

    assert answer.status_code == 200
    assert [balance["currency"] for balance in answer.json()["balances"]] == ["KWD", "USD"]


async def test_everybodys_limits_come_from_the_settings(sqlite_url: str) -> None:
    async with served_wallet(sqlite_url, limits="USD=per_day:500000") as wallet:
        await open_wallet(wallet.service, ALICE)
        [limits] = (await wallet.client.get(f"/wallet/{ALICE}/limits", headers=OWNER)).json()["limits"]

    assert (limits["perDay"], limits["leftToday"], limits["perMonth"]) == (5000_00, 5000_00, None)


async def test_limits_that_cannot_be_stop_the_start_in_a_sentence(sqlite_url: str) -> None:
    with pytest.raises(SettingsError, match=r"^EWALLET_LIMITS is wrong: USD is there twice\.$"):
        async with served_wallet(sqlite_url, limits="USD=per_day:1;USD=per_day:2"):
            pass


LIMITS = {"perPayment": 30_00, "perDay": None, "perMonth": 10**15}


async def test_a_validation_answers_what_the_contract_says(client: httpx2.AsyncClient) -> None:
    asked = {"customerId": ALICE, "amount": 100_01, "currency": "USD"}

    answer = await client.post("/wallet/validate", json=asked, headers=OWNER)

    assert (answer.status_code, answer.json()) == (200, {"valid": False, "reasons": ["INSUFFICIENT_FUNDS"]})


async def test_own_limits_are_set_shown_and_taken_away(served: ServedWallet) -> None:
    client, path = served.client, f"/wallet/{ALICE}/limits"
    await served.service.post_group(payment(ALICE, BOB, 12_50, 25))

    own = await client.put(f"{path}/USD", json=LIMITS, headers=ADMIN)
    seen = await client.get(path, headers=OWNER)
    back = await client.delete(f"{path}/USD", headers=ADMIN)

    spent = {"spentToday": 12_50, "spentThisMonth": 12_50, "leftToday": None}
    limits = {"currency": "USD", "overridden": True, **LIMITS, **spent, "leftThisMonth": 10**15 - 12_50}
    assert (own.status_code, own.json()) == (200, {"customerId": ALICE, "limits": [limits]})
    assert seen.json() == own.json()
    assert back.status_code == 200
    none = {"perPayment": None, "perDay": None, "perMonth": None, "leftThisMonth": None}
    assert back.json()["limits"] == [{"currency": "USD", "overridden": False, **none, **spent}]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"perPayment": -1}, "/perPayment"),
        ({"perDay": 10**15 + 1}, "/perDay"),
        ({"perMonth": 1.5}, "/perMonth"),
        ({"perMonth": "5"}, "/perMonth"),
        ({"perYear": 5}, "/perYear"),
    ],
)
async def test_a_limit_that_is_none_is_named_and_nothing_changes(
    client: httpx2.AsyncClient, change: dict[str, Any], pointer: str
) -> None:
    answer = await client.put(f"/wallet/{ALICE}/limits/USD", json={**LIMITS, **change}, headers=ADMIN)

    assert problem(answer) == (422, "validation-error")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert not (await client.get(f"/wallet/{ALICE}/limits", headers=OWNER)).json()["limits"][0]["overridden"]


@pytest.mark.parametrize("missing", LIMITS)
async def test_all_three_limits_are_given_or_none_is_taken(client: httpx2.AsyncClient, missing: str) -> None:
    """A forgotten member must not lift a limit."""
    given = {name: limit for name, limit in LIMITS.items() if name != missing}

    answer = await client.put(f"/wallet/{ALICE}/limits/USD", json=given, headers=ADMIN)

    assert problem(answer) == (422, "validation-error")


async def test_limits_are_of_a_balance_that_there_is(client: httpx2.AsyncClient) -> None:
    async def put(path: str) -> tuple[int, str]:
        return problem(await client.put(f"/wallet/{path}", json=LIMITS, headers=ADMIN))

    assert await put("usr_nobody/limits/USD") == (404, "not-found")
    assert await put(f"{ALICE}/limits/EUR") == (422, "currency-mismatch")
    assert await put(f"{ALICE}/limits/usd") == (422, "currency-mismatch")
    assert problem(await client.get(f"/wallet/{ALICE}/limits", headers=OTHER)) == (404, "not-found")


async def test_the_audit_names_who_and_why(client: httpx2.AsyncClient) -> None:
    headers = {**ADMIN, "X-Request-Id": "freeze-1"}
    await client.post(f"/wallet/{ALICE}/freeze", json={"reason": "a doubt"}, headers=headers)

    answer = await client.get("/wallet/audit?requestId=freeze-1", headers=ADMIN)

    [record] = answer.json()["items"]
    assert set(record) == {"sequence", "at", "actor", "action", "subject", "requestId", "result", "detail", "hash"}
    assert (record["actor"], record["action"], record["subject"]) == ("usr_admin", "wallet.freeze", ALICE)
    assert record["detail"]["reason"] == "a doubt"


async def test_owners_are_told_at_once(served: ServedWallet) -> None:
    async with asyncio.timeout(5):
        await _told(served.listener, "wallet.credited")
        await served.client.post(f"/wallet/{ALICE}/freeze", json={"reason": "a doubt"}, headers=ADMIN)
        await _told(served.listener, "wallet.frozen")


async def _told(listener: Listener, name: str) -> None:
    while name not in [event.name for event in listener.events]:
        listener.told.clear()
        await listener.told.wait()


def test_the_document_names_the_paths_of_the_contract(served: ServedWallet) -> None:
    assert set(openapi_document(served.application)["paths"]) >= {
        "/wallet/{customerId}",
        "/wallet/validate",
        "/wallet/debit",
        "/wallet/credit",
        "/wallet/{customerId}/entries",
        "/wallet/{customerId}/freeze",
        "/wallet/{customerId}/unfreeze",
        "/wallet/{customerId}/close",
        "/wallet/audit",
    }


def test_the_document_names_the_problems_of_each_endpoint(served: ServedWallet) -> None:
    paths = openapi_document(served.application)["paths"]

    def problems(path: str, status: str) -> str:
        return str(paths[path]["post"]["responses"][status]["description"])

    assert "insufficient-funds" in problems("/wallet/debit", "402")
    assert {"wallet-frozen", "wallet-closed"} <= set(problems("/wallet/credit", "409").split(" · "))
    assert {"currency-mismatch", "idempotency-key-reused"} <= set(problems("/wallet/credit", "422").split(" · "))
    assert not [path for path in paths if "internal" in path]


async def test_options_tells_every_method_of_an_address(client: httpx2.AsyncClient) -> None:
    answer = await client.options(f"/wallet/{ALICE}/limits/USD")

    assert (answer.status_code, answer.headers["allow"]) == (204, "DELETE, OPTIONS, PUT")


def test_the_document_tells_where_an_idempotency_key_is_taken(served: ServedWallet) -> None:
    paths = openapi_document(served.application)["paths"]

    taken = {
        path
        for path, item in paths.items()
        for operation in item.values()
        for parameter in operation.get("parameters", ())
        if (parameter["name"], parameter["in"]) == ("Idempotency-Key", "header")
    }

    assert taken == {"/wallet/credit", "/wallet/debit"}
