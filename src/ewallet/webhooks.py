"""Signatures of webhooks, as the Standard Webhooks specification has them (standardwebhooks.com, version 1).

For the platform, which signs, and for merchants' servers, which check: :func:`verify` is all that a receiver needs, and
this module needs nothing but Python. The signature is an HMAC with SHA-256 over ``id.timestamp.body``, the body byte by
byte as it came: checking a body that was decoded and encoded again fails.

    WebhookInvalid      the request cannot be trusted: answer 400 and do nothing
"""

import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from typing import Any

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock, system_clock

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

SECRET_PREFIX = "whsec_"  # noqa: S105  # how a secret begins
SECRET_BYTES = 32
"""The specification allows 24 to 64; SHA-256 has no use for more than these."""

TOLERANCE_SECONDS = 300
"""How far a timestamp may be from the receiver's clock, which makes old requests useless to who has recorded them."""

_VERSION = "v1"


class WebhookInvalid(Exception):
    """A request that was not signed with the secret, not just now, or not at all; the message says which."""


def new_secret(random_bytes: bytes) -> str:
    """A secret as its owner is shown it, made of :data:`SECRET_BYTES` random bytes."""
    return SECRET_PREFIX + base64.b64encode(random_bytes).decode("ascii")


def signed(body: bytes, *, message_id: str, timestamp: int, secrets: tuple[str, ...]) -> dict[str, str]:
    """The headers of a webhook; ``timestamp`` in seconds. One signature for each secret that is valid just now."""
    signatures = [_signature(body, message_id, str(timestamp), secret) for secret in secrets]
    return {
        ID_HEADER: message_id,
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: " ".join(f"{_VERSION},{signature}" for signature in signatures),
    }


def verify(body: bytes, headers: Mapping[str, str], secret: str, *, clock: Clock = system_clock) -> dict[str, Any]:
    """The event in a webhook's raw ``body``: ``{"type": …, "timestamp": …, "data": {…}}``. WebhookInvalid otherwise.

    ``headers`` are those of the request, in whatever case. One event may come more than once, always with the same
    ``webhook-id``: remember the ids that you have worked on.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp, signatures = (given[name] for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER))
    except KeyError as missing:
        raise WebhookInvalid(f"the header {missing} is missing") from missing
    _check_timestamp(timestamp, clock() // MICROSECONDS_PER_SECOND)
    expected = _signature(body, message_id, timestamp, secret)
    if not any(_is_ours(signature, expected) for signature in signatures.split(" ")):
        raise WebhookInvalid("no signature is that of the secret")
    event: dict[str, Any] = json.loads(body)
    return event


def _check_timestamp(timestamp: str, now: int) -> None:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _TIMESTAMP_DIGITS):
        raise WebhookInvalid("the timestamp is no number of seconds")
    if abs(int(timestamp) - now) > TOLERANCE_SECONDS:
        raise WebhookInvalid(f"the timestamp is more than {TOLERANCE_SECONDS} s away from this clock")


_TIMESTAMP_DIGITS = 15


def _is_ours(signature: str, expected: str) -> bool:
    version, _, value = signature.partition(",")
    return version == _VERSION and hmac.compare_digest(value.encode(), expected.encode())


def _signature(body: bytes, message_id: str, timestamp: str, secret: str) -> str:
    content = b".".join((message_id.encode(), timestamp.encode(), body))
    return base64.b64encode(hmac.digest(_key(secret), content, "sha256")).decode("ascii")


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a secret is {SECRET_PREFIX} and base 64") from error
