"""The front and the gateway's own pages, over HTTP: of the Python gateway, and of HAProxy in its place."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import httpx2
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import Reason
from ewallet.plumbing.database import StorageUnavailable
from ewallet.plumbing.http.problems import EXPLANATIONS, TITLES
from ewallet.plumbing.tokens import sign, sign_internal
from tests.support.gateway import (
    CLIENT_ADDRESS,
    FRONTS,
    INTERNAL_SECRET,
    KEY,
    KEY_ID,
    Front,
    NewClient,
    SmallService,
    ask,
    bearer,
    claims,
    client_of,
    direct_backends,
    new_gateway,
    opened,
)

PROBLEM = "application/problem+json"


pytestmark = pytest.mark.asyncio(loop_scope="module")

Open: TypeAlias = Callable[..., Awaitable[NewClient]]


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest) -> Front:
    chosen: Front = request.param
    return chosen


@pytest.fixture
def small_service() -> SmallService:
    return SmallService()


@pytest_asyncio.fixture(loop_scope="module")
async def open_gateway(front: Front, small_service: SmallService, scratch: Path) -> AsyncIterator[Open]:
    """Give a function that opens a gateway with these settings before the test's service."""
    async with AsyncExitStack() as cleanup:

        async def open_one(**settings: Any) -> NewClient:
            return await cleanup.enter_async_context(opened(front, small_service, scratch, **settings))

        yield open_one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def new_client(front: Front, scratch: Path) -> AsyncIterator[NewClient]:
    """One for all tests that change nothing in it: the applications behind it take a while to build."""
    async with opened(front, SmallService(), scratch) as new_client:
        yield new_client


@pytest_asyncio.fixture(loop_scope="module")
async def client(new_client: NewClient) -> AsyncIterator[httpx2.AsyncClient]:
    async with new_client() as client:
        yield client


