"""What crosses auth's door: registration and sessions, service clients, and the public keys that check tokens."""

import base64
import hashlib
from typing import Annotated, Literal, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey, EllipticCurvePublicNumbers
from msgspec import UNSET, Meta, UnsetType

from ewallet.kernel.caller import Role
from ewallet.kernel.money import CURRENCY_PATTERN

Email = Annotated[str, Meta(min_length=3, max_length=254, description="compared without regard to case")]
Password = Annotated[str, Meta(min_length=12, max_length=200, description="any characters; common ones are refused")]
Currency = Annotated[str, Meta(pattern=CURRENCY_PATTERN, description="ISO 4217 code")]

# --- people ------------------------------------------------------------------------------------------------------


class Registration(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Become a customer or a merchant, with a wallet in one currency."""

    email: Email
    password: Password
    full_name: Annotated[str, Meta(min_length=1, max_length=200)]
    role: Literal["CUSTOMER", "MERCHANT"] = "CUSTOMER"
    currency: Currency = "USD"


class UserView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A person as that person may see it."""

    user_id: str
    email: str
    full_name: str
    role: Role
    created_at: str


# --- sessions ----------------------------------------------------------------------------------------------------


class Login(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Credentials of a person. Nothing is said about their form: wrong ones are wrong."""

    email: Annotated[str, Meta(min_length=1, max_length=254)]
    password: Annotated[str, Meta(min_length=1, max_length=200)]


class RefreshToken(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The secret that continues a session, or ends it."""

    refresh_token: str


class Tokens(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a session gives: a token for requests, good for ``expires_in`` seconds, and one to get the next."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105  # RFC 6749's name for a kind of token
    expires_in: int
    refresh_token: str


class TokenToValidate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """An access token that somebody wants to know about."""

    token: str


class TokenStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Whom an access token stands for; nothing but ``active`` where it is not valid."""

    active: bool
    subject: str | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    expires_at: str | UnsetType = UNSET


# --- service clients ---------------------------------------------------------------------------------------------


class NewClient(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A trusted back end to be let in. The name is for people."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]


class ClientCredentials(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a back end shows to get tokens. The secret is never shown again."""

    client_id: str
    client_secret: str


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of RFC 6749, section 4.4.2."""

    grant_type: Literal["client_credentials"]


class ServiceToken(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of RFC 6749, section 5.1, with its names; ``expires_in`` in seconds."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105  # RFC 6749's name for a kind of token
    expires_in: int


# --- public keys -------------------------------------------------------------------------------------------------

_COORDINATE_BYTES = 32


class JsonWebKey(msgspec.Struct, frozen=True, kw_only=True):
    """A P-256 public key (RFC 7517; RFC 7518, section 6.2.1)."""

    kid: str
    x: str
    y: str
    kty: Literal["EC"] = "EC"
    crv: Literal["P-256"] = "P-256"
    alg: Literal["ES256"] = "ES256"
    use: Literal["sig"] = "sig"

    @classmethod
    def of(cls, kid: str, key: EllipticCurvePublicKey) -> Self:
        """The wire form of a key."""
        numbers = key.public_numbers()
        return cls(kid=kid, x=_encode_coordinate(numbers.x), y=_encode_coordinate(numbers.y))

    def public_key(self) -> EllipticCurvePublicKey:
        """The key itself; ValueError where x and y are no point of the curve."""
        numbers = EllipticCurvePublicNumbers(_decode_coordinate(self.x), _decode_coordinate(self.y), SECP256R1())
        return numbers.public_key()


class JsonWebKeySet(msgspec.Struct, frozen=True, kw_only=True):
    """Every key that may have signed a token that is still valid, and the next one."""

    keys: list[JsonWebKey]


def thumbprint(key: EllipticCurvePublicKey) -> str:
    """The key's id: SHA-256 over its required members in their order (RFC 7638), so equal keys have equal ids."""
    wire = JsonWebKey.of("", key)
    members = {"crv": wire.crv, "kty": wire.kty, "x": wire.x, "y": wire.y}
    return _base64url(hashlib.sha256(msgspec.json.encode(members)).digest())


def _encode_coordinate(number: int) -> str:
    return _base64url(number.to_bytes(_COORDINATE_BYTES, "big"))


def _decode_coordinate(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
