"""Payment as its tests meet it: real databases and tokens, and a wallet in memory that can be made to misbehave."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol, cast

import httpx2
import msgspec
import pymysql
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from sqlalchemy import select

from ewallet.gateway.domain import LARGE_BODIES
from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import InvariantBroken, OutcomeUnknown, Overloaded, Reason, Refusal
from ewallet.kernel.ids import new_id
from ewallet.payment import messages, store
from ewallet.payment.app import create_app
from ewallet.payment.domain.fees import FeeSchedule
from ewallet.payment.service import Answered, PaymentService
from ewallet.plumbing.database import Database, open_database, transaction_open
from ewallet.plumbing.http.edge import Edge
from ewallet.plumbing.outbox import Event, Undeliverable
from ewallet.plumbing.reconciling import KeptEvents
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import AUDIENCE, ISSUER, PublicKeys, Verifier, sign
from ewallet.wallet.client import WalletBooks, WalletClient
from ewallet.wallet.messages import (
    CreditOrder,
    CreditOutcome,
    GroupOrder,
    GroupOutcome,
    GroupPosted,
    GroupRefused,
    OpenWallet,
    TransferKind,
    TransferOrder,
    fees_account,
    wallet_account,
)
from tests.support.migrated import migrate

NOW = 1_790_000_000_000_000
KEY = generate_private_key(SECP256R1())
KEY_ID = "key-1"
HOLD_SECONDS = 7 * 24 * 3600
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


class DiedError(Exception):
    """The process has come to its end here, as far as its work is concerned."""


def died_before(_wallet: "MemoryWallet", _order: GroupOrder) -> GroupOutcome:
    """The process dies when nothing has been sent yet."""
    raise DiedError


def died_after(wallet: "MemoryWallet", order: GroupOrder) -> GroupOutcome:
    """The process dies when the wallet has done it."""
    wallet.apply(order)
    raise DiedError


def broken_for(group_id: str) -> Fault:
    """A bug that one group meets, every time."""

    def fault(wallet: "MemoryWallet", order: GroupOrder) -> GroupOutcome:
        if order.id == group_id:
            raise InvariantBroken("this group cannot be")
        return wallet.apply(order)

    return fault


def refusing(verdict: str, reason: Reason) -> Fault:
    """The wallet's stored verdict on the next order."""

    def fault(wallet: "MemoryWallet", order: GroupOrder) -> GroupOutcome:
        return wallet.outcomes.setdefault(order.id, group_refused(order, verdict, reason))

    return fault


frozen = refusing("credit_account_frozen", Reason.WALLET_FROZEN)
closed = refusing("credit_account_closed", Reason.WALLET_CLOSED)


def no_room(_wallet: "MemoryWallet", _order: GroupOrder) -> GroupOutcome:
    """The wallet is too busy to begin."""
    raise Overloaded("the queue is full")


def group_refused(order: GroupOrder, verdict: str, reason: Reason) -> GroupRefused:
    """A verdict of the wallet's against an order."""
    return GroupRefused(id=order.id, verdict=verdict, reason=reason, detail=f"Refused: {verdict}.")


@dataclass
class Held:
    """A hold; ``ended`` is the verdict on whoever comes too late."""

    amount: int
    ends_at: int
    ended: str = ""


