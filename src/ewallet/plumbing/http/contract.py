"""Declaring endpoints: who may call them, which problems they answer, how lists and idempotency keys are read."""

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import msgspec
from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.enums import RequestEncodingType
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.openapi.spec import OpenAPIType, Operation, Parameter, Schema
from litestar.params import BodyKwarg, ParameterKwarg, QueryParameter
from litestar.utils import get_enum_string_value

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.errors import Reason, Refusal, Refused, invalid
from ewallet.plumbing import tracing
from ewallet.plumbing.http.addresses import address_of
from ewallet.plumbing.http.bodies import BODY_BYTES
from ewallet.plumbing.http.edge import MAXIMUM_BODY_BYTES
from ewallet.plumbing.http.problems import REQUEST_ID_SCOPE_KEY, documented_problems
from ewallet.plumbing.tokens import Verifier, verify_internal

ANY_USER = frozenset({Role.CUSTOMER, Role.MERCHANT, Role.ADMIN})
"""Everybody who can log in."""

EVERYONE = frozenset(Role)
"""Every bearer of an access token."""

STAFF = frozenset({Role.ADMIN, Role.SERVICE})

_EVERY_ENDPOINT = (
    Reason.MALFORMED_REQUEST,
    Reason.NOT_FOUND,
    Reason.METHOD_NOT_ALLOWED,
    Reason.NOT_ACCEPTABLE,
    Reason.CONTENT_TOO_LARGE,
    Reason.URI_TOO_LONG,
    Reason.UNSUPPORTED_MEDIA_TYPE,
    Reason.VALIDATION_ERROR,
    Reason.TOO_MANY_REQUESTS,
    Reason.HEADER_TOO_LARGE,
    Reason.INTERNAL_ERROR,
    Reason.SERVICE_UNAVAILABLE,
    Reason.STORAGE_UNAVAILABLE,
    Reason.TIMEOUT,
)
_PROTECTED_ENDPOINT = (Reason.INVALID_TOKEN, Reason.FORBIDDEN)

# Keys of a handler's ``opt``. Callers are admitted by the hook below and not by Litestar's guards, which copy the
# handler for every request: 6 % of the event loop's time in the profile of a payment.
_PRODUCES = "produces"
_ADMIT = "admit"

BEARER = "bearer"
BASIC = "basic"
"""The names of the security schemes in the OpenAPI documents: access tokens, and service clients' id and secret."""


