"""Every call of the platform, as its own document lists them, against everybody who might try it (MISTAKES 14).

A new call without a row in ``CALLS`` fails: whoever adds one says here who may use it and how it can refuse.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
import schemathesis
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from ewallet.gateway.domain import route_of
from ewallet.kernel.caller import Role
from ewallet.kernel.errors import Reason
from ewallet.plumbing.http.contract import ANY_USER, EVERYONE, STAFF
from ewallet.plumbing.settings import SERVICES, Settings
from ewallet.plumbing.tokens import sign
from ewallet.together import create_together
from tests.support.gateway import claims
from tests.support.migrated import migrate
from tests.support.notification import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANYONE = None
ADMIN = frozenset({Role.ADMIN})
PAYER = frozenset({Role.CUSTOMER})
MERCHANT = frozenset({Role.MERCHANT})
PAYEE = frozenset({Role.MERCHANT, Role.ADMIN})

MONEY_MOVES = {
    Reason.IDEMPOTENCY_KEY_INVALID,
    Reason.IDEMPOTENCY_KEY_REUSED,
    Reason.INSUFFICIENT_FUNDS,
    Reason.CURRENCY_MISMATCH,
    Reason.WALLET_FROZEN,
    Reason.WALLET_CLOSED,
}

OPERATION = {
    Reason.IDEMPOTENCY_KEY_INVALID,
    Reason.IDEMPOTENCY_KEY_REUSED,
    Reason.REQUEST_IN_PROGRESS,
    Reason.INVALID_STATE,
    Reason.ABANDONED,
}
WALLETS = {Reason.INSUFFICIENT_FUNDS, Reason.WALLET_FROZEN, Reason.WALLET_CLOSED}

# Who may call (None: anyone), and which problems a call has beyond those that every call has.
CALLS: Mapping[str, tuple[frozenset[Role] | None, set[Reason]]] = {
    "POST /auth/register": (ANYONE, {Reason.EMAIL_TAKEN}),
    "POST /auth/login": (ANYONE, {Reason.INVALID_CREDENTIALS}),
    "POST /auth/refresh": (ANYONE, {Reason.INVALID_TOKEN}),
    "POST /auth/logout": (ANYONE, set()),
    "POST /auth/token": (ANYONE, {Reason.INVALID_CREDENTIALS}),
    "POST /auth/clients": (ADMIN, set()),
    "POST /auth/validate": (ANYONE, set()),
    "GET /auth/verify": (EVERYONE, set()),
    "GET /auth/me": (ANY_USER, set()),
    "GET /auth/audit": (ADMIN, set()),
    "GET /.well-known/jwks.json": (ANYONE, set()),
    "GET /wallet/{customerId}": (EVERYONE, set()),
    "GET /wallet/{customerId}/entries": (EVERYONE, set()),
    "POST /wallet/{customerId}/balances": (EVERYONE, {Reason.WALLET_CLOSED}),
    "POST /wallet/{customerId}/freeze": (ADMIN, {Reason.WALLET_CLOSED}),
    "POST /wallet/{customerId}/unfreeze": (ADMIN, {Reason.WALLET_CLOSED}),
    "POST /wallet/{customerId}/close": (ADMIN, {Reason.INVALID_STATE}),
    "GET /wallet/{customerId}/limits": (EVERYONE, set()),
    "PUT /wallet/{customerId}/limits/{currency}": (ADMIN, {Reason.CURRENCY_MISMATCH}),
    "DELETE /wallet/{customerId}/limits/{currency}": (ADMIN, {Reason.CURRENCY_MISMATCH}),
    "POST /wallet/validate": (EVERYONE, set()),
    "POST /wallet/credit": (STAFF, MONEY_MOVES | {Reason.INVALID_STATE}),
    "POST /wallet/debit": (STAFF, MONEY_MOVES | {Reason.INVALID_STATE}),
    "GET /wallet/audit": (ADMIN, set()),
    "POST /payment/initiate": (
        PAYER,
        MONEY_MOVES
        | {
            Reason.UNKNOWN_MERCHANT,
            Reason.AMOUNT_TOO_SMALL,
            Reason.LIMIT_EXCEEDED,
            Reason.REQUEST_IN_PROGRESS,
            Reason.ABANDONED,
        },
    ),
    "POST /payment/bulk": (
        PAYER | STAFF,
        {Reason.IDEMPOTENCY_KEY_REUSED, Reason.REQUEST_IN_PROGRESS, Reason.AMOUNT_TOO_SMALL},
    ),
    "POST /payment/quote": (PAYER, set()),
    "POST /payment/{transactionId}/capture": (PAYEE, OPERATION | WALLETS | {Reason.AMOUNT_TOO_SMALL}),
    "POST /payment/{transactionId}/void": (PAYEE, OPERATION),
    "POST /payment/{transactionId}/refund": (PAYEE, OPERATION | WALLETS),
    "GET /payment/{transactionId}/refunds": (EVERYONE, set()),
    "GET /payment": (EVERYONE, set()),
    "GET /payment/{transactionId}": (EVERYONE, set()),
    "GET /payment/{transactionId}/history": (EVERYONE, set()),
    "GET /payment/audit": (ADMIN, set()),
    "GET /notification/audit": (ADMIN, set()),
    "GET /notification": (ANY_USER, set()),
    "POST /notification/{notificationId}/read": (ANY_USER, set()),
    "GET /notification/stream": (ANY_USER, set()),
    "GET /notification/preferences": (ANY_USER, set()),
    "PUT /notification/preferences": (ANY_USER, set()),
    "GET /notification/addresses/{userId}": (EVERYONE, set()),
    "PUT /notification/addresses/{userId}": (STAFF, set()),
    "POST /notification/webhooks": (MERCHANT, {Reason.INVALID_STATE}),
    "GET /notification/webhooks": (MERCHANT, set()),
    "GET /notification/webhooks/{webhookId}": (MERCHANT, set()),
    "PUT /notification/webhooks/{webhookId}": (MERCHANT, set()),
    "DELETE /notification/webhooks/{webhookId}": (MERCHANT, set()),
    "POST /notification/webhooks/{webhookId}/enable": (MERCHANT, set()),
    "POST /notification/webhooks/{webhookId}/disable": (MERCHANT, set()),
    "POST /notification/webhooks/{webhookId}/rotate-secret": (MERCHANT, set()),
    "POST /notification/webhooks/{webhookId}/test": (MERCHANT, {Reason.INVALID_STATE}),
    "GET /notification/webhooks/{webhookId}/deliveries": (MERCHANT, set()),
    "POST /notification/webhooks/{webhookId}/deliveries/{deliveryId}/redeliver": (MERCHANT, {Reason.INVALID_STATE}),
    "GET /health/live": (ANYONE, set()),
    "GET /health/ready": (ANYONE, set()),
    "GET /metrics": (ANYONE, set()),
    "GET /openapi.json": (ANYONE, set()),
    "GET /docs": (ANYONE, set()),
    "GET /problems/{slug}": (ANYONE, set()),
}

PROTECTED = [call for call, (roles, _) in CALLS.items() if roles is not ANYONE]


@dataclass(frozen=True)
class Running:
    """The whole platform on a socket, its document, and a token for each role."""

    http: httpx2.AsyncClient
    document: dict[str, Any]
    tokens: Mapping[Role, str]

    def operations(self) -> dict[str, dict[str, Any]]:
        return {
            f"{method.upper()} {path}": operation
            for path, item in self.document["paths"].items()
            for method, operation in item.items()
        }

    async def call(self, call: str, token: str | None, **more_headers: str) -> httpx2.Response:
        """Try a call on something that is not there, with an empty body where it takes one."""
        method, path = call.split()
        for name in ("customerId", "userId", "transactionId", "notificationId", "webhookId", "deliveryId"):
            path = path.replace(f"{{{name}}}", "usr_00000000000000000000000000")
        headers = {"Authorization": f"Bearer {token}", **more_headers} if token else more_headers
        body: dict[str, str] | None = {} if "requestBody" in self.operations()[call] else None
        async with self.http.stream(method, path, headers=headers, json=body) as answer:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                await answer.aread()
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(scratch: Path) -> AsyncIterator[Running]:
    settings = Settings(
        data=str(scratch / "every-route"),
        bcrypt_cost=4,
        rate_per_user=0,
        rate_per_address=0,
        admin_email="admin@example.com",
        admin_password="orchard-lantern-42",
    )
    for service in SERVICES:
        migrate(service, settings.database_url(service))
    async with (
        serving(create_together(settings)) as (address, _),
        httpx2.AsyncClient(base_url=address, trust_env=False, timeout=30) as http,
    ):
        yield Running(http, (await http.get("/openapi.json")).json(), await _tokens(http))


async def _tokens(http: httpx2.AsyncClient) -> dict[Role, str]:
    async def login(email: str) -> str:
        answer = await http.post("/auth/login", json={"email": email, "password": "orchard-lantern-42"})
        token: str = answer.json()["accessToken"]
        return token

    for role in (Role.CUSTOMER, Role.MERCHANT):
        person = {"email": f"{role}@example.com", "password": "orchard-lantern-42", "fullName": "Ann", "role": role}
        assert (await http.post("/auth/register", json=person)).status_code == 201
    admin = await login("admin@example.com")
    made = await http.post("/auth/clients", json={"name": "shop"}, headers={"Authorization": f"Bearer {admin}"})
    service = await http.post(
        "/auth/token",
        data={"grant_type": "client_credentials"},
        auth=(made.json()["clientId"], made.json()["clientSecret"]),
    )
    return {
        Role.CUSTOMER: await login("customer@example.com"),
        Role.MERCHANT: await login("merchant@example.com"),
        Role.ADMIN: admin,
        Role.SERVICE: service.json()["access_token"],
    }


async def test_every_call_has_its_row_and_every_row_its_call(running: Running) -> None:
    assert running.operations().keys() == CALLS.keys(), "say in CALLS who may use a new call and how it can refuse"


async def test_the_document_is_valid_openapi_3_1(running: Running) -> None:
    assert running.document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(running.document).validate()


async def test_every_operation_has_a_name_of_its_own(running: Running) -> None:
    names = [operation["operationId"] for operation in running.operations().values()]

    assert len(set(names)) == len(names)


async def test_every_reference_in_the_document_leads_somewhere(running: Running) -> None:
    schemas = running.document["components"]["schemas"]

    for reference in _references(running.document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [reference for member in value for reference in _references(member)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + _references(list(value.values()))


async def test_bounds_in_the_document_are_whole_numbers(running: Running) -> None:
    amount = running.document["components"]["schemas"]["InitiatePayment"]["properties"]["amount"]

    assert (amount["minimum"], amount["maximum"]) == (1, 10**15)
    assert ".0," not in (await running.http.get("/openapi.json")).text


async def test_bodies_that_refuse_unknown_members_say_so(running: Running) -> None:
    for operation in running.operations().values():
        for content in operation.get("requestBody", {"content": {}})["content"].values():
            name = content["schema"]["$ref"].rpartition("/")[2]
            assert running.document["components"]["schemas"][name]["additionalProperties"] is False, name


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_documents_the_problems_that_it_can_answer(running: Running, call: str) -> None:
    roles, own = CALLS[call]
    expected = own | ({Reason.INVALID_TOKEN, Reason.FORBIDDEN} if roles is not ANYONE else set())

    documented = {
        Reason(slug)
        for answer in running.operations()[call]["responses"].values()
        if "application/problem+json" in answer.get("content", {})
        for slug in answer["description"].split(" · ")
    }

    assert documented - EVERY_CALL == expected


# GET /health/ready answers 503 with its own body, which names the services.
EVERY_CALL = {
    Reason.MALFORMED_REQUEST,
    Reason.NOT_FOUND,
    Reason.METHOD_NOT_ALLOWED,
    Reason.NOT_ACCEPTABLE,
    Reason.CONTENT_TOO_LARGE,
    Reason.URI_TOO_LONG,
    Reason.UNSUPPORTED_MEDIA_TYPE,
    Reason.HEADER_TOO_LARGE,
    Reason.VALIDATION_ERROR,
    Reason.TOO_MANY_REQUESTS,
    Reason.INTERNAL_ERROR,
    Reason.SERVICE_UNAVAILABLE,
    Reason.STORAGE_UNAVAILABLE,
    Reason.TIMEOUT,
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_client_that_takes_only_json_gets_it(running: Running, call: str) -> None:
    """All but the pages that are no JSON."""
    pages = {"GET /docs", "GET /metrics", "GET /notification/stream"}

    answer = await running.call(call, running.tokens[Role.ADMIN], Accept="application/json")

    assert (answer.status_code == 406) == (call in pages)


@pytest.mark.parametrize("call", CALLS)
async def test_the_gateway_and_the_services_agree_on_what_is_for_anyone(running: Running, call: str) -> None:
    """All but the proxy's sub-request, which checks its token itself to answer in its own way."""
    method, path = call.split()
    route = route_of(method, path)

    assert route is not None
    if call != "GET /auth/verify":
        assert route.public == (CALLS[call][0] is ANYONE)
        assert route.public == ({"bearer": []} not in running.operations()[call].get("security", []))


