"""Only tokens that auth signed for us, and that have not expired, stand for anybody."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ewallet.kernel.caller import Role
from ewallet.kernel.clock import Clock, system_clock
from ewallet.kernel.errors import OutcomeUnknown
from ewallet.plumbing import tokens
from ewallet.plumbing.tokens import (
    AUDIENCE,
    ISSUER,
    Principal,
    PublicKeys,
    Verifier,
    sign,
    sign_internal,
    verify_internal,
)
from tests.support.plumbing import ManualClock

KEY = generate_private_key(SECP256R1())
OTHER_KEY = generate_private_key(SECP256R1())
KEY_ID = "key-1"
HEADER = {"alg": "ES256", "typ": "at+jwt", "kid": KEY_ID}
LEFT_OUT: Any = object()
SECRET = "a secret that only the services of this test know"


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    full = {
        "iss": ISSUER,
        "sub": "usr_1",
        "aud": AUDIENCE,
        "exp": now + 600,
        "iat": now,
        "jti": "jti-1",
        "role": "CUSTOMER",
    } | changes
    return {name: value for name, value in full.items() if value is not LEFT_OUT}


class Keys:
    """Auth's public keys, with a count of how often somebody asked."""

    def __init__(self) -> None:
        self.keys: PublicKeys = {KEY_ID: KEY.public_key()}
        self.asked = 0

    async def __call__(self) -> PublicKeys:
        self.asked += 1
        return self.keys


def verifier(keys: Keys | None = None, clock: Clock = system_clock) -> Verifier:
    return Verifier(keys or Keys(), clock)


def signed(header: dict[str, Any] | None = None, key: Any = KEY, **changes: Any) -> str:
    """A token signed with ES256 whose header and claims are whatever a test wants."""
    full_header = HEADER | (header or {})
    return jwt.encode(claims(**changes), key, algorithm="ES256", headers=full_header)


def by_hand(header: object, payload: object, signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


PUBLIC_PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hs256_with(secret: bytes) -> str:
    """HS256 by hand, because the library refuses to use a public key so."""
    unsigned = by_hand(HEADER | {"alg": "HS256"}, claims()).rpartition(".")[0]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(unsigned.encode(), secret)
    return f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def tampered() -> str:
    header, _, signature = signed().split(".")
    admin = base64.urlsafe_b64encode(json.dumps(claims(role="ADMIN")).encode()).rstrip(b"=").decode()
    return f"{header}.{admin}.{signature}"


FORGED = {
    "empty": "",
    "not a token": "abc",
    "too few parts": "a.b",
    "not base64": "§.§.§",
    "a header that is no object": by_hand([], claims()),
    "alg none": by_hand(HEADER | {"alg": "none"}, claims()),
    "alg None": by_hand(HEADER | {"alg": "None"}, claims()),
    "alg none with a signature": by_hand(HEADER | {"alg": "none"}, claims(), b"x" * 64),
    "HS256 with the public key": hs256_with(PUBLIC_PEM),
    "HS256 with an empty secret": hs256_with(b""),
    "ES256 without a signature": by_hand(HEADER, claims()),
    "ES256 with a signature of zeros": by_hand(HEADER, claims(), bytes(64)),
    "another key under our key id": signed(key=OTHER_KEY),
    "another curve": jwt.encode(
        claims(), generate_private_key(SECP384R1()), algorithm="ES384", headers=HEADER | {"alg": "ES384"}
    ),
    "claims changed after signing": tampered(),
    "unknown kid": signed({"kid": "key-9"}),
    "kid that is no text": by_hand(HEADER | {"kid": 1}, claims(), bytes(64)),
    "no kid": by_hand({"alg": "ES256", "typ": "at+jwt"}, claims(), bytes(64)),
    "an own key in the header": signed({"kid": "x", "jwk": {"kty": "EC"}}, key=OTHER_KEY),
    "typ JWT": signed({"typ": "JWT"}),
    "typ of an id token": signed({"typ": "id+jwt"}),
    "an unknown critical extension": signed({"crit": ["exp2"], "exp2": 1}),
    "expired": signed(exp=int(time.time()) - 1),
    "exp that is no number": signed(exp="tomorrow"),
    "not valid yet": signed(nbf=int(time.time()) + 600),
    "another issuer": signed(iss="somebody"),
    "another audience": signed(aud="another-platform"),
    "our audience in a list": signed(aud=[AUDIENCE]),
    "our audience beside another": signed(aud=[AUDIENCE, "another-platform"]),
    "unknown role": signed(role="ROOT"),
    "role in lower case": signed(role="admin"),
    "role that is a list": signed(role=["ADMIN"]),
    "subject that is no text": signed(sub=1),
    "token of a service": sign_internal("payment", SECRET, system_clock),
} | {f"no {claim}": signed(**{claim: LEFT_OUT}) for claim in ("iss", "sub", "aud", "exp", "iat", "jti", "role")}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_token_stands_for_nobody(forged: str) -> None:
    assert await verifier().verify(forged) is None


async def test_a_token_of_auth_stands_for_its_subject() -> None:
    expires_at = int(time.time()) + 600

    principal = await verifier().verify(sign(claims(exp=expires_at), KEY, KEY_ID))

    assert principal == Principal("usr_1", Role.CUSTOMER, expires_at)


async def test_a_token_of_a_clock_that_runs_ahead_is_taken() -> None:
    assert await verifier().verify(signed(iat=int(time.time()) + 30)) is not None


async def test_a_token_is_checked_once_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    checking = verifier()
    token = signed()
    first = await checking.verify(token)
    monkeypatch.setattr(jwt, "decode", lambda *_: pytest.fail("checked again"))

    assert await checking.verify(token) == first


async def test_a_remembered_token_expires_all_the_same() -> None:
    clock = ManualClock(system_clock())
    checking = verifier(clock=clock)
    token = signed(exp=int(time.time()) + 600)
    assert await checking.verify(token) is not None

    clock.pass_seconds(601)

    assert await checking.verify(token) is None


async def test_the_memory_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED_TOKENS", 3)
    checking = verifier()

    for number in range(10):
        assert await checking.verify(signed(jti=f"jti-{number}")) is not None
        assert len(checking._known) <= 3


async def test_forged_tokens_are_not_remembered() -> None:
    checking = verifier()
    await checking.verify(signed(key=OTHER_KEY))

    assert checking._known == {}


async def test_a_new_key_is_fetched_when_a_token_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "KEYS_REFRESH_SECONDS", -1)
    keys = Keys()
    checking = verifier(keys)
    assert await checking.verify(signed()) is not None
    keys.keys = {**keys.keys, "key-2": OTHER_KEY.public_key()}

    assert await checking.verify(signed({"kid": "key-2"}, key=OTHER_KEY)) is not None
    assert await checking.verify(signed(jti="old key, new token")) is not None