def public(*problems: Reason, produces: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments for Litestar's route decorators: an endpoint for anyone.

    ``produces`` are its media types, where it answers with more than one.
    """
    return {
        "responses": documented_problems((*_EVERY_ENDPOINT, *problems)),
        "opt": {"roles": None, _PRODUCES: tuple(produces)},
    }


def protected(roles: Collection[Role], *problems: Reason, body_bytes: int = MAXIMUM_BODY_BYTES) -> dict[str, Any]:
    """Arguments for Litestar's route decorators: an endpoint for bearers of a token with one of these roles.

    Where it takes a larger body than others, the edges in front of it must be told, too.
    """
    return {
        "responses": documented_problems((*_EVERY_ENDPOINT, *_PROTECTED_ENDPOINT, *problems)),
        "security": [{BEARER: []}],
        "opt": {"roles": frozenset(roles), _ADMIT: _admit_role, BODY_BYTES: body_bytes},
    }


def internal(*, body_bytes: int = MAXIMUM_BODY_BYTES) -> dict[str, Any]:
    """Arguments for Litestar's route decorators: an endpoint for our other services only, absent from the documents."""
    return {"include_in_schema": False, "opt": {"roles": None, _ADMIT: _admit_service, BODY_BYTES: body_bytes}}


def caller_of(request: Request[Any, Any, Any]) -> Caller:
    """Who is asking; only in handlers that are declared with :func:`protected` or :func:`internal`."""
    caller: Caller = request.scope["user"]
    return caller


def request_id_of(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The id of this request, as it is in the answer and on every log line."""
    request_id: str = request.scope[REQUEST_ID_SCOPE_KEY]  # type: ignore[literal-required]  # our own key in the ASGI scope
    return request_id


def client_address(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The network address of the client, as far as our own proxies vouch for it; what limits on guessing count by."""
    state = request.app.state
    vouched = any(
        verify_internal(badge.decode("latin-1"), state.internal_secret) == FORWARDING_SERVICE
        for name, badge in request.scope["headers"]
        if name == BADGE_HEADER
    )
    return address_of(request.scope, state.trusted_proxies, vouched=vouched)


BADGE_HEADER = b"x-internal-badge"
"""Where a request that our gateway passes on, with the client's own token, shows that it comes from there. The gateway
removes whatever a client sends under a name that begins so."""

FORWARDING_SERVICE = "service:gateway"


async def _admit_role(request: Request[Any, Any, Any], token: str | None) -> Caller:
    """The bearer of a valid token with one of the endpoint's roles."""
    verifier: Verifier = request.app.state.verifier
    principal = await verifier.verify(token) if token else None
    if principal is None:
        raise Refused(INVALID_TOKEN)
    if principal.role not in request.route_handler.opt["roles"]:
        raise Refused(Refusal(Reason.FORBIDDEN, f"The role {principal.role} may not do this."))
    return Caller(principal.subject, principal.role, request_id_of(request), tracing.here())


async def _admit_service(request: Request[Any, Any, Any], token: str | None) -> Caller:
    """Another service of ours, shown by the shared secret."""
    service = verify_internal(token, request.app.state.internal_secret) if token else None
    if service is None:
        raise Refused(INVALID_TOKEN)
    return Caller(service, Role.SERVICE, request_id_of(request), tracing.here())


INVALID_TOKEN = Refusal(Reason.INVALID_TOKEN, "A valid access token is needed: Authorization: Bearer <token>.")


def bearer_token(values: Sequence[str]) -> str | None:
    """The token of an ``Authorization`` header (RFC 6750), or None where there is not exactly one."""
    if len(values) != 1:
        return None
    scheme, _, token = values[0].partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


# --- what a request may carry -------------------------------------------------------------------------------------


@cache
def _query_parameters(handler: BaseRouteHandler) -> Mapping[str, type]:
    """The names of a handler's query parameters as a client writes them, with what their values are."""
    types: dict[str, type] = {}
    for name, field in handler.parsed_fn_signature.parameters.items():
        parameter = field.kwarg_definition
        if isinstance(parameter, ParameterKwarg) and parameter.param_type == "query":
            alternatives = [field.annotation, *(inner.annotation for inner in field.inner_types)]
            types[parameter.name or name] = next((each for each in alternatives if each in _WRITTEN), str)
    return types


_WRITTEN: Mapping[type, tuple[re.Pattern[str], str]] = {
    int: (re.compile(r"\d{1,9}"), "a whole number in digits"),
    bool: (re.compile("true|false"), "true or false"),
    str: (re.compile(r"[\s\S]*"), "a text"),
}
"""How a query parameter is written; Litestar itself would take ``1e1`` for 10 and ``1`` for true."""


@cache
def _body_media_type(handler: BaseRouteHandler) -> str | None:
    """The media type that a handler's body must have, or None where it takes no body."""
    body = handler.parsed_fn_signature.parameters.get("data")
    if body is None:
        return None
    declared = body.kwarg_definition
    return get_enum_string_value(declared.media_type if isinstance(declared, BodyKwarg) else RequestEncodingType.JSON)


async def check_request(request: Request[Any, Any, Any]) -> Response[None] | None:
    """Litestar ``before_request`` hook: who may not call stops here, and nothing unknown is silently ignored.

    OPTIONS is answered here, because Litestar's answer knows only the first handler of an address.
    """
    handler = request.route_handler
    if request.scope["method"] == "OPTIONS":
        return _options(request)
    admit = handler.opt.get(_ADMIT)
    if admit is not None:
        request.scope["user"] = await admit(request, bearer_token(header_values(request, b"authorization")))
    query = request.scope["query_string"]
    if query:
        _check_query(request, _query_parameters(handler))
    needed = _body_media_type(handler)
    if needed is not None:
        given = next(iter(header_values(request, b"content-type")), "")
        if given.partition(";")[0].strip().lower() != needed and not _is_rightly_missing(request):
            raise Refused(Refusal(Reason.UNSUPPORTED_MEDIA_TYPE, f"The body must be sent as Content-Type: {needed}."))
    for accept in header_values(request, b"accept")[:1]:
        if accept != "*/*":
            _check_acceptable(accept, _produced(handler))
    return None


def _options(request: Request[Any, Any, Any]) -> Response[None]:
    """The methods that an address has (RFC 9110, section 9.3.7)."""
    here = request.scope["path_template"]
    methods = {method for route in request.app.routes if route.path_format == here for method in route.methods}
    return Response(None, status_code=204, headers={"Allow": ", ".join(sorted(methods))})


def header_values(request: Request[Any, Any, Any], name: bytes) -> list[str]:
    """All values of a header, whose name is in lower case; Litestar would first make a dictionary of all headers."""
    return [value.decode("latin-1") for key, value in request.scope["headers"] if key == name]


def _is_rightly_missing(request: Request[Any, Any, Any]) -> bool:
    """Whether there is no body where the handler has a default for it: a request that has nothing more to say."""
    length = next(iter(header_values(request, b"content-length")), "0")
    sent = length != "0" or header_values(request, b"transfer-encoding")
    return not sent and request.route_handler.parsed_fn_signature.parameters["data"].has_default


def _check_query(request: Request[Any, Any, Any], known: Mapping[str, type]) -> None:
    pairs = list(request.query_params.multi_items())
    given = [name for name, _ in pairs]
    for name, value in pairs:
        if name not in known:
            expected = f"; known: {', '.join(sorted(known))}" if known else ""
            raise Refused(invalid(name, f"{name!r} is not a parameter of this endpoint{expected}."))
        if given.count(name) > 1:
            raise Refused(invalid(name, f"{name!r} is given more than once."))
        pattern, what = _WRITTEN[known[name]]
        if not pattern.fullmatch(value):
            raise Refused(invalid(name, f"{name!r} must be {what}."))


def _produced(handler: HTTPRouteHandler) -> Sequence[str]:
    """The media types in which a handler answers; Litestar leaves JSON unsaid where a handler builds its response."""
    several: Sequence[str] = handler.opt.get(_PRODUCES, ())
    return several or (get_enum_string_value(handler.media_type) or "application/json",)


def _check_acceptable(accept: str, produced: Sequence[str]) -> None:
    """Whether the client takes any of the media types that an endpoint can answer with."""
    if not any(accepts(accept, media_type) for media_type in produced):
        raise Refused(Refusal(Reason.NOT_ACCEPTABLE, f"This endpoint answers with {' or '.join(produced)}."))


def accepts(accept: str, produced: str) -> bool:
    """Whether an ``Accept`` header has a range that matches a media type and is not refused (RFC 9110, 12.5.1)."""
    main_type = produced.partition("/")[0]
    for media_range in accept.lower().split(","):
        name, *parameters = (part.strip() for part in media_range.split(";"))
        if name in (produced, f"{main_type}/*", "*/*") and not any(_ZERO_QUALITY.match(p) for p in parameters):
            return True
    return False


_ZERO_QUALITY = re.compile(r"^q=0(\.0{0,3})?$")

# --- idempotency keys ---------------------------------------------------------------------------------------------

MAXIMUM_KEY_LENGTH = 255
_VISIBLE_ASCII = re.compile(rf"^[\x21-\x7e]{{1,{MAXIMUM_KEY_LENGTH}}}$")

_IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    param_in="header",
    schema=Schema(type=OpenAPIType.STRING),
    description="1 to 255 visible ASCII characters, quoted or bare. The same key with the same request gets the "
    "first answer again and moves nothing.",
)


@dataclass
class MovesMoney(Operation):
    """An operation that takes an idempotency key.

    It is told here and read by :func:`idempotency_key`: as a parameter of the handler, Litestar would read it, too.
    """

    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or ()), _IDEMPOTENCY_KEY]


