"""Auth over HTTP."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.datastructures import ResponseHeader
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import OpenAPIResponse, Operation
from litestar.params import JSONBody, QueryParameter, URLEncodedBody

from ewallet.auth.client import KEYS_PATH
from ewallet.auth.domain import Visitor
from ewallet.auth.messages import (
    ClientCredentials,
    JsonWebKeySet,
    Login,
    NewClient,
    RefreshToken,
    Registration,
    ServiceToken,
    TokenRequest,
    Tokens,
    TokenStatus,
    TokenToValidate,
    UserView,
)
from ewallet.auth.service import INVALID_CREDENTIALS, AuthService
from ewallet.kernel.caller import Role
from ewallet.kernel.errors import Reason, Refused, unwrap
from ewallet.plumbing.http.contract import (
    ANY_USER,
    BASIC,
    DEFAULT_LIMIT,
    EVERYONE,
    Cursor,
    Limit,
    caller_of,
    client_address,
    protected,
    public,
    request_id_of,
)
from ewallet.plumbing.http.trails import AuditRequest, AuditTrail

SUBJECT_HEADER = "X-Auth-Subject"
ROLE_HEADER = "X-Auth-Role"

# The database compares both as ASCII, so nothing else is let through to it.
AuditSubject = Annotated[
    str | None, QueryParameter(pattern="^[!-~]{1,64}$", description="only records about this user, client or key")
]


def routes(service: AuthService) -> list[HTTPRouteHandler]:
    """Every endpoint of auth."""

    @post("/auth/register", status_code=201, **public(Reason.EMAIL_TAKEN))
    async def register(request: Request[Any, Any, Any], data: JSONBody[Registration]) -> UserView:
        """Become a customer or a merchant; a wallet in the chosen currency exists when this answers."""
        return unwrap(await service.register(_visitor(request), data))

    @post("/auth/login", status_code=200, **public(Reason.INVALID_CREDENTIALS))
    async def login(request: Request[Any, Any, Any], data: JSONBody[Login]) -> Tokens:
        """Begin a session."""
        return unwrap(await service.login(_visitor(request), data))

    @post("/auth/refresh", status_code=200, **public(Reason.INVALID_TOKEN))
    async def refresh(request: Request[Any, Any, Any], data: JSONBody[RefreshToken]) -> Tokens:
        """Continue a session: spends the refresh token and gives the next. A spent one ends the session."""
        return unwrap(await service.refresh(_visitor(request), data.refresh_token))

    @post("/auth/logout", status_code=204, **public())
    async def logout(request: Request[Any, Any, Any], data: JSONBody[RefreshToken]) -> None:
        """End a session; its access tokens run out by themselves."""
        await service.logout(_visitor(request), data.refresh_token)

    @post("/auth/token", status_code=200, security=[{BASIC: []}], **public(Reason.INVALID_CREDENTIALS))
    async def issue_service_token(request: Request[Any, Any, Any], data: URLEncodedBody[TokenRequest]) -> ServiceToken:  # noqa: ARG001  # the form has only to be right
        """An access token for a back end, which shows its client id and secret by HTTP Basic."""
        credentials = basic_credentials(request.headers.getall("authorization", []))
        if credentials is None:
            raise Refused(INVALID_CREDENTIALS)
        return unwrap(await service.service_token(_visitor(request), *credentials))

    @post("/auth/clients", status_code=201, **protected([Role.ADMIN]))
    async def create_client(request: Request[Any, Any, Any], data: JSONBody[NewClient]) -> ClientCredentials:
        """Let a back end in. Its secret is shown this once."""
        return unwrap(await service.create_client(caller_of(request), data.name))

    @post("/auth/validate", status_code=200, **public())
    async def validate(data: JSONBody[TokenToValidate]) -> TokenStatus:
        """Whom an access token stands for, if it is valid."""
        return await service.validate(data.token)

    @get(
        "/auth/verify",
        status_code=204,
        response_headers=_VERIFIED_HEADERS,
        operation_class=_WithoutContent,
        **protected(EVERYONE),
    )
    async def verify(request: Request[Any, Any, Any]) -> Response[None]:
        """The same for a proxy's sub-request (nginx `auth_request`, Traefik ForwardAuth)."""
        caller = caller_of(request)
        headers = {SUBJECT_HEADER: caller.subject, ROLE_HEADER: caller.role.value}
        return Response(None, headers=headers)

    @get("/auth/me", **protected(ANY_USER))
    async def me(request: Request[Any, Any, Any]) -> UserView:
        """The caller."""
        return unwrap(await service.me(caller_of(request)))

    @get(KEYS_PATH, **public())
    async def key_set() -> JsonWebKeySet:
        """The public keys of every access token that is still valid, and the next one (RFC 7517)."""
        return await service.key_set()

    @get("/auth/audit", **protected([Role.ADMIN]))
    async def list_auth_audit(
        request: Request[Any, Any, Any],
        subject: AuditSubject = None,
        request_id: AuditRequest = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> AuditTrail:
        """Who did what to what, when, in which request, with what result."""
        return await service.audit_trail(
            caller_of(request), subject=subject, request_id=request_id, limit=limit, cursor=cursor
        )

    return [
        register,
        login,
        refresh,
        logout,
        issue_service_token,
        create_client,
        validate,
        verify,
        me,
        key_set,
        list_auth_audit,
    ]


@dataclass
class _WithoutContent(Operation):
    """Litestar documents a body for every handler that returns a Response, though 204 has none."""

    def __post_init__(self) -> None:
        answer = (self.responses or {}).get("204")
        if isinstance(answer, OpenAPIResponse):
            answer.content = None


# The empty value only tells the document that they are strings.
_VERIFIED_HEADERS = [
    ResponseHeader(name=SUBJECT_HEADER, value="", description="whom the token stands for", documentation_only=True),
    ResponseHeader(name=ROLE_HEADER, value="", description="the role in which", documentation_only=True),
]


def basic_credentials(values: Sequence[str]) -> tuple[str, str] | None:
    """Client id and secret of an ``Authorization`` header (RFC 7617); None where there is not exactly one.

    RFC 6749 has both form-encoded before; ours hold only characters that form-encoding leaves as they are.
    """
    if len(values) != 1:
        return None
    scheme, _, encoded = values[0].partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (client_id, secret) if colon else None


def _visitor(request: Request[Any, Any, Any]) -> Visitor:
    return Visitor(address=client_address(request), request_id=request_id_of(request))