@dataclass
class MemoryWallet:
    """Satisfies ``WalletClient``: groups are all or none, and an id has one outcome for ever.

    ``faults`` happen to the next calls, one each; ``always`` happens to all others where it is set. ``gate``, where
    set, holds calls back until the test opens it; ``called`` can be acquired once for each. ``balances`` are what is
    available. While it is ``away`` it answers nobody.
    """

    balances: dict[str, int] = field(default_factory=dict)
    holds: dict[str, Held] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=lambda: {CUSTOMER: Role.CUSTOMER, MERCHANT: Role.MERCHANT})
    outcomes: dict[str, GroupOutcome] = field(default_factory=dict)
    orders: list[GroupOrder] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    away: bool = False
    gate: asyncio.Event | None = None
    called: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    clock: Callable[[], int] = system_clock

    async def open_wallet(self, order: OpenWallet) -> None:
        self.roles.setdefault(order.owner, order.role)

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        assert not transaction_open(), "the wallet was called inside a transaction"
        self.orders.append(order)
        self.called.release()
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        self._answer_at_all()
        fault = self.faults.pop(0) if self.faults else self.always
        return fault(self, order) if fault else self.apply(order)

    async def post_linked(self, orders: Sequence[GroupOrder]) -> Sequence[GroupOutcome]:
        """Without faults: where all or nothing can go wrong, the tests have the real wallet."""
        imagined = replace(self, balances={**self.balances}, holds={**self.holds}, outcomes={**self.outcomes})
        tried = {order.id: imagined.apply(order) for order in orders}
        refused = next((each for each in tried.values() if isinstance(each, GroupRefused)), None)
        if refused is None:
            return [self.apply(order) for order in orders]
        others = {order.id: group_refused(order, "linked_group_was_refused", Reason.BULK_REFUSED) for order in orders}
        return [self.outcomes.setdefault(key, each) for key, each in (others | {refused.id: refused}).items()]

    async def try_group(self, order: GroupOrder) -> GroupOutcome:
        self._answer_at_all()
        imagined = replace(self, balances={**self.balances}, holds={**self.holds}, outcomes={**self.outcomes})
        return imagined.apply(order)

    async def abandon_group(self, order: GroupOrder) -> GroupOutcome:
        self._answer_at_all()
        return self.outcomes.setdefault(order.id, group_refused(order, "group_was_abandoned", Reason.ABANDONED))

    async def book_credit(self, order: CreditOrder) -> CreditOutcome:
        raise AssertionError(f"credits take the real wallet: {order}")

    def _answer_at_all(self) -> None:
        if self.away:
            raise OutcomeUnknown("nobody is there")

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
    def held(self) -> int:
        return sum(hold.amount for hold in self.holds.values() if not hold.ended)

    @property
    def groups_posted(self) -> int:
        return sum(isinstance(outcome, GroupPosted) for outcome in self.outcomes.values())

    def _decide(self, order: GroupOrder) -> GroupOutcome:
        balances, holds = {**self.balances}, {**self.holds}
        for transfer in order.transfers:
            verdict = self._verdict_against(transfer)
            if verdict is not None:
                self.balances, self.holds = balances, holds
                return group_refused(order, *verdict)
            self._apply(transfer)
        return GroupPosted(id=order.id, posted_at=self.clock())

    def _verdict_against(self, transfer: TransferOrder) -> tuple[str, Reason] | None:
        payee = transfer.credit_account.partition(":")[0]
        if transfer.pending_id is not None:
            hold = self.holds[transfer.pending_id]
            ended = hold.ended or ("pending_transfer_expired" if hold.ends_at <= self.clock() else "")
            return (ended, Reason.INVALID_STATE) if ended else None
        if transfer.credit_role is not None and self.roles.get(payee) is not transfer.credit_role:
            return "credit_owner_must_have_the_role", Reason.UNKNOWN_MERCHANT
        if self.balances.get(transfer.debit_account, 0) < transfer.amount:
            return "exceeds_credits", Reason.INSUFFICIENT_FUNDS
        return None

    def _apply(self, transfer: TransferOrder) -> None:
        match transfer.kind:
            case TransferKind.PENDING:
                ends_at = self.clock() + (transfer.timeout_seconds or 0) * 1_000_000
                self.holds[transfer.id] = Held(transfer.amount, ends_at)
                self._add(transfer.debit_account, -transfer.amount)
            case TransferKind.POSTED:
                self._add(transfer.debit_account, -transfer.amount)
                self._add(transfer.credit_account, transfer.amount)
            case TransferKind.POST:
                hold = self._end(transfer, "pending_transfer_already_posted")
                self._add(transfer.debit_account, hold.amount - transfer.amount)
                self._add(transfer.credit_account, transfer.amount)
            case TransferKind.VOID:
                hold = self._end(transfer, "pending_transfer_already_voided")
                self._add(transfer.debit_account, hold.amount)

    def _end(self, transfer: TransferOrder, verdict: str) -> Held:
        assert transfer.pending_id is not None
        self.holds[transfer.pending_id] = replace(self.holds[transfer.pending_id], ended=verdict)
        return self.holds[transfer.pending_id]

    def _add(self, account: str, amount: int) -> None:
        self.balances[account] = self.balances.get(account, 0) + amount


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
    wallet: WalletClient,
    *,
    clock: Callable[[], int] = system_clock,
    request_seconds: float = 2.0,
    fees: FeeSchedule = TWO_PERCENT,
) -> PaymentService:
    """The use cases of one process, without workers."""
    return PaymentService(
        database,
        wallet,
        fees=fees,
        hold_seconds=HOLD_SECONDS,
        clock=clock,
        events_added=lambda: None,
        request_seconds=request_seconds,
    )


