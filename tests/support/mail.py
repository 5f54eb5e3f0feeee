"""A mail server on the loopback that keeps what it takes: aiosmtpd, with or without STARTTLS and a password."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "ewallet", "a password: with @ and /"


@dataclass
class PostOffice:
    """What came, in its order; ``answers`` are given to recipients and messages in place of taking them."""

    messages: list[EmailMessage] = field(default_factory=list)
    recipient_answer: str = ""
    message_answer: str = ""
    port: int = 0
    encrypted: list[bool] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    async def wait_for(self, count: int, seconds: float = 20) -> list[EmailMessage]:
        async with asyncio.timeout(seconds):
            while len(self.messages) < count:  # noqa: ASYNC110  # messages come from aiosmtpd's own callbacks
                await asyncio.sleep(0.02)
        return self.messages

    async def handle_RCPT(  # noqa: N802  # the names are aiosmtpd's
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if not self.recipient_answer:
            envelope.rcpt_tos.append(address)
        return self.recipient_answer or "250 OK"

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  # as above
        if self.message_answer:
            return self.message_answer
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.encrypted.append(session.ssl is not None)
        self.messages.append(message)
        return "250 OK"


@asynccontextmanager
async def post_office(*, tls: ssl.SSLContext | None = None, login: bool = False) -> AsyncIterator[PostOffice]:
    """A running server; with ``login`` it takes nothing without the password, and that only over TLS."""
    office = PostOffice()

    def authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _how: str, data: object) -> AuthResult:
        known = LoginPassword(USER.encode(), PASSWORD.encode())
        return AuthResult(success=data == known, handled=False)  # aiosmtpd answers, as we do not

    def protocol() -> SMTP:
        return SMTP(
            office,
            hostname="mail.example",
            tls_context=tls,
            require_starttls=tls is not None,
            auth_required=login,
            authenticator=authenticate,
        )

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    office.port = server.sockets[0].getsockname()[1]
    try:
        yield office
    finally:
        server.close()
        await server.wait_closed()
