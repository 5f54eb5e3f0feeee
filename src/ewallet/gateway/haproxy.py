"""The gateway as a configuration of HAProxy: the same routes, checks, limits and refusals, filled into ``haproxy.cfg``.

Pure text. ``haproxy.cfg`` beside this file is what an operator reads; here is what comes out of the code: the route
table, the headers that nobody may send, the refusals as they are worded everywhere, and the settings.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from string import Template

from ewallet.gateway.domain import (
    BURST_SECONDS,
    FOR_MACHINES,
    GATEWAY,
    HOP_BY_HOP,
    IDENTITY,
    IDENTITY_PREFIXES,
    LARGE_BODIES,
    NOTHING_HERE,
    PUBLIC_PATHS,
    REMEMBERED_CALLERS,
    SERVICE_BY_FIRST_SEGMENT,
    SERVICES,
    SET_BY_GATEWAY,
    STREAMS,
    too_late,
    too_many,
    too_slow,
)
from ewallet.kernel.caller import Role
from ewallet.kernel.errors import OutcomeUnknown, Overloaded, Reason, Refusal
from ewallet.plumbing.deadlines import TIME_LEFT_HEADER
from ewallet.plumbing.http.addresses import trusted_proxies
from ewallet.plumbing.http.contract import INVALID_TOKEN
from ewallet.plumbing.http.edge import (
    MAXIMUM_BODY_BYTES,
    MAXIMUM_HEADER_BYTES,
    MAXIMUM_URI_BYTES,
    headers_too_large,
    too_large,
    uri_too_long,
)
from ewallet.plumbing.http.problems import MEDIA_TYPE, problem, problem_headers, refusal_of
from ewallet.plumbing.json import encode
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import ALGORITHM, AUDIENCE, ISSUER, TOKEN_TYPE

RETRY_AFTER_SECONDS = 1
"""For whoever is over a limit: half of the window in which HAProxy counts."""

STREAM_SECONDS = 60
"""How long a stream may be silent. It says something every 15 seconds."""

CHAINED_PROXIES = 3
"""As many trusted proxies, one behind the other, are believed about an address."""

_SERVICE_BY_SEGMENT = {segment: name for segment, name in SERVICE_BY_FIRST_SEGMENT.items() if segment != "metrics"}
"""Metrics are asked for at each process: here they would be those of any one, and for whoever asks."""

RESOLVED_ADDRESSES = 10
"""Of a service that has a name, as many addresses are used at once."""


class _Template(Template):
    """A template in which ``$`` and ``{`` mean what they mean to HAProxy."""

    delimiter = "@"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a configuration names beside the settings.

    ``servers`` are the ``host:port`` of each service's processes and of the Python gateway's, which shows the gateway's
    own pages; ``keys`` are the files of auth's public keys in PEM, by key id. With a ``certificate`` HAProxy speaks TLS
    and HTTP/2.
    """

    servers: Mapping[str, Sequence[str]]
    keys: Mapping[str, Path]
    certificate: Path | None = None


def configuration(settings: Settings, surroundings: Surroundings) -> str:
    """The whole configuration file."""
    template = (Path(__file__).parent / "haproxy.cfg").read_text(encoding="utf-8")
    return _Template(template).substitute(
        _limits(settings) | _refusals() | _token(surroundings.keys),
        bind=_bind(settings, surroundings.certificate),
        request_seconds=settings.request_seconds,
        stream_seconds=STREAM_SECONDS,
        errors=_indented(_errors(settings.request_seconds)),
        addresses=_indented(_addresses(settings)),
        large_paths=_words(LARGE_BODIES),
        large_bodies=_indented(_large_body(path, size) for path, size in sorted(LARGE_BODIES.items())),
        segments=_words(_SERVICE_BY_SEGMENT),
        own_segments=_words(_segments(GATEWAY)),
        public_paths=_words(PUBLIC_PATHS),
        time_left=f"{TIME_LEFT_HEADER} {settings.request_seconds * 1000}",
        streams=_words(STREAMS),
        dropped=_indented(_dropped()),
        routes=_indented(f"use_backend {name} if {_going_to(name)}" for name in (*SERVICES, GATEWAY)),
        backends="\n\n".join(_backend(name, surroundings.servers[name]) for name in (*SERVICES, GATEWAY)),
    )


def _bind(settings: Settings, certificate: Path | None) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    tls = f" ssl crt {certificate} alpn h2,http/1.1 ssl-min-ver TLSv1.2" if certificate else ""
    return f"{host}:{settings.port}{tls}"


# --- routes and servers -------------------------------------------------------------------------------------------


def _segments(service: str) -> list[str]:
    return [segment for segment, name in _SERVICE_BY_SEGMENT.items() if name == service]


def _going_to(service: str) -> str:
    return f"{{ var(txn.segment) -m str {' '.join(_segments(service))} }}"


def _backend(service: str, addresses: Sequence[str]) -> str:
    streams = sorted(path for path in STREAMS if _SERVICE_BY_SEGMENT[path.split("/")[1]] == service)
    lines = [_server(f"{service}-{number}", address) for number, address in enumerate(addresses, start=1)]
    if streams:
        stream = f"{{ var(txn.path),regsub(/$,) -m str {_words(streams)} }}"
        lines = [
            f"# Streams have no time limit. They say something every quarter of {STREAM_SECONDS} s.",
            f"http-request set-timeout server {STREAM_SECONDS}s if {stream}",
            "option http-no-delay",
            *lines,
        ]
    if service == GATEWAY:
        lines = [
            "# It tells how the services are, so it must answer while one of them cannot work.",
            "option httpchk GET /health/live",
            "http-check expect status 200",
            *lines,
        ]
    return f"backend {service}\n{_indented(lines)}"


def _server(name: str, address: str) -> str:
    """One process by its address, or by a host's name as many as this has addresses, looked up again and again."""
    if _is_address(address.rpartition(":")[0].strip("[]")):
        return f"server {name} {address}"
    return f"server-template {name}- {RESOLVED_ADDRESSES} {address} resolvers default init-addr none"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _large_body(path: str, maximum_bytes: int) -> str:
    """The bound of a path that takes large bodies."""
    over = f"{{ req.hdr(content-length) -m found }} {{ req.hdr_val(content-length) gt {maximum_bytes} }}"
    return f"http-request return {_answer(too_large(maximum_bytes))} if {{ var(txn.path) -m str {path} }} {over}"


# --- refusals -----------------------------------------------------------------------------------------------------


def _refusals() -> dict[str, str]:
    """What the rules of the frontend answer, by the name that they have in the template."""
    return {
        "headers_too_large": _answer(headers_too_large()),
        "uri_too_long": _answer(uri_too_long()),
        "content_too_large": _answer(too_large()),
        "nothing_here": _answer(NOTHING_HERE),
        "invalid_token": _answer(INVALID_TOKEN),
    }


def _errors(request_seconds: int) -> list[str]:
    """What HAProxy says by itself, by the status that it uses."""
    meanings = {
        400: Refusal(Reason.MALFORMED_REQUEST, "This is not a valid HTTP request."),
        408: too_slow(request_seconds),
        500: refusal_of(RuntimeError()),
        502: refusal_of(OutcomeUnknown()),
        503: refusal_of(Overloaded()),
        504: too_late(request_seconds),
    }
    return [f"http-error {_answer(refusal, status)}" for status, refusal in meanings.items()]


def _answer(refusal: Refusal, status: int | None = None) -> str:
    """A refusal as the arguments of ``http-request return`` and ``http-error``."""
    document = encode(problem(refusal, instance="@path", request_id="@id")).decode().replace("%", "%%")
    body = document.replace("@path", "%[var(txn.path),json(utf8s)]").replace("@id", "%[var(txn.id)]")
    headers = [f"hdr {name} {value}" for name, value in problem_headers(refusal).items()]
    answer = f"status {status or refusal.status} content-type {MEDIA_TYPE} lf-string {shlex.quote(body)}"
    return " ".join([answer, *headers])


# --- the token ----------------------------------------------------------------------------------------------------


def _token(keys: Mapping[str, Path]) -> dict[str, str]:
    signatures = [
        f"http-request set-var(txn.signed) bool(true) if {{ var(txn.token),jwt_header_query($.kid) -m str {key_id} }} "
        f"{{ var(txn.token),jwt_verify({ALGORITHM},{file}) 1 }}"
        for key_id, file in sorted(keys.items())
    ]
    return {
        "keys": _indented(signatures),
        "token_type": TOKEN_TYPE,
        "algorithm": ALGORITHM,
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "roles": _words(Role),
    }


# --- headers and addresses ----------------------------------------------------------------------------------------


_KEPT = {b"content-length"}
"""HAProxy has compared it with the body and needs it."""


def _dropped() -> list[str]:
    """One line for each header, or kind of header, that a client must not say to a service."""
    names = [
        f"http-request del-header {name}" for name in _words(HOP_BY_HOP | IDENTITY | SET_BY_GATEWAY - _KEPT).split()
    ]
    prefixes = _words(IDENTITY_PREFIXES).split()
    return names + [_dropping(prefix) for prefix in prefixes]


def _dropping(prefix: str) -> str:
    """All headers that begin so, but the addresses that are known by now."""
    if prefix == "x-forwarded-":
        return "http-request del-header '^x-forwarded-(?!for$)' -m reg"
    return f"http-request del-header {prefix} -m beg"


def _addresses(settings: Settings) -> list[str]:
    """The client's address becomes ``src``, as far as trusted proxies vouch for it."""
    networks = trusted_proxies(settings.trusted_proxies).networks
    if not networks:
        return ["http-request del-header X-Forwarded-For"]
    trusted = f"{{ src {' '.join(map(str, networks))} }}"
    believed = [
        f"http-request set-src req.hdr_ip(x-forwarded-for,-{position}) if {trusted}"
        for position in range(1, CHAINED_PROXIES + 1)
    ]
    return [f"http-request del-header X-Forwarded-For unless {trusted}", *believed]


# --- limits -------------------------------------------------------------------------------------------------------


def _limits(settings: Settings) -> dict[str, str]:
    """Tables and rules of the two rate limits; none for a limit of 0."""
    machines = f"{{ var(txn.path) -m beg {' '.join(FOR_MACHINES)} }}"
    per_address = _Limit("addresses", "ipv6", 0, settings.rate_per_address, "your network address")
    per_user = _Limit("users", "string len 64", 1, settings.rate_per_user, "you")
    return {
        "tables": "".join(limit.table() for limit in (per_address, per_user)),
        "address_limit": _indented(per_address.rules(f"src,ipmask(32,64) table addresses unless {machines}")),
        "user_limit": _indented(per_user.rules("var(txn.subject) table users unless for_anyone")),
        "body_bytes": str(MAXIMUM_BODY_BYTES),
        "header_bytes": str(MAXIMUM_HEADER_BYTES),
        "uri_bytes": str(MAXIMUM_URI_BYTES),
    }


@dataclass(frozen=True, slots=True)
class _Limit:
    """A table that counts what was let through within the burst, and the rules that look there first."""

    name: str
    key_type: str
    counter: int
    per_second: int
    whose: str

    def table(self) -> str:
        if not self.per_second:
            return ""
        kept = f"size {2 * REMEMBERED_CALLERS} expire 1m store gpc0_rate({BURST_SECONDS}s)"
        return f"backend {self.name}\n    stick-table type {self.key_type} {kept}\n\n"

    def rules(self, tracked: str) -> list[str]:
        if not self.per_second:
            return ["# EWALLET_RATE_PER_ADDRESS and EWALLET_RATE_PER_USER are 0 where there is no limit."]
        refusal = too_many(self.whose, RETRY_AFTER_SECONDS)
        allowed = BURST_SECONDS * self.per_second
        return [
            f"http-request track-sc{self.counter} {tracked}",
            f"http-request return {_answer(refusal)} if {{ sc{self.counter}_gpc0_rate ge {allowed} }}",
            f"http-request sc-inc-gpc0({self.counter})",
        ]


# --- text ---------------------------------------------------------------------------------------------------------


def _words(names: Iterable[str | bytes]) -> str:
    return " ".join(sorted(name.decode("ascii") if isinstance(name, bytes) else str(name) for name in names))


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