def assert_problem(answer: httpx2.Response, status: int, slug: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    problem = answer.json()
    assert problem["type"] == f"/problems/{slug}"
    assert problem["status"] == status
    assert problem["requestId"] == answer.headers["x-request-id"]
    assert problem["instance"] == answer.request.url.path


# --- who may pass -------------------------------------------------------------------------------------------------


def _without(claim: str) -> dict[str, Any]:
    return {name: value for name, value in claims().items() if name != claim}


def _forged(header: dict[str, Any], **changes: Any) -> str:
    return jwt.encode(claims() | changes, KEY, algorithm="ES256", headers={"kid": KEY_ID, "typ": "at+jwt"} | header)


_PUBLIC_PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
_REAL = sign(claims(), KEY, KEY_ID)
_HEAD, _BODY, _SIGNATURE = _REAL.split(".")


def _hs256_with_the_public_key() -> str:
    """By hand, because PyJWT refuses to do it."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head = part(json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": KEY_ID}).encode())
    body = part(json.dumps(claims(role="ADMIN")).encode())
    return f"{head}.{body}.{part(hmac.digest(_PUBLIC_PEM, f'{head}.{body}'.encode(), hashlib.sha256))}"


FORGED = {
    "no algorithm": jwt.encode(claims(), "", algorithm="none", headers={"kid": KEY_ID, "typ": "at+jwt"}),
    "no signature": f"{_HEAD}.{_BODY}.",
    "the public key as a secret": _hs256_with_the_public_key(),
    "another key": sign(claims(), generate_private_key(SECP256R1()), KEY_ID),
    "an unknown key id": sign(claims(), KEY, "key-2"),
    "a key id that is a path": sign(claims(), KEY, "../../dev/null"),
    "expired": sign(claims(seconds=-1), KEY, KEY_ID),
    "another issuer": sign(claims() | {"iss": "somebody"}, KEY, KEY_ID),
    "another audience": sign(claims() | {"aud": "somebody"}, KEY, KEY_ID),
    "audiences as a list": sign(claims() | {"aud": ["ewallet", "somebody"]}, KEY, KEY_ID),
    "an unknown role": sign(claims(role="GOD"), KEY, KEY_ID),
    "another type": _forged({"typ": "JWT"}),
    "a body that was changed": f"{_HEAD}.{sign(claims(role='ADMIN'), KEY, KEY_ID).split('.')[1]}.{_SIGNATURE}",
    "an internal token": sign_internal("payment", INTERNAL_SECRET, system_clock),
    "not a token": "x",
    "too many parts": _REAL + ".x",
    **{f"no {claim}": sign(_without(claim), KEY, KEY_ID) for claim in claims()},
}


@pytest.mark.parametrize("forged", FORGED)
async def test_a_forged_token_opens_nothing(client: httpx2.AsyncClient, forged: str) -> None:
    answer = await client.get("/payment", headers={"Authorization": f"Bearer {FORGED[forged]}"})

    assert_problem(answer, 401, "invalid-token")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", f"Basic {_REAL}")],
        [("Authorization", _REAL)],
        [("Authorization", f"Bearer {_REAL}"), ("Authorization", f"Bearer {_REAL}")],
        [("Cookie", f"token={_REAL}")],
    ],
)
async def test_a_token_counts_only_where_it_belongs(client: httpx2.AsyncClient, headers: list[tuple[str, str]]) -> None:
    assert_problem(await client.get("/payment?token=" + _REAL, headers=headers), 401, "invalid-token")


async def test_a_valid_token_passes_and_its_owner_is_the_caller(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/payment", headers=bearer("usr_ann"))

    assert (answer.status_code, answer.json()["subject"]) == (200, "usr_ann")


async def test_claims_outside_the_token_change_nothing(client: httpx2.AsyncClient) -> None:
    claimed = {
        "X-User-Id": "usr_bob",
        "X-Auth-Subject": "usr_bob",
        "X-Auth-Role": "ADMIN",
        "X-Internal-Service": "payment",
        "X-Forwarded-User": "usr_bob",
        "Remote-User": "usr_bob",
        "X-Role": "ADMIN",
    }

    heard = (await client.get("/payment", headers=bearer("usr_ann") | claimed)).json()

    assert heard["subject"] == "usr_ann"
    assert not heard["headers"].keys() & {name.lower() for name in claimed}


async def test_an_address_for_anyone_needs_no_token_and_minds_no_bad_one(client: httpx2.AsyncClient) -> None:
    answers = [
        await client.post("/auth/login"),
        await client.post("/auth/login", headers={"Authorization": "Bearer x"}),
    ]

    assert [answer.status_code for answer in answers] == [200, 200]


@pytest.mark.parametrize(
    "path", ["/internal/payment/orders", "//internal/payment/orders", "/payment/%2e%2e/internal/payment/orders"]
)
async def test_what_services_tell_each_other_is_out_of_reach(client: httpx2.AsyncClient, path: str) -> None:
    """Not even the services' own token opens it from here."""
    token = sign_internal("payment", INTERNAL_SECRET, system_clock)

    answer = await client.post(path, headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code in (401, 404)
    assert answer.json()["type"] in ("/problems/not-found", "/problems/invalid-token")


# --- the request's id and address ---------------------------------------------------------------------------------


async def test_a_request_id_is_taken_returned_and_passed_on(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/payment", headers=bearer() | {"X-Request-Id": "order-17!"})

    assert answer.headers["x-request-id"] == "order-17!"
    assert answer.json()["requestId"] == "order-17!"
    assert answer.json()["headers"]["x-request-id"] == ["order-17!"]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "\x7f"])
async def test_a_request_id_that_is_none_is_replaced(client: httpx2.AsyncClient, given: str) -> None:
    answer = await client.get("/payment", headers=bearer() | {"X-Request-Id": given})

    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.json()["requestId"] == answer.headers["x-request-id"]


async def test_headers_are_bounded_by_their_size_not_by_their_number(client: httpx2.AsyncClient) -> None:
    many = {f"x-note-{number}": "x" for number in range(500)}

    answer = await client.get("/payment", headers=bearer() | many)

    assert answer.status_code == 200
    assert many.keys() <= answer.json()["headers"].keys()


async def test_a_trace_goes_through(client: httpx2.AsyncClient) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    answer = await client.get("/payment", headers=bearer() | {"traceparent": trace})

    assert answer.json()["headers"]["traceparent"] == [trace]


@pytest.mark.parametrize(
    ("trusted", "forwarded_for"),
    [
        ("", CLIENT_ADDRESS),
        (CLIENT_ADDRESS, f"203.0.113.9, 198.51.100.1, {CLIENT_ADDRESS}"),
        (f"192.0.2.1, {CLIENT_ADDRESS}", f"203.0.113.9, 198.51.100.1, {CLIENT_ADDRESS}"),
        ("2001:db8::/32, 127.0.0.0/8", f"203.0.113.9, 198.51.100.1, {CLIENT_ADDRESS}"),
        ("128.0.0.0/8", CLIENT_ADDRESS),
    ],
)
async def test_only_a_proxy_of_ours_is_believed_about_addresses(
    open_gateway: Open, trusted: str, forwarded_for: str
) -> None:
    new_client = await open_gateway(trusted_proxies=trusted)
    async with new_client() as client:
        answer = await client.get("/payment", headers=bearer() | {"X-Forwarded-For": "203.0.113.9, 198.51.100.1"})

    assert ", ".join(answer.json()["headers"]["x-forwarded-for"]) == forwarded_for


# --- limits -------------------------------------------------------------------------------------------------------

PER_SECOND = 1
AT_ONCE = 2
MANY = 20
"""More than may pass while they are sent, even on a busy machine."""


async def test_a_user_over_the_limit_waits_and_another_does_not(open_gateway: Open) -> None:
    new_client = await open_gateway(rate_per_user=PER_SECOND)
    async with new_client() as client:
        of_ann = [await client.get("/payment", headers=bearer("usr_ann")) for _ in range(MANY)]
        of_bob = await client.get("/payment", headers=bearer("usr_bob"))

    refused = next(answer for answer in of_ann if answer.status_code != 200)
    assert {answer.status_code for answer in of_ann[:AT_ONCE]} == {200}
    assert_problem(refused, 429, "too-many-requests")
    assert int(refused.headers["retry-after"]) >= 1
    assert of_bob.status_code == 200


async def test_an_address_over_the_limit_waits_with_or_without_a_token(open_gateway: Open) -> None:
    new_client = await open_gateway(rate_per_address=PER_SECOND)
    async with new_client("127.0.0.7") as first, new_client("127.0.0.8") as second:
        statuses = [(await first.post("/auth/login")).status_code for _ in range(MANY)]
        with_token = [await first.get("/payment", headers=bearer()) for _ in range(MANY)]
        elsewhere = await second.post("/auth/login")

    assert statuses[:AT_ONCE] == [200] * AT_ONCE
    assert set(statuses) == {200, 429}
    assert_problem(next(answer for answer in with_token if answer.status_code != 200), 429, "too-many-requests")
    assert elsewhere.status_code == 200


async def test_a_new_x_forwarded_for_is_no_new_address(open_gateway: Open) -> None:
    """Otherwise anybody would have as many addresses as there are (MISTAKES 23)."""
    new_client = await open_gateway(rate_per_address=PER_SECOND)
    async with new_client() as client:
        answers = [
            await client.post("/auth/login", headers={"X-Forwarded-For": f"203.0.113.{number}"})
            for number in range(MANY)
        ]

    assert 429 in {answer.status_code for answer in answers}


async def test_an_address_that_a_proxy_of_ours_vouches_for_is_the_one_that_counts(open_gateway: Open) -> None:
    new_client = await open_gateway(rate_per_address=PER_SECOND, trusted_proxies=f"{CLIENT_ADDRESS}, 192.0.2.1")
    async with new_client() as client:

        async def statuses(chain: str) -> list[int]:
            headers = {"X-Forwarded-For": chain}
            return [(await client.post("/auth/login", headers=headers)).status_code for _ in range(MANY)]

        of_one = await statuses("198.51.100.9, 203.0.113.1")
        of_another = await statuses("203.0.113.1, 203.0.113.2, 192.0.2.1")

    assert of_one[:AT_ONCE] == of_another[:AT_ONCE] == [200] * AT_ONCE
    assert 429 in of_one


async def test_load_balancers_are_never_limited(open_gateway: Open) -> None:
    new_client = await open_gateway(rate_per_address=PER_SECOND)
    async with new_client() as client:
        statuses = {(await client.get("/health/live")).status_code for _ in range(MANY)}

    assert statuses == {200}


# --- bounds -------------------------------------------------------------------------------------------------------

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("line", "request_parts", "status", "slug"),
    [
        ("GET /nowhere", {}, 404, "not-found"),
        ("GET /payment/a/b/c", {}, 404, "not-found"),
        ("DELETE /payment", {}, 405, "method-not-allowed"),
        ("BREW /payment", {}, 405, "method-not-allowed"),
        ("GET /payment", {"headers": {"Accept": "image/png"}}, 406, "not-acceptable"),
        ("POST /payment/initiate", {"content": b" " * 70_000, "headers": JSON}, 413, "content-too-large"),
        ("GET /payment?q=" + "x" * 9000, {}, 414, "uri-too-long"),
        ("POST /payment/initiate", {"content": b"<a/>"}, 415, "unsupported-media-type"),
        ("GET /payment", {"headers": {"X-Long": "x" * 17_000}}, 431, "header-too-large"),
        ("POST /payment/initiate", {"content": b"{", "headers": JSON}, 400, "malformed-request"),
        ("POST /payment/initiate", {"headers": JSON}, 400, "malformed-request"),
        ("POST /payment/initiate", {"json": {"amount": "1"}}, 422, "validation-error"),
        ("GET /payment?unknown=1", {}, 422, "validation-error"),
        ("GET /payment", {"headers": {"Host": "a b"}}, 400, "malformed-request"),
    ],
)
async def test_what_cannot_be_answered_is_a_problem(
    client: httpx2.AsyncClient, line: str, request_parts: dict[str, Any], status: int, slug: str
) -> None:
    method, path = line.split()
    headers = bearer() | request_parts.get("headers", {})

    answer = await client.request(method, path, **(request_parts | {"headers": headers}))

    assert_problem(answer, status, slug)


