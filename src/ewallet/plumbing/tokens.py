"""Tokens: ES256 access tokens for people and back ends (RFC 7519, RFC 9068), and a shared secret between services.

The algorithm, the type and the key are fixed by us, never taken from the token (RFC 8725). A verified token is
remembered until it expires, because checking a signature costs more than everything else at the gateway.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from jwt.types import Options

from ewallet.kernel.caller import Role
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock
from ewallet.kernel.errors import OutcomeUnknown, Overloaded

ISSUER = "ewallet"
AUDIENCE = "ewallet"
ALGORITHM = "ES256"
TOKEN_TYPE = "at+jwt"  # noqa: S105  # the media type of RFC 9068
REQUIRED_CLAIMS = ["iss", "sub", "aud", "exp", "iat", "jti", "role"]

REMEMBERED_TOKENS = 20_000
"""About 20 MB at most; beyond it the memory is emptied and fills again."""

KEYS_REFRESH_SECONDS = 5
"""A flood of tokens with unknown key ids asks for the keys no more often than this."""

KEYS_LIFETIME_SECONDS = 60
"""A key that auth has withdrawn is believed no longer than this."""

INTERNAL_AUDIENCE = "ewallet-internal"
INTERNAL_SECONDS = 60

# A machine whose clock runs a second ahead of ours issues tokens "in the future"; that is no forgery.
_OPTIONS: Options = {"strict_aud": True, "verify_iat": False}


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a valid token stands for; ``expires_at`` in seconds since the epoch, as in the token."""

    subject: str
    role: Role
    expires_at: int


PublicKeys = Mapping[str, EllipticCurvePublicKey]
"""Public keys by key id."""

FetchKeys = Callable[[], Awaitable[PublicKeys]]


def sign(claims: Mapping[str, Any], key: EllipticCurvePrivateKey, key_id: str) -> str:
    """An access token in compact form."""
    return jwt.encode(dict(claims), key, algorithm=ALGORITHM, headers={"kid": key_id, "typ": TOKEN_TYPE})


class Verifier:
    """Checks access tokens against the public keys of auth, which ``fetch_keys`` gets."""

    def __init__(self, fetch_keys: FetchKeys, clock: Clock) -> None:
        self._fetch_keys = fetch_keys
        self._clock = clock
        self._keys: PublicKeys = {}
        self._keys_fetched = float("-inf")
        self._keys_tried = float("-inf")
        self._known: dict[str, Principal] = {}

    async def verify(self, token: str) -> Principal | None:
        """Whom the token stands for, or None where it is forged, expired or not ours.

        OutcomeUnknown, Overloaded: the keys are needed and cannot be fetched.
        """
        if time.monotonic() - self._keys_fetched > KEYS_LIFETIME_SECONDS:
            await self._refresh_keys()
        principal = self._known.get(token)
        if principal is None:
            principal = await self._verify_signature(token)
            if principal is None:
                return None
            if len(self._known) >= REMEMBERED_TOKENS:
                self._known.clear()
            self._known[token] = principal
        if principal.expires_at * MICROSECONDS_PER_SECOND <= self._clock():
            self._known.pop(token, None)
            return None
        return principal

    async def _verify_signature(self, token: str) -> Principal | None:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            return None
        if header.get("typ") != TOKEN_TYPE or header.get("alg") != ALGORITHM:
            return None
        key = await self._key(header.get("kid"))
        return None if key is None else _principal(token, key)

    async def _key(self, key_id: object) -> EllipticCurvePublicKey | None:
        if not isinstance(key_id, str):
            return None
        if key_id not in self._keys and time.monotonic() - self._keys_fetched > KEYS_REFRESH_SECONDS:
            await self._refresh_keys()
        return self._keys.get(key_id)

    async def _refresh_keys(self) -> None:
        """Fetch the keys; while auth cannot be reached, those that are known stay in use."""
        now = time.monotonic()
        if now - self._keys_tried < KEYS_REFRESH_SECONDS and self._keys:
            return
        self._keys_tried = now
        try:
            keys = await self._fetch_keys()
        except (OutcomeUnknown, Overloaded):
            if not self._keys:
                raise
            return
        if keys.keys() != self._keys.keys():
            self._known.clear()
        self._keys, self._keys_fetched = keys, now


def _principal(token: str, key: EllipticCurvePublicKey) -> Principal | None:
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            options={"require": REQUIRED_CLAIMS, **_OPTIONS},
        )
        return Principal(subject=claims["sub"], role=Role(claims["role"]), expires_at=int(claims["exp"]))
    except (jwt.InvalidTokenError, ValueError, TypeError):
        return None


def sign_internal(service: str, secret: str, clock: Clock) -> str:
    """A short-lived token with which one service shows itself to another."""
    now = clock() // MICROSECONDS_PER_SECOND
    claims = {
        "sub": f"service:{service}",
        "aud": INTERNAL_AUDIENCE,
        "iat": now,
        "exp": now + INTERNAL_SECONDS,
    }
    return jwt.encode(claims, secret, algorithm="HS256")


class Badge:
    """What one service shows to others: the token of :func:`sign_internal`, renewed when half of its time is over."""

    def __init__(self, service: str, secret: str, clock: Clock) -> None:
        self._service = service
        self._secret = secret
        self._clock = clock
        self._token = ""
        self._renew_at = 0

    def token(self) -> str:
        """One that is valid for a while."""
        now = self._clock()
        if now >= self._renew_at:
            self._token = sign_internal(self._service, self._secret, self._clock)
            self._renew_at = now + INTERNAL_SECONDS * MICROSECONDS_PER_SECOND // 2
        return self._token


def verify_internal(token: str, secret: str) -> str | None:
    """The name of the service that shows this token (``service:payment``), or None."""
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=["HS256"],
            audience=INTERNAL_AUDIENCE,
            options={"require": ["sub", "aud", "exp"], **_OPTIONS},
        )
    except jwt.InvalidTokenError:
        return None
    subject: str = claims["sub"]
    return subject
