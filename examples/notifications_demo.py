"""Who is told what, and how: `make demo-notifications`.

Starts a platform of its own on free ports, a mail server that only keeps what it gets, and the webhook receiver beside
this file; lets a customer pay once, be refused once and be refunded once; and shows what came to whom by which way.
Nothing of it outlives the program.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from ewallet.cli.terminal import columns, standard_output

RECEIVER = Path(__file__).with_name("webhook_receiver.py")
PATIENCE_SECONDS = 60
PASSWORD_BYTES = 16

Found = TypeVar("Found")


class Mailbox:
    """The mail server: takes everything and shows nobody anything."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str]] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd's
        """Keep the recipient and the subject."""
        message = message_from_bytes(envelope.original_content or b"", policy=policy.default)
        self.mails.append((str(message["To"]), str(message["Subject"])))
        return "250 OK"

    def of(self, address: str) -> list[str]:
        """The subjects of what came for an address."""
        return [subject for to, subject in list(self.mails) if to == address]


@dataclass(frozen=True)
class Person:
    """Somebody who is logged in."""

    http: httpx2.Client
    user_id: str
    email: str
    token: str

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The JSON of an answer, whatever it says."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer: dict[str, Any] = self.http.request(method, path, json=body, headers=headers).json()
        return answer

    def inbox(self) -> list[str]:
        """The titles of what is in the inbox, oldest first."""
        return [item["title"] for item in self.ask("GET", "/notification")["items"][::-1]]


def main() -> None:
    """Play the whole story."""
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="ewallet-demo-")))
        mailbox = Mailbox()
        mail = Controller(mailbox, hostname="127.0.0.1", port=free_port())
        mail.start()
        cleanup.callback(mail.stop)
        admin = ("admin@example.com", secrets.token_urlsafe(PASSWORD_BYTES))
        address = cleanup.enter_context(platform(folder, mail.port, *admin))
        http = cleanup.enter_context(httpx2.Client(base_url=address, trust_env=False))
        staff, customer, merchant = log_in(http, *admin), register(http, "CUSTOMER"), register(http, "MERCHANT")
        events = cleanup.enter_context(receiver(folder, merchant))
        play(staff, customer, merchant)
        ways = [
            ("customer", "inbox", until(customer.inbox, 4)),
            ("customer", "e-mail", until(lambda: mailbox.of(customer.email), 4)),
            ("merchant", "inbox", until(merchant.inbox, 3)),
            ("merchant", "e-mail", until(lambda: mailbox.of(merchant.email), 3)),
            ("merchant", "webhook", until(lambda: events.read_text().splitlines()[1:], 3)),
        ]
    show(ways)


def play(staff: Person, customer: Person, merchant: Person) -> None:
    """One payment that succeeds, one that is refused, one refund."""
    for person in (customer, merchant):
        person.ask("PUT", "/notification/preferences", {"email": person.email})
    credit = {"customerId": customer.user_id, "amount": 20_00, "currency": "USD", "reference": "welcome"}
    staff.ask("POST", "/wallet/credit", credit)
    order = {"merchantId": merchant.user_id, "currency": "USD"}
    paid = customer.ask("POST", "/payment/initiate", {**order, "amount": 12_50, "reference": "order-1"})
    customer.ask("POST", "/payment/initiate", {**order, "amount": 1_000_00, "reference": "order-2"})
    merchant.ask("POST", f"/payment/{paid['transactionId']}/refund", {"amount": 5_00})


@contextmanager
def platform(folder: Path, mail_port: int, admin_email: str, admin_password: str) -> Iterator[str]:
    """A running platform; its address."""
    port = free_port()
    settings = {
        "EWALLET_DATA": str(folder / "data"),
        "EWALLET_PORT": str(port),
        "EWALLET_LOG_LEVEL": "error",
        "EWALLET_ADMIN_EMAIL": admin_email,
        "EWALLET_ADMIN_PASSWORD": admin_password,
        "EWALLET_SMTP_URL": f"smtp://127.0.0.1:{mail_port}",
        "EWALLET_EMAIL_FROM": "Demo <payments@example.com>",
        "EWALLET_WEBHOOK_ALLOWED_ADDRESSES": "127.0.0.1/32",
    }
    address = f"http://127.0.0.1:{port}"
    with running([sys.executable, "-m", "ewallet", "up"], settings, folder / "platform"):
        until(lambda: is_ready(address), 1)
        yield address


@contextmanager
def receiver(folder: Path, merchant: Person) -> Iterator[Path]:
    """A webhook of the merchant's, and the running server that takes it; the file that the server prints to."""
    port, printed = free_port(), folder / "receiver"
    hook = merchant.ask("POST", "/notification/webhooks", {"url": f"http://127.0.0.1:{port}/"})
    with running([sys.executable, str(RECEIVER)], {"WEBHOOK_SECRET": hook["secret"], "PORT": str(port)}, printed):
        until(lambda: printed.read_text().splitlines(), 1)
        yield printed


@contextmanager
def running(command: Sequence[str], settings: dict[str, str], printed: Path) -> Iterator[None]:
    """Another program, until the block is left."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EWALLET_")}
    with printed.open("wb") as output:
        process = subprocess.Popen(command, env=inherited | settings, stdout=output, stderr=output)  # noqa: S603  # our own programs
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def register(http: httpx2.Client, role: str) -> Person:
    """A new person who has logged in."""
    email, password = f"{role.lower()}@example.com", secrets.token_urlsafe(PASSWORD_BYTES)
    body = {"email": email, "password": password, "fullName": role.title(), "role": role}
    user_id = http.post("/auth/register", json=body).json()["userId"]
    return log_in(http, email, password, user_id)


def log_in(http: httpx2.Client, email: str, password: str, user_id: str = "") -> Person:
    """A person who is there already."""
    session = http.post("/auth/login", json={"email": email, "password": password}).json()
    return Person(http, user_id, email, session["accessToken"])


def is_ready(address: str) -> list[str]:
    """The address, where the platform answers."""
    try:
        return [address] if httpx2.get(f"{address}/health/ready", trust_env=False).is_success else []
    except httpx2.HTTPError:
        return []


def until(look: Callable[[], list[Found]], count: int) -> list[Found]:
    """Look again and again until so much is there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(found := look()) < count:
        if time.monotonic() > deadline:
            sys.exit(f"Only this has come within {PATIENCE_SECONDS} s: {found}")
        time.sleep(0.05)
    return found


def free_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def show(ways: Sequence[tuple[str, str, list[str]]]) -> None:
    """Print who got what."""
    table = columns("who", "by", "what came")
    for who, way, came in ways:
        for number, text in enumerate(came):
            table.add_row("" if number else who, "" if number else way, text)
    standard_output().print(table)


if __name__ == "__main__":
    main()