async def test_a_path_for_many_payments_takes_a_large_body(client: httpx2.AsyncClient) -> None:
    orders = [{"amount": 1}] * 20_000

    answer = await client.post("/payment/bulk", headers=bearer(), json={"orders": orders})

    assert (answer.status_code, answer.json()) == (201, len(orders))


async def test_a_method_that_is_not_allowed_is_told_which_are(client: httpx2.AsyncClient) -> None:
    answer = await client.delete("/payment", headers=bearer())

    assert set(answer.headers["allow"].split(", ")) == {"GET", "OPTIONS"}


async def test_a_body_without_an_announced_length_is_bounded_too(client: httpx2.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b" " * 1000

    answer = await client.post("/payment/initiate", headers=bearer() | JSON, content=chunks())

    assert_problem(answer, 413, "content-too-large")


async def test_a_chunked_body_arrives_whole_with_its_length(client: httpx2.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"amo'
        yield b'unt": 1}'

    answer = await client.post("/payment/initiate", headers=bearer() | JSON, content=chunks())

    assert (answer.status_code, answer.json()["amount"]) == (201, 1)
    assert answer.json()["headers"]["content-length"] == ["13"]
    assert "transfer-encoding" not in answer.json()["headers"]


async def test_a_service_that_does_not_answer_in_time_is_a_timeout(
    open_gateway: Open, small_service: SmallService
) -> None:
    new_client = await open_gateway(request_seconds=1)
    async with new_client() as client:
        answer = await client.get("/payment/slow", headers=bearer())

    assert small_service.entered.is_set()
    assert_problem(answer, 504, "timeout")
    assert answer.headers["retry-after"] == "1"


async def test_head_is_get_without_its_body(client: httpx2.AsyncClient) -> None:
    head, got = [await client.request(method, "/payment", headers=bearer()) for method in ("HEAD", "GET")]

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert (await client.head("/payment")).status_code == 401


async def test_options_tells_the_methods_to_anyone(client: httpx2.AsyncClient) -> None:
    answer = await client.options("/payment/initiate")

    assert (answer.status_code, answer.headers["allow"]) == (204, "OPTIONS, POST")


# --- the gateway's own pages --------------------------------------------------------------------------------------


async def test_health_tells_of_every_service(client: httpx2.AsyncClient) -> None:
    live, ready = await client.get("/health/live"), await client.get("/health/ready")

    assert live.json() == {"status": "live"}
    services = dict.fromkeys(("auth", "wallet", "payment", "notification"), "ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "services": services})


@pytest.mark.parametrize(
    ("trouble", "state"),
    [(RuntimeError("gone"), "unavailable"), (StorageUnavailable("full"), "storage-unavailable")],
    ids=["database", "disk"],
)
async def test_services_that_cannot_work_are_named(
    open_gateway: Open, small_service: SmallService, trouble: Exception, state: str
) -> None:
    small_service.trouble = trouble
    new_client = await open_gateway()
    async with new_client() as client:
        ready, live = await client.get("/health/ready"), await client.get("/health/live")

    services = dict.fromkeys(("auth", "wallet", "payment", "notification"), state)
    assert (ready.status_code, ready.json()) == (503, {"status": "unavailable", "services": services})
    assert live.status_code == 200


@pytest.mark.parametrize("reason", Reason)
async def test_every_problem_has_a_page_for_people_and_one_for_programs(
    client: httpx2.AsyncClient, reason: Reason
) -> None:
    for_people = await client.get(f"/problems/{reason}")
    for_programs = await client.get(f"/problems/{reason}", headers={"Accept": "application/json"})

    assert for_people.headers["content-type"].startswith("text/html")
    assert f"<h1>{TITLES[reason].replace(chr(39), '&#x27;')}</h1>" in for_people.text
    assert for_programs.json()["meaning"] == EXPLANATIONS[reason].meaning
    assert for_programs.json()["advice"] == EXPLANATIONS[reason].advice


async def test_an_unknown_problem_has_no_page(client: httpx2.AsyncClient) -> None:
    assert_problem(await client.get("/problems/no-such-thing"), 404, "not-found")


async def test_the_docs_page_loads_nothing_from_elsewhere(client: httpx2.AsyncClient) -> None:
    page = await client.get("/docs")

    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")
    for file in ("docs.css", "docs.js", "swagger-ui.css", "swagger-ui-bundle.js"):
        assert (await client.get(f"/docs/{file}")).status_code == 200


@pytest.mark.parametrize("file", ["docs.html", ".gitattributes", "..%2fapi.py", "swagger-ui-bundle.js.LICENSE.txt"])
async def test_the_docs_page_gives_away_no_other_file(client: httpx2.AsyncClient, file: str) -> None:
    assert_problem(await client.get(f"/docs/{file}"), 404, "not-found")


# --- the Python gateway, as its server calls it -------------------------------------------------------------------


async def test_a_body_that_never_ends_does_not_wait_for_ever(small_service: SmallService) -> None:
    gateway = new_gateway(direct_backends(small_service), request_seconds=1)

    async def nothing_comes() -> None:
        await asyncio.Event().wait()

    status, problem = await ask(gateway, "POST", "/payment/initiate", headers=bearer() | JSON, receive=nothing_comes)

    assert (status, problem["type"]) == (400, "/problems/malformed-request")


async def test_half_a_body_is_not_passed_on(small_service: SmallService) -> None:
    gateway = new_gateway(direct_backends(small_service))
    messages: list[dict[str, Any]] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": b'{"amount": 1}', "more_body": True},
    ]

    async def client_leaves() -> dict[str, Any]:
        return messages.pop()

    status, problem = await ask(gateway, "POST", "/payment/initiate", headers=bearer() | JSON, receive=client_leaves)

    assert (status, problem["type"]) == (400, "/problems/malformed-request")


async def test_websockets_are_refused(small_service: SmallService) -> None:
    gateway = new_gateway(direct_backends(small_service))
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "websocket", "path": "/notification/stream", "headers": []}
    await gateway(scope, receive, send)

    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_metrics_count_requests_by_their_route(small_service: SmallService) -> None:
    async with client_of(new_gateway(direct_backends(small_service))) as client:
        await client.get("/payment", headers=bearer())
        metrics = await client.get("/metrics")

    assert metrics.headers["content-type"].startswith("text/plain; version=")
    assert 'ewallet_requests_total{method="GET",route="/payment",service="gateway",status="200"}' in metrics.text


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "status"),
    [
        ("10.1.2.3", None, 200),
        ("::1", None, 200),
        ("1.1.1.1", None, 404),
        ("::ffff:1.1.1.1", None, 404),
        ("2606:4700:4700::1111", None, 404),
        ("1.1.1.1", "10.1.2.3", 404),
        ("192.0.2.7", "1.1.1.1", 404),
        ("192.0.2.7", "1.1.1.1, 10.1.2.3", 200),
        ("192.0.2.7", "nobody", 404),
        ("10.1.2.3", "1.1.1.1", 404),
        ("10.1.2.3", "10.1.2.4", 404),
    ],
)
async def test_metrics_are_shown_to_no_public_address(
    small_service: SmallService, peer: str, forwarded_for: str | None, status: int
) -> None:
    """What the books hold is nobody's business; a client cannot talk itself in, and a proxy lets nobody in unawares."""
    gateway = new_gateway(direct_backends(small_service), trusted_proxies="192.0.2.7")
    async with client_of(gateway, peer) as client:
        answer = await client.get("/metrics", headers={"X-Forwarded-For": forwarded_for} if forwarded_for else {})

    assert answer.status_code == status
