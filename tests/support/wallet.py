"""A wallet service on a real, migrated database, and the orders that tests send it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count

import httpx2
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from litestar import Litestar

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock, system_clock
from ewallet.kernel.errors import unwrap
from ewallet.kernel.ids import new_id
from ewallet.plumbing.database import Database, open_database
from ewallet.plumbing.http.edge import Edge
from ewallet.plumbing.outbox import Event, Undeliverable
from ewallet.plumbing.reconciling import KeptEvent, KeptEvents
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import AUDIENCE, ISSUER, PublicKeys, Verifier, sign
from ewallet.wallet.app import create_app
from ewallet.wallet.client import LINKED_PATH, MAXIMUM_LINKED_BYTES
from ewallet.wallet.domain.limits import LimitSchedule
from ewallet.wallet.messages import (
    GroupOrder,
    MoveMoney,
    OpenWallet,
    TransferKind,
    TransferOrder,
    wallet_account,
)
from ewallet.wallet.service import Moved, WalletService
from tests.support.migrated import migrate

NOW = 1_790_000_000_000_000  # some moment, in microseconds since the epoch

ADMIN = Caller("usr_admin", Role.ADMIN, "req_admin")
BACK_END = Caller("cli_backend", Role.SERVICE, "req_backend")
ALICE, BOB, CAROL = "usr_alice", "usr_bob", "usr_carol"

_numbers = count(1)


def customer(owner: str) -> Caller:
    """The owner of a wallet, as a caller."""
    return Caller(owner, Role.CUSTOMER, "req_customer")


def fresh(prefix: str) -> str:
    """An id that no test has used before."""
    return f"{prefix}_{next(_numbers):026d}"


@contextmanager
def opened_database(url: str) -> Iterator[Database]:
    """The wallet's database, migrated; closed at the end."""
    migrate("wallet", url)
    database = open_database(url, "wallet")
    try:
        yield database
    finally:
        database.close()


@asynccontextmanager
async def running_wallet(url: str, *, clock: Clock = system_clock, limits: str = "") -> AsyncIterator[WalletService]:
    """A wallet service of its own on a database that others may use, too."""
    with opened_database(url) as database:
        yield WalletService(database, clock=clock, limits=LimitSchedule.parse(limits))


async def open_wallet(
    wallet: WalletService, owner: str, *, role: Role = Role.CUSTOMER, currency: str = "USD", amount: int = 0
) -> None:
    """A wallet, with some money in it if wanted."""
    order = OpenWallet(owner=owner, role=role, currency=currency, actor="service:auth", request_id="req_open")
    await wallet.open_wallet(order)
    if amount:
        await credit(wallet, owner, amount, currency=currency)


async def credit(wallet: WalletService, owner: str, amount: int, *, currency: str = "USD") -> Moved:
    """Money from outside, which must be booked."""
    request = MoveMoney(customer_id=owner, amount=amount, currency=currency, reference=fresh("ref"))
    return await wallet.credit(BACK_END, request, None)


def transfer(
    debit: str,
    credit_to: str,
    amount: int,
    *,
    kind: TransferKind = TransferKind.POSTED,
    currency: str = "USD",
    credit_role: Role | None = None,
    pending_id: str | None = None,
    timeout_seconds: int | None = None,
    id_: str = "",
) -> TransferOrder:
    """One transfer between the accounts of two owners; ``cash`` and ``fees`` are owners, too."""
    return TransferOrder(
        id=id_ or fresh("trf"),
        kind=kind,
        debit_account=wallet_account(debit, currency),
        credit_account=wallet_account(credit_to, currency),
        amount=amount,
        currency=currency,
        credit_role=credit_role,
        pending_id=pending_id,
        timeout_seconds=timeout_seconds,
    )


def group(
    *transfers: TransferOrder, id_: str = "", transaction_id: str | None = None, spender: str | None = None
) -> GroupOrder:
    """Transfers as one order."""
    return GroupOrder(
        id=id_ or fresh("grp"),
        transfers=transfers,
        transaction_id=transaction_id,
        spender=spender,
        actor="usr_payer",
        request_id="req_group",
    )


