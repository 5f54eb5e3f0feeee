"""The gateway's rules: where a request goes, which headers go with it, and how many requests are too many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import InvariantBroken, Reason, Refusal

# --- routes -------------------------------------------------------------------------------------------------------

GATEWAY = "gateway"
SERVICES = ("auth", "wallet", "payment", "notification")

SERVICE_BY_FIRST_SEGMENT = {
    **dict(zip(SERVICES, SERVICES, strict=True)),
    ".well-known": "auth",
    **dict.fromkeys(("health", "metrics", "openapi.json", "docs", "problems"), GATEWAY),
}

_PUBLIC = frozenset(
    {
        ("POST", "/auth/register"),
        ("POST", "/auth/login"),
        ("POST", "/auth/refresh"),
        ("POST", "/auth/logout"),
        ("POST", "/auth/token"),
        ("POST", "/auth/validate"),
        ("GET", "/auth/verify"),
        ("GET", "/.well-known/jwks.json"),
    }
)
"""What the services answer to anyone; a test compares it with their OpenAPI documents."""

PUBLIC_PATHS = frozenset(path for _, path in _PUBLIC)
"""With another method they go to their service as well, which says which methods there are."""

STREAMS = frozenset({"/notification/stream"})
"""Answers without an end, to which no time limit applies."""

LARGE_BODIES = {"/payment/bulk": 1024 * 1024}
"""What takes more than the usual body, with the bytes that it takes; a test compares it with the services."""

BYTES_OF_A_REQUEST = 256
"""A large body counts towards the limits as so many small ones: what a payment takes in one, its key included."""

METRICS = "/metrics"
FOR_MACHINES = ("/health/", METRICS)
"""Asked by load balancers and Prometheus, which must not lose to a client from the same address."""


REMEMBERED_ROUTES = 1024
"""Most requests go to few addresses: the routes of the latest are kept, at most 8 MB with addresses of full length."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes and what it must pass before."""

    service: str
    public: bool
    stream: bool
    limited: bool
    secret: bool
    """Shown to the operators' own network only."""
    body_bytes: int | None
    """The bound of a large body, where it takes one."""


@lru_cache(REMEMBERED_ROUTES)
def route_of(method: str, path: str) -> Route | None:
    """The route of a request, or None where there is nothing at this address.

    ``path`` is decoded. HEAD is the GET that it stands for (RFC 9110, section 9.3.2); OPTIONS tells nothing that the
    OpenAPI document does not, so it needs no token.
    """
    service = SERVICE_BY_FIRST_SEGMENT.get(path[1:].partition("/")[0])
    if service is None or _is_ambiguous(path):
        return None
    return Route(
        service=service,
        public=service == GATEWAY or method == "OPTIONS" or path.rstrip("/") in PUBLIC_PATHS,
        stream=path.rstrip("/") in STREAMS,
        limited=not path.startswith(FOR_MACHINES),
        secret=path.startswith(METRICS),
        body_bytes=LARGE_BODIES.get(path),
    )


def _is_ambiguous(path: str) -> bool:
    """Whether a path could mean another one to a service: ``/wallet/../internal``, however it was encoded."""
    return "//" in path or "/." in path[1:] or "\\" in path or "\0" in path


# --- headers ------------------------------------------------------------------------------------------------------

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case with their values, as ASGI has them."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
    }
)
"""They are about one connection (RFC 9110, section 7.6.1), and the gateway has met the expectation itself."""

IDENTITY = frozenset({b"remote-user", b"forwarded", b"x-role", b"x-roles", b"x-subject", b"x-real-ip"})
IDENTITY_PREFIXES = (
    b"x-auth",
    b"x-user",
    b"x-internal",
    b"x-forwarded-",
    b"x-remote-",
    b"x-customer",
    b"x-merchant",
    b"x-client-",
    b"x-original-",
)
"""With these, proxies tell an application who asks for what. Nothing of ours believes them; a later part could."""

SET_BY_GATEWAY = frozenset({b"x-request-id", b"x-time-left", b"content-length"})

_DROPPED = HOP_BY_HOP | IDENTITY | SET_BY_GATEWAY


def forwarded_headers(
    headers: Headers, *, request_id: str, body_bytes: int, addresses: str
) -> list[tuple[bytes, bytes]]:
    """The headers that a service gets: the client's own without what it must not say, then the gateway's word.

    ``addresses`` is the chain for ``X-Forwarded-For``, the last one being the peer that the gateway sees itself.
    """
    dropped = _DROPPED | _named_by_connection(headers)
    kept = [header for header in headers if header[0] not in dropped and not header[0].startswith(IDENTITY_PREFIXES)]
    kept.append((b"x-request-id", request_id.encode("ascii")))
    kept.append((b"x-forwarded-for", addresses.encode("latin-1")))
    if body_bytes:
        kept.append((b"content-length", b"%d" % body_bytes))
    return kept


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Further headers that the client declares to be about its connection only."""
    named = [value for name, value in headers if name == b"connection"]
    if not named:
        return frozenset()
    return frozenset(option.strip().lower() for value in named for option in value.split(b",")) - _NEVER_HOP_BY_HOP


_NEVER_HOP_BY_HOP = frozenset({b"authorization", b"content-type", b"host", b"idempotency-key"})
"""A client cannot make the gateway forget these: without its key a payment would be a second one."""


# --- limits -------------------------------------------------------------------------------------------------------

BURST_SECONDS = 2
"""How many seconds' worth of requests may come at once."""

