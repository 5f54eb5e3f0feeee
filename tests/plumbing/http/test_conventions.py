"""What every service answers to every request, whatever its own endpoints are."""

import re
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

import httpx2
import msgspec
import pytest
from litestar import Request, get, post
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta

from ewallet.kernel.caller import Role
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import OutcomeUnknown, Overloaded, Reason, Refusal, Refused
from ewallet.plumbing.database import StorageUnavailable
from ewallet.plumbing.http.application import service_application
from ewallet.plumbing.http.contract import (
    ANY_USER,
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    MovesMoney,
    caller_of,
    client_address,
    decode_cursor,
    encode_cursor,
    idempotency_key,
    internal,
    protected,
    public,
)
from ewallet.plumbing.http.edge import MAXIMUM_BODY_BYTES, MAXIMUM_HEADER_BYTES, MAXIMUM_URI_BYTES, Edge
from ewallet.plumbing.tokens import sign_internal
from tests.support.notification import CUSTOMER, INTERNAL_SECRET, bearer, verifier

Wants = Annotated[str | None, QueryParameter(name="from")]


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    amount: int
    note: str | None = None


class Touch(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    note: str | None = None


@get("/things", **protected(ANY_USER))
async def list_things(
    request: Request[Any, Any, Any], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None, wants: Wants = None
) -> dict[str, Any]:
    position = None if cursor is None else decode_cursor(cursor, tuple[Annotated[int, Meta(ge=0)], str])
    return {"subject": caller_of(request).subject, "limit": limit, "position": position, "from": wants}


@get("/things/{thing_id:str}", **public())
async def get_thing(thing_id: FromPath[str]) -> dict[str, str]:
    return {"id": thing_id}


@get("/whose", **public())
async def whose(request: Request[Any, Any, Any]) -> dict[str, str]:
    return {"address": client_address(request)}


@post("/things", operation_class=MovesMoney, **public(Reason.IDEMPOTENCY_KEY_INVALID))
async def add_thing(request: Request[Any, Any, Any], data: JSONBody[Body]) -> dict[str, Any]:
    return {"amount": data.amount, "key": idempotency_key(request)}


@post("/things/{thing_id:str}/touch", **public())
async def touch_thing(thing_id: FromPath[str], data: JSONBody[Touch] = Touch()) -> dict[str, str | None]:  # noqa: B008  # immutable
    return {"id": thing_id, "note": data.note}


@post("/internal/things", **internal())
async def internal_thing(request: Request[Any, Any, Any]) -> dict[str, str]:
    return {"caller": caller_of(request).subject}


FAILURES = {
    "refused": Refused(
        Refusal(Reason.INSUFFICIENT_FUNDS, "Too little.", members={"failureReason": "INSUFFICIENT_FUNDS"})
    ),
    "overloaded": Overloaded("the secret queue is full"),
    "storage": StorageUnavailable("the secret disk is full"),
    "unknown": OutcomeUnknown("the secret wallet does not answer"),
    "bug": KeyError("a secret detail"),
}


@get("/fail/{how:str}", **public())
async def fail(how: FromPath[str]) -> None:
    raise FAILURES[how]


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    application = service_application(
        name="things",
        routes=[whose, list_things, get_thing, add_thing, touch_thing, internal_thing, fail],
        verifier=verifier(),
        internal_secret=INTERNAL_SECRET,
    )
    edge = Edge(application, service="things", clock=system_clock)
    transport = httpx2.ASGITransport(edge)  # type: ignore[arg-type]  # Litestar and httpx2 name ASGI's types differently
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


def slug(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    return answer.status_code, str(answer.json()["type"]).removeprefix("/problems/")


# --- problems -------------------------------------------------------------------------------------------------------


async def test_a_problem_has_every_member_of_the_contract(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/fail/refused", headers={"X-Request-Id": "mine"})

    assert slug(answer) == (402, "insufficient-funds")
    assert answer.json() == {
        "type": "/problems/insufficient-funds",
        "title": "The available balance is too small",
        "status": 402,
        "detail": "Too little.",
        "instance": "/fail/refused",
        "requestId": "mine",
        "failureReason": "INSUFFICIENT_FUNDS",
    }


@pytest.mark.parametrize(
    ("how", "expected", "retry_after"),
    [
        ("overloaded", (503, "service-unavailable"), "1"),
        ("storage", (503, "storage-unavailable"), "5"),
        ("unknown", (504, "timeout"), "1"),
        ("bug", (500, "internal-error"), None),
    ],
)
async def test_our_own_troubles_are_told_without_their_details(
    client: httpx2.AsyncClient, how: str, expected: tuple[int, str], retry_after: str | None
) -> None:
    answer = await client.get(f"/fail/{how}")

    assert slug(answer) == expected
    assert answer.headers.get("retry-after") == retry_after
    assert "secret" not in answer.text


async def test_an_unknown_address_and_a_wrong_method_are_problems(client: httpx2.AsyncClient) -> None:
    assert slug(await client.get("/nothing")) == (404, "not-found")
    wrong = await client.delete("/things")
    assert slug(wrong) == (405, "method-not-allowed")
    assert {"GET", "POST"} <= {method.strip() for method in wrong.headers["allow"].split(",")}


# --- who may call ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": bearer(CUSTOMER)["Authorization"].replace("Bearer", "Token")},
        {"X-User-Id": CUSTOMER, "X-User-Role": "ADMIN", "X-Auth-Subject": CUSTOMER},
        bearer(CUSTOMER, seconds=-10),
    ],
)
async def test_without_a_valid_token_nobody_gets_in(client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    answer = await client.get("/things", headers=headers)

    assert slug(answer) == (401, "invalid-token")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_two_tokens_are_no_token(client: httpx2.AsyncClient) -> None:
    token = bearer(CUSTOMER)["Authorization"]

    answer = await client.get("/things", headers=[("Authorization", token), ("Authorization", token)])

    assert slug(answer) == (401, "invalid-token")


async def test_a_role_that_may_not_is_forbidden(client: httpx2.AsyncClient) -> None:
    assert slug(await client.get("/things", headers=bearer("svc_1", Role.SERVICE))) == (403, "forbidden")


async def test_identity_comes_from_the_token_alone(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/things", headers=bearer(CUSTOMER) | {"X-User-Id": "usr_other", "X-Role": "ADMIN"})

    assert answer.json()["subject"] == CUSTOMER


async def test_inner_endpoints_take_the_tokens_of_services_only(client: httpx2.AsyncClient) -> None:
    ours = {"Authorization": f"Bearer {sign_internal('payment', INTERNAL_SECRET, system_clock)}"}

    assert (await client.post("/internal/things", headers=ours)).json() == {"caller": "service:payment"}
    assert slug(await client.post("/internal/things")) == (401, "invalid-token")
    assert slug(await client.post("/internal/things", headers=bearer(CUSTOMER, Role.ADMIN))) == (401, "invalid-token")


# --- the request id -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["x", "trace-1/2:3", "~" * 128])
async def test_a_good_request_id_is_kept(client: httpx2.AsyncClient, given: str) -> None:
    answer = await client.get("/nothing", headers={"X-Request-Id": given})

    assert answer.headers["x-request-id"] == given
    assert answer.json()["requestId"] == given


@pytest.mark.parametrize("given", ["", "two words", "~" * 129, "naïve", "a\tb"])
async def test_any_other_request_id_is_replaced(client: httpx2.AsyncClient, given: str) -> None:
    answer = await client.get("/things/1", headers=[(b"X-Request-Id", given.encode("latin-1"))])

    assert re.fullmatch(r"req_[0-9a-z]{26}", answer.headers["x-request-id"])


async def test_every_answer_forbids_sniffing_and_storing(client: httpx2.AsyncClient) -> None:
    for answer in (await client.get("/things/1"), await client.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


# --- bounds ---------------------------------------------------------------------------------------------------------


async def test_headers_over_the_bound_are_refused(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/things/1", headers={"X-Large": "x" * MAXIMUM_HEADER_BYTES})

    assert slug(answer) == (431, "header-too-large")


async def test_an_address_over_the_bound_is_refused(client: httpx2.AsyncClient) -> None:
    assert slug(await client.get(f"/things/{'x' * MAXIMUM_URI_BYTES}")) == (414, "uri-too-long")
    assert slug(await client.get(f"/things/1?{'x' * MAXIMUM_URI_BYTES}")) == (414, "uri-too-long")


async def test_a_body_over_the_bound_is_refused_announced_or_not(client: httpx2.AsyncClient) -> None:
    body = b'{"amount": 1, "note": "' + b"x" * MAXIMUM_BODY_BYTES + b'"}'

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 4096):
            yield body[start : start + 4096]

    json_type = {"Content-Type": "application/json"}
    assert slug(await client.post("/things", content=body, headers=json_type)) == (413, "content-too-large")
    assert slug(await client.post("/things", content=chunks(), headers=json_type)) == (413, "content-too-large")


@pytest.mark.parametrize("length", ["-1", "ten", "1e3"])
async def test_a_length_that_is_no_number_is_malformed(client: httpx2.AsyncClient, length: str) -> None:
    answer = await client.post("/things", content=b"{}", headers={"Content-Length": length})

    assert slug(answer) == (400, "malformed-request")


# --- media types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"]
)
async def test_a_body_of_another_type_is_refused(client: httpx2.AsyncClient, content_type: str) -> None:
    answer = await client.post("/things", content=b'{"amount": 1}', headers={"Content-Type": content_type})

    assert slug(answer) == (415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 201),
        ({"json": {}}, 201),
        ({"json": {"note": "gently"}}, 201),
        ({"json": {"force": 1}}, 422),
        ({"content": b"{}"}, 415),
        ({"content": iter([b"{}"])}, 415),
        ({"content": b"", "headers": {"Content-Type": "application/json"}}, 201),
    ],
)
async def test_who_has_nothing_to_say_may_leave_the_body_out_where_it_has_a_default(
    client: httpx2.AsyncClient, sent: dict[str, Any], status: int
) -> None:
    content = sent.get("content")
    if content is not None and not isinstance(content, bytes):
        sent = {"content": _chunks(content)}

    assert (await client.post("/things/7/touch", **sent)).status_code == status


async def _chunks(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
async def test_json_is_json_however_it_is_written(client: httpx2.AsyncClient, content_type: str) -> None:
    answer = await client.post("/things", content=b'{"amount": 1}', headers={"Content-Type": content_type})

    assert answer.status_code == 201


@pytest.mark.parametrize("accept", ["text/html", "application/xml, text/*", "application/json;q=0", "image/png"])
async def test_a_client_that_wants_something_else_is_told(client: httpx2.AsyncClient, accept: str) -> None:
    assert slug(await client.get("/things/1", headers={"Accept": accept})) == (406, "not-acceptable")


@pytest.mark.parametrize("accept", ["*/*", "application/*", "text/html, application/json;q=0.1", "APPLICATION/JSON"])
async def test_a_client_that_takes_json_gets_it(client: httpx2.AsyncClient, accept: str) -> None:
    assert (await client.get("/things/1", headers={"Accept": accept})).status_code == 200


# --- bodies, parameters, cursors, keys ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "malformed-request")),
        (b"{", (400, "malformed-request")),
        (b'{"amount": 1, "amount": 2}', (400, "malformed-request")),
        (b'{"amount": 1e3}', (422, "validation-error")),
        (b'{"amount": 1, "unknown": 1}', (422, "validation-error")),
        (b'{"amount": 1, "note": ' + b"[" * 700 + b"]" * 700 + b"}", (400, "malformed-request")),
    ],
)
async def test_a_bad_body_is_the_problem_that_the_contract_names(
    client: httpx2.AsyncClient, body: bytes, expected: tuple[int, str]
) -> None:
    answer = await client.post("/things", content=body, headers={"Content-Type": "application/json"})

    assert slug(answer) == expected


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/things?unknown=1", "unknown"),
        ("/things?limit=1&limit=1", "limit"),
        ("/things?userId=usr_1", "userId"),
        ("/things?wants=x", "wants"),
        ("/things?limit=0", "limit"),
        ("/things?limit=101", "limit"),
        ("/things?limit=1.5", "limit"),
        ("/things?limit=", "limit"),
        ("/things?cursor=", "cursor"),
        ("/things?cursor=!", "cursor"),
        (f"/things?cursor={encode_cursor('text', 1)}", "cursor"),
        (f"/things?cursor={encode_cursor(-1, 'x')}", "cursor"),
        (f"/things?cursor={encode_cursor(1)}", "cursor"),
        (f"/things?cursor={'A' * 513}", "cursor"),
        ("/things/1?thing_id=2", "thing_id"),
    ],
)
async def test_a_parameter_that_is_unknown_doubled_or_wrong_is_named(
    client: httpx2.AsyncClient, path: str, pointer: str
) -> None:
    answer = await client.get(path, headers=bearer(CUSTOMER))

    assert slug(answer) == (422, "validation-error")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_cursor_comes_back_as_the_position_that_it_was_made_of(client: httpx2.AsyncClient) -> None:
    cursor = encode_cursor(2**60, "pay_ü")

    answer = await client.get(f"/things?cursor={cursor}&limit=100&from=x", headers=bearer(CUSTOMER))

    assert re.fullmatch("[A-Za-z0-9_-]+", cursor)
    assert answer.json() == {"subject": CUSTOMER, "limit": 100, "position": [2**60, "pay_ü"], "from": "x"}