async def test_a_withdrawn_key_is_believed_for_a_minute_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is withdrawn when it has been stolen: tokens that it signed, and those it will sign, must end."""
    keys = Keys()
    checking = verifier(keys)
    assert await checking.verify(signed()) is not None
    keys.keys = {"key-2": OTHER_KEY.public_key()}
    monkeypatch.setattr(tokens, "KEYS_LIFETIME_SECONDS", -1)
    monkeypatch.setattr(tokens, "KEYS_REFRESH_SECONDS", -1)

    assert await checking.verify(signed()) is None
    assert await checking.verify(signed(jti="made after the theft")) is None


async def test_known_keys_stay_in_use_while_auth_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{KEY_ID: KEY.public_key()}])

    async def fetch_once() -> PublicKeys:
        for answer in answers:
            return answer
        raise OutcomeUnknown("auth is down")

    checking = Verifier(fetch_once, system_clock)
    assert await checking.verify(signed()) is not None
    monkeypatch.setattr(tokens, "KEYS_LIFETIME_SECONDS", -1)
    monkeypatch.setattr(tokens, "KEYS_REFRESH_SECONDS", -1)

    assert await checking.verify(signed(jti="another")) is not None


async def test_a_flood_of_unknown_key_ids_does_not_become_a_flood_of_questions() -> None:
    keys = Keys()
    checking = verifier(keys)

    for number in range(100):
        assert await checking.verify(signed({"kid": f"unknown-{number}"})) is None

    assert keys.asked == 1


def test_a_service_is_known_by_its_internal_token() -> None:
    assert verify_internal(sign_internal("payment", SECRET, system_clock), SECRET) == "service:payment"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "abc",
        sign_internal("payment", "another secret, of the length that is needed", system_clock),
        sign_internal("payment", SECRET, lambda: system_clock() - 120_000_000),
        by_hand({"alg": "none", "typ": "JWT"}, {"sub": "service:payment", "aud": "ewallet-internal", "exp": 2**40}),
        jwt.encode({"sub": "service:payment", "exp": 2**40}, SECRET, algorithm="HS256"),
        jwt.encode({"sub": "service:payment", "aud": AUDIENCE, "exp": 2**40}, SECRET, algorithm="HS256"),
        jwt.encode({"sub": "service:payment", "aud": "ewallet-internal"}, SECRET, algorithm="HS256"),
        signed(),
    ],
)
def test_a_forged_internal_token_is_nobodys(token: str) -> None:
    assert verify_internal(token, SECRET) is None