REMEMBERED_CALLERS = 50_000
"""Per generation; about 10 MB with long addresses and ids."""


class RateLimit:
    """A token bucket per caller; none where ``per_second`` is 0.

    In the form of the generic cell rate algorithm (ITU-T I.371) a bucket is one integer: the time at which it would be
    full again. Memory is bounded by two generations: when the younger one is full, the older one is forgotten, and with
    it only callers who have been quiet for long, or who are so many that a limit for each is no protection anyway.
    """

    def __init__(self, per_second: int, *, remembered: int = REMEMBERED_CALLERS) -> None:
        self._interval = MICROSECONDS_PER_SECOND // per_second if per_second else 0
        self._tolerance = self._interval * (BURST_SECONDS * per_second - 1)
        self._remembered = remembered
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def take(self, caller: str, now: int, requests: int = 1) -> int:
        """Count what is as much as so many requests at ``now`` (microseconds of a clock that never goes back).

        Returns 0 where it may pass, else the whole seconds to wait; what may not pass costs nothing. Many at once pass
        where one does: their price is the longer wait afterwards.
        """
        if not self._interval:
            return 0
        full_at = max(now, self._young.get(caller) or self._old.get(caller, 0))
        too_early = full_at - self._tolerance - now
        if too_early > 0:
            return -(-too_early // MICROSECONDS_PER_SECOND)
        if len(self._young) >= self._remembered:
            self._old, self._young = self._young, {}
        self._young[caller] = full_at + requests * self._interval
        return 0


@lru_cache(REMEMBERED_CALLERS)
def address_group(address: str) -> str:
    """What an address limit counts by: an IPv4 address, or the /64 network that one IPv6 customer has to itself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))


# --- one document -------------------------------------------------------------------------------------------------

Document = dict[str, Any]
"""An OpenAPI 3.1 document."""

_REFERENCE = "#/components/schemas/"


def merged(documents: Sequence[tuple[str, Document]], head: Document) -> Document:
    """One OpenAPI document out of those of the services, each given with its name; ``head`` has all but the paths.

    Schemas that are equal appear once. Where two services mean different things by one name, the later one's is
    called after its service. InvariantBroken: two services have the same path.
    """
    paths: Document = {}
    components: dict[str, Document] = {}
    for service, original in documents:
        document = _without_clashes(service, original, components.get("schemas", {}))
        if twice := paths.keys() & document["paths"].keys():
            raise InvariantBroken(f"{service} documents paths that another service has: {sorted(twice)}")
        paths |= {path: _tagged(item, service) for path, item in document["paths"].items()}
        for kind, members in document.get("components", {}).items():
            components[kind] = components.get(kind, {}) | members
    return {**head, "paths": paths, "components": components}


def _without_clashes(service: str, document: Document, taken: Document) -> Document:
    own = document.get("components", {}).get("schemas", {})
    clashes = {name for name, schema in own.items() if taken.get(name, schema) != schema}
    if not clashes:
        return document
    names = {name: f"{service.capitalize()}{name}" if name in clashes else name for name in own}
    renamed: Document = _with_references(document, {_REFERENCE + old: _REFERENCE + new for old, new in names.items()})
    schemas = renamed["components"]["schemas"]
    renamed["components"]["schemas"] = {names[name]: schema for name, schema in schemas.items()}
    return renamed


def _with_references(value: Any, names: Mapping[str, str]) -> Any:
    match value:
        case {"$ref": str(reference)}:
            return {**value, "$ref": names.get(reference, reference)}
        case dict():
            return {name: _with_references(member, names) for name, member in value.items()}
        case list():
            return [_with_references(member, names) for member in value]
        case _:
            return value


def _tagged(item: Document, service: str) -> Document:
    """The operations of a path, grouped under the service that answers them."""
    return {
        method: {**operation, "tags": [service]} if isinstance(operation, dict) else operation
        for method, operation in item.items()
    }


# --- refusals -----------------------------------------------------------------------------------------------------

NOTHING_HERE = Refusal(Reason.NOT_FOUND, "There is nothing at this address.")


def too_many(whose: str, seconds: int) -> Refusal:
    """Over a limit; ``whose`` says which."""
    return Refusal(
        Reason.TOO_MANY_REQUESTS,
        f"Too many requests from {whose}; wait {seconds} s.",
        retry_after_seconds=seconds,
    )


def too_late(seconds: int) -> Refusal:
    """The service did not answer in time; it may still finish what was asked."""
    return Refusal(
        Reason.TIMEOUT,
        f"There was no answer within {seconds} s. Repeat the request with the same key to learn the outcome.",
        retry_after_seconds=1,
    )


def too_slow(seconds: int) -> Refusal:
    """The client did not send its body in time. Its fault, unlike a time-out: nothing was forwarded."""
    return Refusal(Reason.MALFORMED_REQUEST, f"The body did not arrive within {seconds} s.")