def payment(payer: str, merchant: str, amount: int, fee: int, *, id_: str = "", currency: str = "USD") -> GroupOrder:
    """What the payment service orders: the net amount to the merchant, the fee to the platform."""
    return group(
        transfer(payer, merchant, amount - fee, credit_role=Role.MERCHANT, currency=currency),
        transfer(payer, "fees", fee, currency=currency),
        id_=id_,
        transaction_id=new_id("pay", NOW),
        spender=payer,
    )


def hold(payer: str, merchant: str, amount: int, *, timeout_seconds: int | None = None) -> GroupOrder:
    """What the payment service orders where it is to be captured later; the transfer's id is the hold's."""
    order = transfer(payer, merchant, amount, kind=TransferKind.PENDING, timeout_seconds=timeout_seconds)
    return group(order, transaction_id=new_id("pay", NOW), spender=payer)


async def available(wallet: WalletService, owner: str, currency: str = "USD") -> int:
    """What the owner could spend right now."""
    view = unwrap(await wallet.wallet(ADMIN, owner))
    return next(balance.available for balance in view.balances if balance.currency == currency)


# --- over HTTP ----------------------------------------------------------------------------------------------------

INTERNAL_SECRET = "a secret that only the services of this test know"
_KEY = generate_private_key(SECP256R1())
_KEY_ID = "key-1"


def bearer(subject: str, role: Role = Role.CUSTOMER) -> dict[str, str]:
    """The header of somebody with a valid access token."""
    now = system_clock() // MICROSECONDS_PER_SECOND
    claims = {
        "iss": ISSUER,
        "sub": subject,
        "aud": AUDIENCE,
        "exp": now + 24 * 3600,  # modules make theirs when they are collected, and a slow machine runs them late
        "iat": now,
        "jti": fresh("jti"),
        "role": role,
    }
    return {"Authorization": f"Bearer {sign(claims, _KEY, _KEY_ID)}"}


async def _public_keys() -> PublicKeys:
    return {_KEY_ID: _KEY.public_key()}


class Listener:
    """Stands where notification stands, and remembers what it was told, unless it is made to forget."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.forgotten: set[str] = set()
        self.kept: list[KeptEvent] = []
        self.told = asyncio.Event()

    async def deliver(self, events: Sequence[Event]) -> Sequence[Undeliverable]:
        self.events += events
        self.told.set()
        return ()

    async def untold(self, events: Sequence[Event]) -> Sequence[str]:
        return [event.id for event in events if event.id in self.forgotten]

    async def kept_after(self, after: int) -> KeptEvents:
        items = self.kept[after:]
        return KeptEvents(items, len(self.kept) if items else None)


@dataclass(frozen=True)
class ServedWallet:
    """The wallet's application with its workers running, and a client of it."""

    service: WalletService
    application: Litestar
    client: httpx2.AsyncClient
    listener: Listener


@asynccontextmanager
async def _alive(application: Litestar) -> AsyncIterator[None]:
    """The application's lifespan in a task of its own: pytest ends a fixture in another task than it began it in."""
    started, over = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with application.lifespan():
            started.set()
            await over.wait()

    task = asyncio.create_task(live())
    async with asyncio.timeout(10):
        await started.wait()
    try:
        yield
    finally:
        over.set()
        await task


@asynccontextmanager
async def served_wallet(url: str, *, limits: str = "") -> AsyncIterator[ServedWallet]:
    """The whole wallet, from its HTTP side to its database."""
    migrate("wallet", url)
    listener = Listener()
    house = create_app(
        Settings(wallet_database_url=url, limits=limits),
        verifier=Verifier(_public_keys, system_clock),
        internal_secret=INTERNAL_SECRET,
        notification=listener,
    )
    large_bodies = {LINKED_PATH: MAXIMUM_LINKED_BYTES}
    edge = Edge(house.application, service="wallet", clock=system_clock, large_bodies=large_bodies)
    transport = httpx2.ASGITransport(app=edge)  # type: ignore[arg-type]  # the same protocol under two names
    async with (
        _alive(house.application),
        httpx2.AsyncClient(transport=transport, base_url="http://wallet") as client,
    ):
        yield ServedWallet(house.service, house.application, client, listener)
