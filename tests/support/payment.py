"""Payment as its tests meet it: real databases and tokens, and a wallet in memory that can be made to misbehave."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import httpx2
import msgspec
import pymysql
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import InvariantBroken, OutcomeUnknown, Overloaded, Reason
from ewallet.kernel.ids import new_id
from ewallet.payment import messages, store
from ewallet.payment.app import create_app
from ewallet.payment.domain import FeeSchedule
from ewallet.payment.service import Answered, PaymentService
from ewallet.plumbing.database import Database, open_database, transaction_open
from ewallet.plumbing.http.edge import Edge
from ewallet.plumbing.migrations import migrate
from ewallet.plumbing.outbox import Event, Undeliverable
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import AUDIENCE, ISSUER, PublicKeys, Verifier, sign
from ewallet.wallet.messages import (
    GroupOrder,
    GroupOutcome,
    GroupPosted,
    GroupRefused,
    OpenWallet,
    TransferOrder,
    fees_account,
    wallet_account,
)

NOW = 1_790_000_000_000_000
KEY = generate_private_key(SECP256R1())
KEY_ID = "key-1"
TWO_PERCENT = FeeSchedule.parse("", default_basis_points=200)

CUSTOMER = new_id("usr", NOW)
MERCHANT = new_id("usr", NOW)
STRANGER = new_id("usr", NOW)

_numbers = count(1)

# --- a wallet in memory -------------------------------------------------------------------------------------------

Fault = Callable[["MemoryWallet", GroupOrder], GroupOutcome]
"""What happens to one call instead of the ordinary."""


def request_lost(_wallet: "MemoryWallet", _order: GroupOrder) -> GroupOutcome:
    """Nothing arrives."""
    raise OutcomeUnknown("the request was lost")


def reply_lost(wallet: "MemoryWallet", order: GroupOrder) -> GroupOutcome:
    """The money moves, and nobody hears of it."""
    wallet.apply(order)
    raise OutcomeUnknown("the reply was lost")


def broken_for(group_id: str) -> Fault:
    """A bug that one group meets, every time."""

    def fault(wallet: "MemoryWallet", order: GroupOrder) -> GroupOutcome:
        if order.id == group_id:
            raise InvariantBroken("this group cannot be")
        return wallet.apply(order)

    return fault


def no_room(_wallet: "MemoryWallet", _order: GroupOrder) -> GroupOutcome:
    """The wallet is too busy to begin."""
    raise Overloaded("the queue is full")


def group_refused(order: GroupOrder, verdict: str, reason: Reason) -> GroupRefused:
    """A verdict of the wallet's against an order."""
    return GroupRefused(id=order.id, verdict=verdict, reason=reason, detail=f"Refused: {verdict}.")


@dataclass
class MemoryWallet:
    """Satisfies ``WalletClient``: groups are all or none, and an id has one outcome for ever.

    ``faults`` happen to the next calls, one each; ``always`` happens to all others where it is set. ``gate``, where
    set, holds calls back until the test opens it; ``called`` can be acquired once for each.
    """

    balances: dict[str, int] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=lambda: {CUSTOMER: Role.CUSTOMER, MERCHANT: Role.MERCHANT})
    outcomes: dict[str, GroupOutcome] = field(default_factory=dict)
    orders: list[GroupOrder] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    gate: asyncio.Event | None = None
    called: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def open_wallet(self, order: OpenWallet) -> None:
        self.roles.setdefault(order.owner, order.role)

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        assert not transaction_open(), "the wallet was called inside a transaction"
        self.orders.append(order)
        self.called.release()
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        fault = self.faults.pop(0) if self.faults else self.always
        return fault(self, order) if fault else self.apply(order)

    async def try_group(self, order: GroupOrder) -> GroupOutcome:
        return replace(self, balances={**self.balances}, outcomes={**self.outcomes}).apply(order)

    async def abandon_group(self, order: GroupOrder) -> GroupOutcome:
        return self.outcomes.setdefault(order.id, group_refused(order, "group_was_abandoned", Reason.ABANDONED))

    def apply(self, order: GroupOrder) -> GroupOutcome:
        if order.id not in self.outcomes:
            self.outcomes[order.id] = self._decide(order)
        return self.outcomes[order.id]

    def credit(self, owner: str, amount: int, currency: str = "USD") -> None:
        account = wallet_account(owner, currency)
        self.balances[account] = self.balances.get(account, 0) + amount

    def balance(self, owner: str, currency: str = "USD") -> int:
        return self.balances.get(wallet_account(owner, currency), 0)

    def fees(self, currency: str = "USD") -> int:
        return self.balances.get(fees_account(currency), 0)

    @property
    def groups_posted(self) -> int:
        return sum(isinstance(outcome, GroupPosted) for outcome in self.outcomes.values())

    def _decide(self, order: GroupOrder) -> GroupOutcome:
        for transfer in order.transfers:
            owner = transfer.credit_account.partition(":")[0]
            if transfer.credit_role is not None and self.roles.get(owner) is not transfer.credit_role:
                return group_refused(order, "credit_owner_must_have_the_role", Reason.UNKNOWN_MERCHANT)
        payer = order.transfers[0].debit_account
        if self.balances.get(payer, 0) < sum(transfer.amount for transfer in order.transfers):
            return group_refused(order, "exceeds_credits", Reason.INSUFFICIENT_FUNDS)
        for transfer in order.transfers:
            self._post(transfer)
        return GroupPosted(id=order.id, posted_at=NOW)

    def _post(self, transfer: TransferOrder) -> None:
        self.balances[transfer.debit_account] = self.balances.get(transfer.debit_account, 0) - transfer.amount
        self.balances[transfer.credit_account] = self.balances.get(transfer.credit_account, 0) + transfer.amount