@pytest.mark.parametrize("call", PROTECTED)
async def test_nobody_gets_in_without_a_valid_token(running: Running, call: str) -> None:
    forger = generate_private_key(SECP256R1())
    kept_key_id = (await running.http.get("/.well-known/jwks.json")).json()["keys"][0]["kid"]

    for token in (None, "x", sign(claims(role=Role.ADMIN), forger, kept_key_id)):
        answer = await running.call(call, token)
        assert (answer.status_code, answer.json()["type"]) == (401, "/problems/invalid-token")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("call", PROTECTED)
async def test_a_role_may_do_what_is_its_own_and_nothing_else(running: Running, call: str) -> None:
    allowed = CALLS[call][0]

    for role in Role:
        answer = await running.call(call, running.tokens[role])
        assert (answer.status_code != 403) == (role in (allowed or ())), (role, answer.status_code)
        assert answer.status_code not in (401, 500)


async def test_somebody_else_s_things_look_like_things_that_are_not_there(running: Running) -> None:
    """MISTAKES 15 and the contract's "not yours = not there", with every claim that a client could make."""
    ann, bob = [
        (await running.http.get("/auth/me", headers={"Authorization": f"Bearer {running.tokens[role]}"})).json()
        for role in (Role.CUSTOMER, Role.MERCHANT)
    ]
    claimed = {"X-User-Id": bob["userId"], "X-Auth-Subject": bob["userId"], "X-Auth-Role": "ADMIN"}
    headers = {"Authorization": f"Bearer {running.tokens[Role.CUSTOMER]}"} | claimed

    others = await running.http.get(f"/wallet/{bob['userId']}", headers=headers)
    nobodys = await running.http.get("/wallet/usr_00000000000000000000000000", headers=headers)
    own = await running.http.get(f"/wallet/{ann['userId']}", headers=headers)

    def comparable(answer: httpx2.Response) -> dict[str, Any]:
        return {**answer.json(), "instance": "", "requestId": ""}

    assert (others.status_code, nobodys.status_code, own.status_code) == (404, 404, 200)
    assert comparable(others) == comparable(nobodys)
