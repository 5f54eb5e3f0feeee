"""One e-mail on its way, to a real server."""

from pathlib import Path
from urllib.parse import quote

import pytest

from ewallet.kernel.clock import system_clock
from ewallet.notification.domain.deliveries import Outcome, Verdict
from ewallet.notification.senders import Message, Parcel
from ewallet.notification.senders.mail import MailSender, MailServer, MailWrong
from ewallet.notification.templates import load_layouts
from ewallet.plumbing.json import encode
from tests.notification.senders.test_webhooks import certificate
from tests.support.mail import PASSWORD, USER, post_office

LAYOUTS = load_layouts("")
SENDER = "Shop <payments@shop.example>"


def parcel(*, to: str = "ada@example.com", text: str = "To usr_1 for <b>Ærø</b> & co.") -> Parcel:
    told = Message(to=to, title="You paid 12.50 USD", text=text, locale="en")
    return Parcel(event_id="dlv_1", event="payment.succeeded", payload=encode(told).decode(), address="", secrets=())


def server(url: str) -> MailServer:
    made = MailServer.parse(url, SENDER)
    assert made is not None
    return made


async def test_a_message_arrives_with_a_text_and_an_html_part() -> None:
    async with post_office() as office:
        outcome = await MailSender(server(office.url), layouts=LAYOUTS, clock=system_clock).send(parcel())

    [message] = office.messages
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert outcome.verdict is Verdict.TAKEN
    assert (message["From"], message["To"], message["Subject"]) == (SENDER, "ada@example.com", "You paid 12.50 USD")
    assert message["Message-ID"] == "<dlv_1@shop.example>"
    assert text is not None
    assert "To usr_1 for <b>Ærø</b> & co." in text.get_content()
    assert html is not None
    assert "To usr_1 for &lt;b&gt;Ærø&lt;/b&gt; &amp; co." in html.get_content()


@pytest.mark.parametrize("to", ["=?utf-8?q??=@b.example", "=?utf-8?q?=0A?=@b.example"])
async def test_an_address_that_cannot_be_written_is_refused_for_good(to: str) -> None:
    """An error instead would be met again at every round, before all that others are to be told."""
    async with post_office() as office:
        outcome = await MailSender(server(office.url), layouts=LAYOUTS, clock=system_clock).send(parcel(to=to))

    assert outcome.verdict is Verdict.REFUSED
    assert office.messages == []


async def test_a_password_goes_over_tls_only(tmp_path: Path) -> None:
    tls, trust = certificate(tmp_path, "localhost")
    async with post_office(tls=tls, login=True) as office, post_office() as plain:
        login = f"{quote(USER)}:{quote(PASSWORD, safe='')}"
        over_tls = MailSender(
            server(f"smtp://{login}@localhost:{office.port}"), layouts=LAYOUTS, clock=system_clock, trust=trust
        )
        in_the_clear = MailSender(
            server(f"smtp://{login}@localhost:{plain.port}"), layouts=LAYOUTS, clock=system_clock, trust=trust
        )

        assert (await over_tls.send(parcel())).verdict is Verdict.TAKEN
        assert (await in_the_clear.send(parcel())).verdict is Verdict.FAILED

    assert office.encrypted == [True]
    assert plain.messages == []


async def test_a_wrong_password_is_a_failure_that_may_pass(tmp_path: Path) -> None:
    tls, trust = certificate(tmp_path, "localhost")
    async with post_office(tls=tls, login=True) as office:
        sender = MailSender(
            server(f"smtp://x:y@localhost:{office.port}"), layouts=LAYOUTS, clock=system_clock, trust=trust
        )
        outcome = await sender.send(parcel())

    assert outcome == Outcome(Verdict.FAILED, error="The mail server could not be used: SMTPAuthenticationError.")


@pytest.mark.parametrize("place", ["recipient_answer", "message_answer"])
@pytest.mark.parametrize(("answer", "verdict"), [("550 no such user", Verdict.REFUSED), ("450 later", Verdict.FAILED)])
async def test_a_refusal_is_for_good_or_for_now_as_the_server_says(place: str, answer: str, verdict: Verdict) -> None:
    async with post_office() as office:
        setattr(office, place, answer)
        outcome = await MailSender(server(office.url), layouts=LAYOUTS, clock=system_clock).send(parcel())

    assert (outcome.verdict, outcome.status) == (verdict, int(answer[:3]))
    assert "no such user" not in (outcome.error or "")


async def test_no_server_is_a_failure_with_a_sentence() -> None:
    async with post_office() as office:
        url = office.url
    outcome = await MailSender(server(url), layouts=LAYOUTS, clock=system_clock).send(parcel())

    assert outcome.verdict is Verdict.FAILED
    assert "could not be used" in (outcome.error or "")


@pytest.mark.parametrize(
    ("url", "sender", "named"),
    [
        ("smtp://mail.example", "", "EWALLET_EMAIL_FROM"),
        ("", SENDER, "EWALLET_SMTP_URL"),
        ("http://mail.example", SENDER, "EWALLET_SMTP_URL"),
        ("smtp://", SENDER, "EWALLET_SMTP_URL"),
        ("smtp://user:secret-1@mail.example:x", SENDER, "EWALLET_SMTP_URL"),
        ("smtp://mail.example/path", SENDER, "EWALLET_SMTP_URL"),
        ("smtp://mail.example", "nobody", "EWALLET_EMAIL_FROM"),
    ],
)
def test_settings_that_cannot_be_are_named_without_the_password(url: str, sender: str, named: str) -> None:
    with pytest.raises(MailWrong, match=named) as error:
        MailServer.parse(url, sender)
    assert "secret-1" not in str(error.value)


def test_no_settings_are_no_mail() -> None:
    assert MailServer.parse("", "") is None


@pytest.mark.parametrize(
    ("url", "port", "tls"), [("smtp://mail.example", 587, False), ("smtps://mail.example", 465, True)]
)
def test_ports_have_their_usual_defaults(url: str, port: int, tls: bool) -> None:
    made = server(url)

    assert (made.port, made.tls) == (port, tls)