# --- the service --------------------------------------------------------------------------------------------------


class HandClock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now

    def forward(self, *, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)


@contextmanager
def payment_database(url: str) -> Iterator[Database]:
    """The connections of one process to a migrated database."""
    migrate("payment", url)
    database = open_database(url, "payment")
    try:
        yield database
    finally:
        database.close()


def payment_service(
    database: Database,
    wallet: MemoryWallet,
    *,
    clock: Callable[[], int] = system_clock,
    request_seconds: float = 2.0,
    fees: FeeSchedule = TWO_PERCENT,
) -> PaymentService:
    """The use cases of one process, without workers."""
    return PaymentService(
        database, wallet, fees=fees, clock=clock, events_added=lambda: None, request_seconds=request_seconds
    )


def caller(subject: str = CUSTOMER, role: Role = Role.CUSTOMER, request_id: str = "req_test") -> Caller:
    return Caller(subject, role, request_id)


ADMIN = caller("usr_admin", Role.ADMIN)


def order(merchant_id: str = MERCHANT, amount: int = 1000, **changes: Any) -> messages.InitiatePayment:
    return messages.InitiatePayment(merchant_id=merchant_id, amount=amount, **{"currency": "USD", **changes})


async def pay(
    service: PaymentService,
    order: messages.InitiatePayment,
    key: str | None = None,
    *,
    by: Caller | None = None,
) -> Answered:
    """Initiate a payment whose outcome is stored."""
    answered = await service.initiate(by or caller(), order, key)
    assert isinstance(answered, Answered), answered
    return answered


async def paid(service: PaymentService, order: messages.InitiatePayment, key: str | None = None) -> messages.Payment:
    """Initiate a payment that succeeds."""
    answer = (await pay(service, order, key)).answer
    assert isinstance(answer, messages.Payment), answer
    return answer


def outbox_events(database: Database) -> list[Event]:
    """What waits to be relayed, in order."""
    rows = database.read(lambda tx: store.outbox.due(tx, NOW))
    return [msgspec.json.decode(row.payload, type=Event) for row in rows]


# --- broken connections -------------------------------------------------------------------------------------------


@contextmanager
def commits_lost(database: Database, *, times: int) -> Iterator[None]:
    """The next commits take effect, but the word of it is lost."""
    left = times
    commit = database._writer.dialect.do_commit

    def lose(connection: Any) -> None:
        nonlocal left
        commit(connection)
        if left > 0:
            left -= 1
            raise connection_lost(database)

    with _commits(database, lose):
        yield


@contextmanager
def commits_refused(database: Database) -> Iterator[None]:
    """No commit takes effect, for a reason that may pass."""

    def refuse(_connection: Any) -> None:
        raise connection_lost(database)

    with _commits(database, refuse):
        yield


@contextmanager
def _commits(database: Database, commit: Callable[[Any], None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database._writer.dialect, "do_commit", commit)
        yield


def connection_lost(database: Database) -> Exception:
    """What a driver says when doing it again may help."""
    if database.dialect == "mysql":
        return pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error


# --- over HTTP ----------------------------------------------------------------------------------------------------


class MemoryNotification:
    """Satisfies ``NotificationClient``: keeps what is delivered until the test takes it."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def deliver(self, events: Sequence[Event]) -> Sequence[Undeliverable]:
        for event in events:
            self._events.put_nowait(event)
        return []

    async def next_event(self) -> Event:
        return await self._events.get()


def bearer(subject: str = CUSTOMER, role: Role = Role.CUSTOMER, *, seconds: int = 600) -> dict[str, str]:
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": subject,
        "aud": AUDIENCE,
        "exp": now + seconds,
        "iat": now,
        "jti": f"jti-{next(_numbers)}",
        "role": role,
    }
    return {"Authorization": f"Bearer {sign(claims, KEY, KEY_ID)}"}


def verifier() -> Verifier:
    async def fetch_keys() -> PublicKeys:
        return {KEY_ID: KEY.public_key()}

    return Verifier(fetch_keys, system_clock)


@asynccontextmanager
async def served(
    url: str, wallet: MemoryWallet, notification: MemoryNotification | None = None, **settings: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the whole service with its workers, behind its edge."""
    migrate("payment", url)
    house = create_app(
        Settings(payment_database_url=url, **settings),
        verifier=verifier(),
        internal_secret="",
        wallet=wallet,
        notification=notification or MemoryNotification(),
    )
    edge: Any = Edge(house.application, service="payment", clock=system_clock)
    started, stop = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with house.application.lifespan():
            started.set()
            await stop.wait()

    # A fixture begins and ends in different tasks, which a lifespan must not.
    living = asyncio.create_task(live())
    await started.wait()
    try:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=edge), base_url="http://payment") as client:
            yield client
    finally:
        stop.set()
        await living