def moving_money(roles: Collection[Role], *problems: Reason) -> dict[str, Any]:
    """:func:`protected` for endpoints that take an idempotency key."""
    return {
        **protected(roles, Reason.IDEMPOTENCY_KEY_INVALID, Reason.IDEMPOTENCY_KEY_REUSED, *problems),
        "operation_class": MovesMoney,
    }


def idempotency_key(request: Request[Any, Any, Any]) -> str | None:
    """The request's key, unquoted; Refused with ``idempotency-key-invalid``."""
    values = header_values(request, b"idempotency-key")
    if not values:
        return None
    key = values[0]
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(values) > 1 or '"' in key or not _VISIBLE_ASCII.fullmatch(key):
        raise Refused(
            Refusal(
                Reason.IDEMPOTENCY_KEY_INVALID,
                f"Idempotency-Key must be one value of 1 to {MAXIMUM_KEY_LENGTH} visible ASCII characters, "
                "bare or in a pair of quotes.",
            )
        )
    return key


REPLAYED_HEADER = "Idempotent-Replayed"

# --- lists --------------------------------------------------------------------------------------------------------

DEFAULT_LIMIT = 20

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="how many items at most")]
Cursor = Annotated[
    str | None,
    QueryParameter(min_length=1, max_length=512, description="`nextCursor` of the page before this one"),
]


def encode_cursor(*position: int | str) -> str:
    """Where the next page starts, as an opaque text."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def decode_cursor(cursor: str, position_type: Any) -> Any:
    """The position in a cursor, as ``position_type`` (a tuple type); Refused where it is none of ours."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=position_type)
    except (ValueError, msgspec.MsgspecError) as error:
        raise Refused(invalid("cursor", "This is not a cursor of this list: take it from nextCursor.")) from error