@pytest.mark.parametrize(("given", "read"), [("key-1", "key-1"), ('"key-1"', "key-1"), ("k" * 255, "k" * 255)])
async def test_an_idempotency_key_is_read_quoted_or_bare(client: httpx2.AsyncClient, given: str, read: str) -> None:
    answer = await client.post("/things", json={"amount": 1}, headers={"Idempotency-Key": given})

    assert answer.json() == {"amount": 1, "key": read}


@pytest.mark.parametrize("given", ["", '""', '"', '"open', 'shut"', 'a"b', "two words", "k" * 256, "naïve"])
async def test_a_bad_idempotency_key_is_its_own_problem(client: httpx2.AsyncClient, given: str) -> None:
    headers = [(b"Idempotency-Key", given.encode("latin-1")), (b"Content-Type", b"application/json")]

    answer = await client.post("/things", content=b'{"amount": 1}', headers=headers)

    assert slug(answer) == (400, "idempotency-key-invalid")


async def test_two_idempotency_keys_are_refused(client: httpx2.AsyncClient) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]

    assert slug(await client.post("/things", json={"amount": 1}, headers=headers)) == (400, "idempotency-key-invalid")


# --- whose request it is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "secret", "address"),
    [
        ("gateway", INTERNAL_SECRET, "203.0.113.9"),
        ("payment", INTERNAL_SECRET, "127.0.0.1"),
        ("gateway", "-" * 32, "127.0.0.1"),
        ("", "", "127.0.0.1"),
    ],
    ids=["gateway", "another service", "a stranger", "nobody"],
)
async def test_only_our_own_gateway_is_believed_for_whom_it_asks(
    client: httpx2.AsyncClient, service: str, secret: str, address: str
) -> None:
    """Logins are limited by address: who could name any would guess passwords without end."""
    badge = sign_internal(service, secret, system_clock) if secret else ""
    headers = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9", "X-Internal-Badge": badge}

    assert (await client.get("/whose", headers=headers)).json() == {"address": address}
