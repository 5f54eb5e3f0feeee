"""The gateway's rules, without HTTP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewallet.gateway.domain import (
    BURST_SECONDS,
    GATEWAY,
    Document,
    Headers,
    RateLimit,
    address_group,
    forwarded_headers,
    merged,
    route_of,
)
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import InvariantBroken

# --- routes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "service", "public"),
    [
        ("POST", "/auth/register", "auth", True),
        ("POST", "/auth/login", "auth", True),
        ("POST", "/auth/login/", "auth", True),
        ("GET", "/auth/login", "auth", True),
        ("GET", "/auth/me", "auth", False),
        ("GET", "/auth/verify", "auth", True),
        ("POST", "/auth/clients", "auth", False),
        ("GET", "/.well-known/jwks.json", "auth", True),
        ("HEAD", "/.well-known/jwks.json", "auth", True),
        ("GET", "/wallet/usr_1", "wallet", False),
        ("OPTIONS", "/wallet/usr_1", "wallet", True),
        ("POST", "/payment/initiate", "payment", False),
        ("GET", "/payment", "payment", False),
        ("GET", "/notification/stream", "notification", False),
        ("GET", "/health/ready", GATEWAY, True),
        ("GET", "/docs", GATEWAY, True),
    ],
)
def test_the_first_segment_says_which_service_answers(method: str, path: str, service: str, *, public: bool) -> None:
    route = route_of(method, path)

    assert route is not None
    assert (route.service, route.public) == (service, public)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "*",
        "/internal/wallet/groups",
        "//internal/wallet/groups",
        "/wallet/../internal/wallet/groups",
        "/wallet/./../internal",
        "/wallet//internal",
        "/wallet/..",
        "/wallet\\..\\internal",
        "/walletx",
        "/Wallet/usr_1",
        "/openapi/openapi.json",
    ],
)
def test_nothing_else_is_reachable(path: str) -> None:
    """What services tell each other is under /internal, which no spelling may reach."""
    assert route_of("POST", path) is None


def test_only_streams_have_no_time_limit() -> None:
    stream, inbox = route_of("GET", "/notification/stream"), route_of("GET", "/notification")

    assert stream is not None
    assert inbox is not None
    assert (stream.stream, inbox.stream) == (True, False)


def test_operators_machines_are_not_limited() -> None:
    routes = [route_of("GET", path) for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/payment")]

    assert [route.limited for route in routes if route] == [False, False, False, True, True]


# --- headers ------------------------------------------------------------------------------------------------------


def forwarded(headers: Headers) -> dict[bytes, bytes]:
    return dict(forwarded_headers(headers, request_id="req_1", body_bytes=0, addresses="192.0.2.7"))


@pytest.mark.parametrize(
    "name",
    [
        b"x-user-id",
        b"x-user-role",
        b"x-auth-subject",
        b"x-auth-request-email",
        b"x-authenticated-user",
        b"x-internal-service",
        b"x-forwarded-user",
        b"x-forwarded-host",
        b"x-customer-id",
        b"x-merchant-id",
        b"x-role",
        b"x-real-ip",
        b"remote-user",
        b"forwarded",
    ],
)
def test_nobody_can_say_who_they_are_but_by_their_token(name: bytes) -> None:
    assert name not in forwarded([(name, b"usr_somebody_else")])


def test_headers_about_the_connection_stay_on_it() -> None:
    given_headers = [
        (b"connection", b"keep-alive, X-Hop"),
        (b"keep-alive", b"timeout=5"),
        (b"x-hop", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"expect", b"100-continue"),
    ]

    assert forwarded(given_headers).keys() == {b"x-request-id", b"x-forwarded-for"}


def test_a_client_cannot_have_its_idempotency_key_dropped() -> None:
    """Without its key, a repeated payment would be a second one."""
    given_headers = [
        (b"connection", b"idempotency-key, authorization"),
        (b"idempotency-key", b"k"),
        (b"authorization", b"t"),
    ]

    assert forwarded(given_headers).keys() >= {b"idempotency-key", b"authorization"}


def test_the_gateway_has_the_last_word_on_the_request_id_and_the_addresses() -> None:
    given_headers = [(b"x-request-id", b"a"), (b"x-request-id", b"b"), (b"x-forwarded-for", b"198.51.100.1")]

    assert forwarded(given_headers) == {b"x-request-id": b"req_1", b"x-forwarded-for": b"192.0.2.7"}


def test_other_headers_pass_as_they_are() -> None:
    given_headers = [(b"accept", b"*/*"), (b"traceparent", b"00-1-2-01"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]

    kept = forwarded_headers(given_headers, request_id="req_1", body_bytes=7, addresses="192.0.2.7")

    assert kept[:4] == given_headers
    assert (b"content-length", b"7") in kept


# --- limits -------------------------------------------------------------------------------------------------------


def test_two_seconds_worth_of_requests_may_come_at_once() -> None:
    limit = RateLimit(5)

    waits = [limit.take("ann", 0) for _ in range(11)]

    assert waits == [0] * 10 + [1]


def test_a_caller_over_the_limit_takes_nothing_from_another() -> None:
    limit = RateLimit(1)
    while limit.take("ann", 0) == 0:
        pass

    assert limit.take("bob", 0) == 0


def test_waiting_as_long_as_told_is_enough() -> None:
    limit = RateLimit(2)
    while (seconds := limit.take("ann", 0)) == 0:
        pass

    assert limit.take("ann", seconds * MICROSECONDS_PER_SECOND) == 0


def test_many_requests_in_one_pass_where_one_would_and_are_waited_for_afterwards() -> None:
    limit = RateLimit(10)

    assert limit.take("ann", 0, requests=1000) == 0
    assert limit.take("ann", 0) == 1000 // 10 - BURST_SECONDS + 1


def test_zero_means_no_limit() -> None:
    limit = RateLimit(0)

    assert not any(limit.take("ann", 0) for _ in range(10_000))


@given(
    rate=st.integers(1, 50),
    pauses=st.lists(st.integers(0, 2 * MICROSECONDS_PER_SECOND), min_size=1, max_size=300),
)
def test_no_window_of_time_lets_through_more_than_burst_and_rate(rate: int, pauses: list[int]) -> None:
    """From any passed request to any later one: at most the burst and what the rate refills in between."""
    limit, now, passed = RateLimit(rate), 0, []
    for pause in pauses:
        now += pause
        if limit.take("ann", now) == 0:
            passed.append(now)

    for first, since in enumerate(passed):
        for last in range(first, len(passed)):
            refilled = (passed[last] - since) * rate // MICROSECONDS_PER_SECOND
            # one more, because an interval of whole microseconds is up to one too short
            assert last - first + 1 <= BURST_SECONDS * rate + refilled + 1


def test_memory_is_bounded_however_many_callers_there_are() -> None:
    limit = RateLimit(1, remembered=100)

    for number in range(1000):
        limit.take(f"caller-{number}", 0)

    assert len(limit._young) + len(limit._old) <= 200


def test_a_caller_is_remembered_while_others_come() -> None:
    limit = RateLimit(1, remembered=100)
    while limit.take("ann", 0) == 0:
        pass

    for number in range(150):
        limit.take(f"caller-{number}", 0)

    assert limit.take("ann", 0) > 0


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_the_addresses_of_one_customer_share_a_limit(address: str, group: str) -> None:
    assert address_group(address) == group


# --- one document -------------------------------------------------------------------------------------------------


def document(path: str, **schemas: Document) -> Document:
    answer = {"$ref": f"#/components/schemas/{next(iter(schemas))}"}
    return {"paths": {path: {"get": {"answer": answer}}}, "components": {"schemas": schemas}}


def test_equal_schemas_appear_once_in_the_merged_document() -> None:
    whole = merged(
        [("wallet", document("/wallet", Problem={"a": 1})), ("auth", document("/auth", Problem={"a": 1}))], {}
    )

    assert whole["components"]["schemas"] == {"Problem": {"a": 1}}
    assert whole["paths"]["/wallet"]["get"]["tags"] == ["wallet"]


def test_schemas_that_differ_keep_their_meaning_under_two_names() -> None:
    whole = merged([("wallet", document("/wallet", Item={"a": 1})), ("auth", document("/auth", Item={"b": 2}))], {})

    assert whole["components"]["schemas"] == {"Item": {"a": 1}, "AuthItem": {"b": 2}}
    assert whole["paths"]["/wallet"]["get"]["answer"] == {"$ref": "#/components/schemas/Item"}
    assert whole["paths"]["/auth"]["get"]["answer"] == {"$ref": "#/components/schemas/AuthItem"}


def test_two_services_cannot_have_the_same_path() -> None:
    with pytest.raises(InvariantBroken, match="/wallet"):
        merged([("wallet", document("/wallet", A={})), ("auth", document("/wallet", A={}))], {})
