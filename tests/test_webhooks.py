"""Signatures that other implementations of the specification understand, and whose requests ours believes."""

import json
from datetime import UTC, datetime

import pytest
import standardwebhooks

from ewallet.webhooks import SECRET_BYTES, WebhookInvalid, new_secret, signed, verify

BODY = '{"type":"payment.succeeded","data":{"reference":"Ærø ☂"}}'.encode()
SECRET, OTHER = new_secret(b"s" * SECRET_BYTES), new_secret(b"o" * SECRET_BYTES)
NOW = 1_790_000_000


def clock() -> int:
    return NOW * 1_000_000


def headers(secrets: tuple[str, ...] = (SECRET,), timestamp: int = NOW, message_id: str = "evt_1") -> dict[str, str]:
    return signed(BODY, message_id=message_id, timestamp=timestamp, secrets=secrets)


def test_the_official_package_believes_our_signatures() -> None:
    now = int(datetime.now(UTC).timestamp())

    for secret in (SECRET, OTHER):
        assert standardwebhooks.Webhook(secret).verify(BODY, headers((SECRET, OTHER), now)) == json.loads(BODY)


def test_we_believe_the_official_package() -> None:
    moment = datetime.fromtimestamp(NOW, UTC)
    signature = standardwebhooks.Webhook(SECRET).sign("msg_2", moment, BODY.decode())

    sent = {"Webhook-Id": "msg_2", "Webhook-Timestamp": str(NOW), "Webhook-Signature": signature}

    assert verify(BODY, sent, SECRET, clock=clock) == json.loads(BODY)


def test_the_example_of_the_specification_holds() -> None:
    """The specification's own test vector, so that both implementations cannot err together."""
    body = b'{"test": 2432232314}'
    sent = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }

    assert verify(body, sent, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", clock=lambda: 1614265330_000_000)


def test_each_secret_has_its_signature_while_one_replaces_the_other() -> None:
    for secret in (SECRET, OTHER):
        verify(BODY, headers((SECRET, OTHER)), secret, clock=clock)


@pytest.mark.parametrize("shift", [-300, 300])
def test_a_clock_may_be_five_minutes_off(shift: int) -> None:
    verify(BODY, headers(timestamp=NOW + shift), SECRET, clock=clock)


@pytest.mark.parametrize(
    ("body", "changes", "said"),
    [
        (BODY + b" ", {}, "no signature"),
        (BODY, {"webhook-id": "evt_2"}, "no signature"),
        (BODY, {"webhook-timestamp": str(NOW + 1)}, "no signature"),
        (BODY, {"webhook-timestamp": str(NOW + 301)}, "away from this clock"),
        (BODY, {"webhook-timestamp": str(NOW - 301)}, "away from this clock"),
        (BODY, {"webhook-timestamp": "١٢"}, "no number"),
        (BODY, {"webhook-timestamp": "-1"}, "no number"),
        (BODY, {"webhook-timestamp": "9" * 5000}, "no number"),
        (BODY, {"webhook-signature": ""}, "no signature"),
        (BODY, {"webhook-signature": "v1,"}, "no signature"),
        (BODY, {"webhook-signature": "v1,ünïcode"}, "no signature"),
        (BODY, {"webhook-signature": headers()["webhook-signature"].replace("v1", "v2")}, "no signature"),
        (BODY, headers((OTHER,)), "no signature"),
    ],
)
def test_what_was_changed_on_the_way_is_not_believed(body: bytes, changes: dict[str, str], said: str) -> None:
    with pytest.raises(WebhookInvalid, match=said):
        verify(body, headers() | changes, SECRET, clock=clock)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(name: str) -> None:
    sent = headers()
    del sent[name]

    with pytest.raises(WebhookInvalid, match=name):
        verify(BODY, sent, SECRET, clock=clock)


def test_a_secret_that_is_none_is_the_receivers_mistake() -> None:
    with pytest.raises(ValueError, match="whsec_"):
        verify(BODY, headers(), "whsec_?", clock=clock)
