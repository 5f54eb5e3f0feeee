"""The contract's rows, field by field: status and members of every answer, through real sockets."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.platform import People, Platform, User, payment

PAYMENT = (
    "transactionId status customerId merchantId amount fee netAmount authorizedAmount refundedAmount currency "
    "reference description metadata failureReason createdAt updatedAt"
)
REFUND = "refundId transactionId amount currency reason status createdAt"
QUOTE = "amount currency fee netAmount wouldSucceed reasons"
WALLET = "customerId status balances createdAt updatedAt"
SESSION = "accessToken tokenType expiresIn refreshToken"
MOVED = "transferId customerId type amount currency available reference createdAt"
AUDIT = "sequence at actor action subject requestId result detail hash"


@dataclass(frozen=True)
class Cast:
    """Who and what the rows speak of."""

    customer: User
    merchant: User
    admin: User
    payment_id: str
    notification_id: str
    platform: Platform

    def filled(self, text: str) -> str:
        return (
            text.replace("{customerId}", self.customer.user_id)
            .replace("{transactionId}", self.payment_id)
            .replace("{notificationId}", self.notification_id)
        )


@pytest.fixture(scope="module")
def cast(running: Platform, http: Any) -> Cast:
    people = People(running.address, http)
    customer, merchant = people.customer(with_amount=100_00), people.merchant()
    paid = customer.answer("POST", "/payment/initiate", payment(merchant, 12_50))
    notified = customer.notified_of("wallet.credited", "payment.succeeded")
    merchant.answer("POST", f"/payment/{paid['transactionId']}/refund", {"amount": 100})
    return Cast(customer, merchant, people.admin(), paid["transactionId"], notified[0]["notificationId"], running)


# Who asks, for what, and the members that the answer, or each item of a list, has at least.
READS = [
    ("customer", "/auth/me", "userId email fullName role createdAt"),
    ("customer", "/.well-known/jwks.json", "keys"),
    ("customer", "/wallet/{customerId}", WALLET),
    (
        "customer",
        "/wallet/{customerId}/entries",
        "[] transferId type amount currency balanceAfter counterparty transactionId reference description createdAt",
    ),
    ("admin", "/wallet/audit", f"[] {AUDIT}"),
    ("customer", "/payment/{transactionId}", PAYMENT),
    ("merchant", "/payment/{transactionId}", PAYMENT),
    ("merchant", "/payment/{transactionId}/refunds", f"[] {REFUND}"),
    ("customer", "/payment", f"[] {PAYMENT}"),
    ("merchant", "/payment?status=PARTIALLY_REFUNDED&limit=1", f"[] {PAYMENT}"),
    ("admin", "/payment", f"[] {PAYMENT}"),
    ("admin", "/payment/audit", f"[] {AUDIT}"),
    ("admin", "/auth/audit", f"[] {AUDIT}"),
    ("admin", "/notification/audit", "items nextCursor"),
    ("customer", "/notification", "[] notificationId event title body data readAt createdAt"),
    ("customer", "/health/live", "status"),
    ("customer", "/health/ready", "status services"),
    ("customer", "/openapi.json", "openapi info paths components servers"),
    ("customer", "/problems/not-found", "type title status"),
]


@pytest.mark.parametrize(("who", "path", "members"), READS, ids=[f"{who} {path}" for who, path, _ in READS])
def test_a_read_answers_with_the_members_of_the_contract(cast: Cast, who: str, path: str, members: str) -> None:
    user: User = getattr(cast, who)

    answer = user.answer("GET", cast.filled(path), Accept="application/json")

    if members.startswith("[] "):
        assert answer.keys() == {"items", "nextCursor"}
        assert answer["items"], "an empty list proves nothing"
        for item in answer["items"]:
            assert item.keys() >= set(members.split()[1:])
    else:
        assert answer.keys() >= set(members.split())


def test_writes_answer_with_the_status_and_the_members_of_the_contract(cast: Cast) -> None:
    customer, admin = cast.customer, cast.admin
    customer_id = customer.user_id
    money = {"customerId": customer_id, "amount": 100, "currency": "USD"}
    login = {"email": customer.email, "password": customer.password}
    to_capture, to_void = [
        customer.answer("POST", "/payment/initiate", payment(cast.merchant, 1000, capture=False))["transactionId"]
        for _ in range(2)
    ]
    rows: list[tuple[User, str, Any, int, str]] = [
        (customer, "/auth/login", login, 200, SESSION),
        (customer, "/auth/validate", {"token": customer.token}, 200, "active subject role expiresAt"),
        (customer, "/auth/validate", {"token": "x"}, 200, "active"),
        (admin, "/auth/clients", {"name": "shop"}, 201, "clientId clientSecret"),
        (customer, "/wallet/validate", money, 200, "valid reasons"),
        (admin, "/wallet/credit", money | {"reference": "row-1"}, 201, MOVED),
        (admin, "/wallet/debit", money | {"reference": "row-2"}, 201, MOVED),
        (admin, f"/wallet/{customer_id}/freeze", {"reason": "asked to"}, 200, WALLET),
        (admin, f"/wallet/{customer_id}/unfreeze", {"reason": "asked to"}, 200, WALLET),
        (customer, "/payment/initiate", payment(cast.merchant, 100), 201, PAYMENT),
        (customer, "/payment/quote", payment(cast.merchant, 100), 200, QUOTE),
        (cast.merchant, f"/payment/{to_capture}/capture", {"amount": 500}, 200, PAYMENT),
        (cast.merchant, f"/payment/{to_capture}/refund", {"amount": 100, "reason": "a gift"}, 201, REFUND),
        (cast.merchant, f"/payment/{to_void}/void", None, 200, PAYMENT),
    ]

    for user, path, body, status, members in rows:
        answer = user.post(path, body)
        assert (path, answer.status_code) == (path, status), answer.text
        assert answer.json().keys() >= set(members.split()), path


def test_what_has_no_answer_says_204(cast: Cast) -> None:
    session = cast.customer.answer(
        "POST", "/auth/login", {"email": cast.customer.email, "password": cast.customer.password}
    )

    read = cast.customer.post(f"/notification/{cast.notification_id}/read")
    logged_out = cast.customer.post("/auth/logout", {"refreshToken": session["refreshToken"]})
    verified = cast.customer.get("/auth/verify")

    assert [answer.status_code for answer in (read, logged_out, verified)] == [204, 204, 204]
    assert verified.headers["x-auth-subject"] == cast.customer.user_id
    assert verified.headers["x-auth-role"] == "CUSTOMER"
    assert not any(answer.content for answer in (read, logged_out, verified))


def test_a_back_end_gets_its_token_with_basic_credentials(cast: Cast) -> None:
    made = cast.admin.answer("POST", "/auth/clients", {"name": "shop"})

    answer = cast.customer.http.post(
        f"{cast.platform.address}/auth/token",
        data={"grant_type": "client_credentials"},
        auth=(made["clientId"], made["clientSecret"]),
    )

    assert answer.status_code == 200
    assert answer.json().keys() >= {"access_token", "token_type", "expires_in"}


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        (b"{", 400, "malformed-request"),
        (b'{"amount": 1, "amount": 1}', 400, "malformed-request"),
        (b'{"merchantId": "m", "amount": 1, "currency": "USD", "tip": 1}', 422, "validation-error"),
        *[
            (b'{"merchantId": "m", "amount": %b, "currency": "USD"}' % amount, 422, "validation-error")
            for amount in (b"0", b"-1", b"1.5", b"1e3", b'"12"', b"true", b"null", b"10000000000000001")
        ],
        (b'{"merchantId": "m", "amount": 1, "currency": "usd"}', 422, "validation-error"),
        (b'{"merchantId": "m", "amount": 1, "currency": "XTS"}', 422, "validation-error"),
        (b'{"merchantId": "m", "amount": 1000, "currency": "USD"}', 422, "unknown-merchant"),
        (b" " * 70_000, 413, "content-too-large"),
    ],
)
def test_bad_input_is_the_problem_that_the_contract_names(cast: Cast, body: bytes, status: int, slug: str) -> None:
    answer = cast.customer.http.post(
        f"{cast.platform.address}/payment/initiate",
        content=body,
        headers={"Authorization": f"Bearer {cast.customer.token}", "Content-Type": "application/json"},
    )

    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{slug}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["requestId"] == answer.headers["x-request-id"]
    assert answer.json()["instance"] == "/payment/initiate"
