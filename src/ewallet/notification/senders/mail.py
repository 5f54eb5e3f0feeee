"""E-mail by SMTP (RFC 5321): a text and an HTML part, STARTTLS or TLS, authentication."""

import asyncio
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from ssl import SSLContext
from urllib.parse import unquote, urlsplit

import aiosmtplib
import msgspec

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock
from ewallet.notification.domain.deliveries import Outcome, Verdict
from ewallet.notification.senders import Message, Parcel
from ewallet.notification.templates import Layouts

SECONDS = 20
"""For a connection, its greetings and one message; servers look up whom they talk to and check what they take."""

MESSAGES_AT_ONCE = 8


class MailWrong(ValueError):
    """The settings of e-mail cannot be understood; the message says which and why, without the password."""


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where e-mail goes first. With ``tls`` from the first byte; else STARTTLS, which a password makes necessary."""

    host: str
    port: int
    tls: bool
    user: str
    password: str
    sender: str

    @classmethod
    def parse(cls, url: str, sender: str) -> "MailServer | None":
        """``smtp://user:password@host:587`` or ``smtps://…``; None where both are empty. MailWrong."""
        if not url and not sender:
            return None
        if not url or not sender:
            raise MailWrong("EWALLET_SMTP_URL and EWALLET_EMAIL_FROM belong together: set both or neither.")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.scheme not in _PORTS or parts.path.strip("/") or parts.query:
            raise MailWrong("EWALLET_SMTP_URL must look like smtp://user:password@host:587 or smtps://host:465.")
        if parseaddr(sender)[1].count("@") != 1:
            raise MailWrong("EWALLET_EMAIL_FROM must be an address, such as Shop <payments@shop.example>.")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(host, port or _PORTS[parts.scheme], parts.scheme == "smtps", user, password, sender)


_PORTS = {"smtp": 587, "smtps": 465}


class MailSender:
    """Hands messages to one server, each over a connection of its own. ``trust`` is for tests: whose certificates."""

    def __init__(self, server: MailServer, *, layouts: Layouts, clock: Clock, trust: SSLContext | None = None) -> None:
        self._server = server
        self._layouts = layouts
        self._clock = clock
        self._trust = trust
        self._turns = asyncio.Semaphore(MESSAGES_AT_ONCE)

    async def send(self, parcel: Parcel) -> Outcome:
        """Hand one message over. A refusal of its address or of itself is for good; anything else may pass."""
        async with self._turns:
            try:
                async with asyncio.timeout(SECONDS):
                    await self._hand_over(self._message(parcel))
            except TimeoutError:
                return Outcome(Verdict.FAILED, error=f"The mail server did not answer within {SECONDS} s.")
            except aiosmtplib.SMTPRecipientsRefused as error:
                return _refused(error.recipients[0])
            except (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPDataError) as error:
                return _refused(error)
            except (ValueError, LookupError) as error:  # what the email package makes of an address that it misreads
                return Outcome(Verdict.REFUSED, error=f"The message cannot be written: {type(error).__name__}.")
            except (aiosmtplib.SMTPException, OSError) as error:
                return Outcome(Verdict.FAILED, error=f"The mail server could not be used: {type(error).__name__}.")
        return Outcome(Verdict.TAKEN, 250)

    async def _hand_over(self, message: EmailMessage) -> None:
        server = self._server
        await aiosmtplib.send(
            message,
            hostname=server.host,
            port=server.port,
            username=server.user or None,
            password=server.password or None,
            use_tls=server.tls,
            # None: where the server offers it. A password is never sent in the clear.
            start_tls=None if server.tls or not server.user else True,
            tls_context=self._trust,
            timeout=SECONDS,
        )

    def _message(self, parcel: Parcel) -> EmailMessage:
        """The message, with the same id at every attempt, by which mail programs know a second copy."""
        told = msgspec.json.decode(parcel.payload, type=Message)
        message = EmailMessage()
        message["From"] = self._server.sender
        message["To"] = told.to
        message["Subject"] = told.title
        message["Date"] = formatdate(self._clock() // MICROSECONDS_PER_SECOND)
        message["Message-ID"] = f"<{parcel.event_id}@{parseaddr(self._server.sender)[1].partition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notices, please
        text, html = self._layouts.laid_out(told.locale, title=told.title, body=told.text)
        message.set_content(text)
        message.add_alternative(html, subtype="html")
        return message


def _refused(error: aiosmtplib.SMTPResponseException) -> Outcome:
    """What the server said about this very message: 5yz for good, 4yz for now (RFC 5321, section 4.2.1)."""
    verdict = Verdict.REFUSED if error.code >= _FOR_GOOD else Verdict.FAILED
    return Outcome(verdict, error.code, f"The mail server answered {error.code}.")


_FOR_GOOD = 500