def caller(subject: str = CUSTOMER, role: Role = Role.CUSTOMER, request_id: str = "req_test") -> Caller:
    return Caller(subject, role, request_id)


ADMIN = caller("usr_admin", Role.ADMIN)
SHOP = caller(MERCHANT, Role.MERCHANT, "req_shop")


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


async def authorized(service: PaymentService, amount: int = 1000) -> str:
    """The id of a payment whose money is held."""
    payment = await paid(service, order(amount=amount, capture=False))
    assert payment.status == "AUTHORIZED"
    return payment.transaction_id


class Operate(Protocol):
    """Does something to a payment, with an idempotency key or without."""

    __name__: str

    def __call__(
        self, service: PaymentService, payment_id: str, key: str | None = None, *, by: Caller = SHOP
    ) -> Coroutine[Any, Any, Answered | Refusal]: ...


async def capture(
    service: PaymentService, payment_id: str, key: str | None = None, *, amount: int | None = None, by: Caller = SHOP
) -> Answered | Refusal:
    return await service.capture(by, payment_id, messages.CapturePayment(amount=amount), key)


async def void(
    service: PaymentService, payment_id: str, key: str | None = None, *, by: Caller = SHOP
) -> Answered | Refusal:
    return await service.void(by, payment_id, messages.VoidPayment(), key)


async def refund(
    service: PaymentService,
    payment_id: str,
    key: str | None = None,
    *,
    amount: int | None = None,
    reason: str | None = None,
    by: Caller = SHOP,
) -> Answered | Refusal:
    return await service.refund(by, payment_id, messages.RefundPayment(amount=amount, reason=reason), key)


def payment_of(answered: Answered | Refusal) -> messages.Payment:
    """The payment that a request was answered with."""
    assert isinstance(answered, Answered), answered
    assert isinstance(answered.answer, messages.Payment), answered.answer
    return answered.answer


def refund_of(answered: Answered | Refusal) -> messages.Refund:
    """The refund that a request was answered with."""
    assert isinstance(answered, Answered), answered
    assert isinstance(answered.answer, messages.Refund), answered.answer
    return answered.answer


def refused(answered: Answered | Refusal) -> Refusal:
    """The refusal that a request was answered with, stored or not."""
    refusal = answered.answer if isinstance(answered, Answered) else answered
    assert isinstance(refusal, Refusal), refusal
    return refusal


async def now(service: PaymentService, payment_id: str) -> messages.Payment:
    """The payment as it is."""
    payment = await service.find(ADMIN, payment_id)
    assert isinstance(payment, messages.Payment)
    return payment


async def states(service: PaymentService, transaction_id: str) -> list[tuple[str, str]]:
    """Every state of a payment and who brought it there."""
    history = await service.history(ADMIN, transaction_id)
    assert isinstance(history, messages.PaymentHistory)
    return [(entry.status, entry.actor) for entry in history.items]


def outbox_events(database: Database) -> list[Event]:
    """What waits to be relayed, in order."""
    events = store.outbox.events
    rows = database.read(lambda tx: tx.execute(select(events).order_by(events.c.sequence)).all())
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

    async def untold(self, _events: Sequence[Event]) -> Sequence[str]:
        return ()

    async def kept_after(self, _after: int) -> KeptEvents:
        return KeptEvents([], None)

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
    url: str, wallet: WalletClient, notification: MemoryNotification | None = None, **settings: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the whole service with its workers, behind its edge."""
    migrate("payment", url)
    house = create_app(
        Settings(payment_database_url=url, reconcile_seconds=0, **settings),
        verifier=verifier(),
        internal_secret="",
        wallet=cast(WalletBooks, wallet),  # which are not read: nothing is compared
        notification=notification or MemoryNotification(),
    )
    edge: Any = Edge(house.application, service="payment", clock=system_clock, large_bodies=LARGE_BODIES)
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
