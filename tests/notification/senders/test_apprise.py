"""One message on its way through Apprise, to a real server."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from logging.handlers import BufferingHandler
from urllib.parse import unquote

import pytest

from ewallet.notification.domain.deliveries import Outcome, Verdict
from ewallet.notification.senders import Message, Parcel, apprise
from ewallet.notification.senders.apprise import AppriseSender, apprise_urls
from ewallet.plumbing.json import encode
from ewallet.plumbing.settings import SettingsError
from tests.support.receiver import Receiver, answering, dripping, receiving, silent


def parcel(to: str = "+43660123") -> Parcel:
    message = Message(to=to, title="You paid $12.50", text="To <b>Ærø</b> & co.", locale="en")
    return Parcel(event_id="dlv_1", event="payment.succeeded", payload=encode(message).decode(), address="", secrets=())


def sender(receiver: Receiver, *, options: str = "") -> AppriseSender:
    return AppriseSender("sms", f"json://user:secret-1@127.0.0.1:{receiver.port}/{{to}}/sms{options}")


@pytest.mark.parametrize("to", ["+43660123", "@ada", "#shop", "-1001234:7", "ada@example.com"])
async def test_a_message_arrives_at_the_address(to: str) -> None:
    async with receiving() as receiver:
        outcome = await sender(receiver).send(parcel(to))

    assert outcome == Outcome(Verdict.TAKEN)
    [got] = receiver.got
    assert unquote(got.path) == f"/{to}/sms"
    assert {name: json.loads(got.body)[name] for name in ("title", "message")} == {
        "title": "You paid $12.50",
        "message": "To <b>Ærø</b> & co.",
    }


@pytest.fixture
def log() -> Iterator[BufferingHandler]:
    """What reaches the platform's log; pytest's own fixture listens to loggers that do not, too."""
    handler = BufferingHandler(10)
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


async def test_what_is_not_taken_may_be_later_and_the_reason_is_kept_out_of_the_log(log: BufferingHandler) -> None:
    async with receiving(answering(401, body=b"not to be shown")) as receiver:
        outcome = await sender(receiver).send(parcel())

    assert outcome.verdict is Verdict.FAILED
    assert outcome.error is not None
    assert outcome.error.startswith("sms did not take it. ")
    assert "401" in outcome.error
    assert "not to be shown" not in outcome.error
    assert "secret-1" not in outcome.error
    assert log.buffer == []


async def test_a_redirect_is_not_followed() -> None:
    async with receiving() as other, receiving(answering(302, f"location: {other.url}")) as receiver:
        assert (await sender(receiver).send(parcel())).verdict is Verdict.FAILED
        assert other.got == []


async def test_a_service_that_does_not_answer_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apprise, "SECONDS", 0.2)
    for behave in (silent, dripping):
        async with receiving(behave) as receiver:
            outcome = await sender(receiver, options="?rto=0.5").send(parcel())

        assert outcome == Outcome(Verdict.FAILED, error="sms did not take it within 0.2 s.")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("json://user:secret-1@host/{to}", "entry 1 "),
        ("sms=json://user:secret-1@host/{to} chat", "entry 2 "),
        ("SMS=json://user:secret-1@host/{to}", "entry 1 "),
        ("email=json://user:secret-1@host/{to}", "a channel email already"),
        ("sms=json://user:secret-1@host/{to} sms=json://host/{to}", "a channel sms already"),
        ("sms=json://user:secret-1@host/", "the URL of sms "),
        ("sms=json://user:secret-1@{to}/", "the URL of sms "),
        ("sms=json://user:secret-1@[::1/{to}", "the URL of sms "),
    ],
)
def test_a_setting_that_cannot_be_is_named_without_its_secrets(setting: str, named: str) -> None:
    with pytest.raises(SettingsError, match=f"EWALLET_APPRISE_URLS.*{named}") as error:
        apprise_urls(setting)
    assert "secret-1" not in str(error.value)


@pytest.mark.parametrize("url", ["nonsense://secret-1/{to}", "twilio://secret-1:x@y/{to}"])
def test_a_url_that_apprise_does_not_understand_is_named_without_its_secrets(url: str) -> None:
    with pytest.raises(SettingsError, match="EWALLET_APPRISE_URLS: the URL of sms ") as error:
        AppriseSender("sms", url)
    assert "secret-1" not in str(error.value)


def test_several_channels_have_each_its_url() -> None:
    assert apprise_urls("") == {}
    assert apprise_urls(" sms=twilio://S:T@F/{to}\n chat-2=tgram://123:x/{to}?a=b ") == {
        "sms": "twilio://S:T@F/{to}",
        "chat-2": "tgram://123:x/{to}?a=b",
    }


def test_who_has_no_such_channel_does_not_load_apprise() -> None:
    """It takes a third of a second at the start, and 36 MiB."""
    code = "import sys; from ewallet.notification import app; sys.exit('apprise' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
