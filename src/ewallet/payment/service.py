"""Payment's use cases: a payment is a saga of three local transactions (DESIGN section 5).

    T1  begin    payment: the intent, PENDING, with the idempotency key
    T2  move     wallet:  the group of transfers, or the refusal, stored under ids that derive from the payment's
    T3  settle   payment: PENDING to SUCCESS or FAILED, with history, audit record and event

Only the wallet's stored verdict settles a payment. An unknown outcome leaves it PENDING, and recovery goes on from T2
with the same ids.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, assert_never

import msgspec
import structlog
from msgspec import UNSET, Meta
from sqlalchemy import Connection, Row

from ewallet.kernel.caller import Caller, Role, platform
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock, rfc3339
from ewallet.kernel.errors import (
    InvariantBroken,
    OutcomeUnknown,
    Overloaded,
    Reason,
    Refusal,
    Refused,
    invalid,
    not_found,
)
from ewallet.kernel.ids import ID_PATTERN, derived_id, is_id, new_id
from ewallet.kernel.money import is_currency
from ewallet.payment import domain, messages, store
from ewallet.payment.domain import FeeSchedule, PaymentStatus
from ewallet.plumbing import failpoints
from ewallet.plumbing.audit import SUCCEEDED, AuditRecord
from ewallet.plumbing.batching import Batcher
from ewallet.plumbing.database import Database
from ewallet.plumbing.http.contract import decode_cursor, encode_cursor
from ewallet.plumbing.outbox import Event
from ewallet.plumbing.telemetry import PAYMENTS
from ewallet.wallet.client import WalletClient
from ewallet.wallet.messages import (
    GroupOrder,
    GroupOutcome,
    GroupPosted,
    GroupRefused,
    TransferOrder,
    fees_account,
    wallet_account,
)

log = structlog.get_logger()

REQUEST_SECONDS = 4.0
"""How long a request waits for its outcome; well within the gateway's own bound, so that the answer is ours."""

LEASE_SECONDS = 5
"""A request has given up by then, so recovery takes over; a restarted process finishes its payments within 10 s."""

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
"""Between repetitions of a step whose outcome is unknown."""

FAULTS_NAMED = 100
"""``verify`` names no more faults of one kind than a person would read."""

PaymentPosition = tuple[Annotated[str, Meta(pattern=ID_PATTERN)]]
"""Where a page of payments ends: an id."""

AuditPosition = tuple[Annotated[int, Meta(ge=0, le=2**63 - 1)]]
"""Where a page of the audit ends: a sequence."""


@dataclass(frozen=True, slots=True)
class Begin:
    """An item of T1."""

    payment: domain.Payment


@dataclass(frozen=True, slots=True)
class Settle:
    """An item of T3: the verdict on a PENDING payment, and on whose behalf it was asked for."""

    payment: domain.Payment
    failure: domain.Failure | None
    caller: Caller


Step = Begin | Settle


@dataclass(frozen=True, slots=True)
class Flight:
    """A payment that this process is carrying out; copies of its request wait for the same outcome."""

    payment: domain.Payment
    outcome: asyncio.Task[domain.Payment | Refusal]


@dataclass(frozen=True, slots=True)
class Answered:
    """What is stored for a request: the payment, or a failed one's refusal. ``replayed``: an earlier copy stored it."""

    answer: messages.Payment | Refusal
    replayed: bool


class PaymentService:
    """Payments from intent to outcome. ``events_added`` is called when there is something to relay."""

    def __init__(
        self,
        database: Database,
        wallet: WalletClient,
        *,
        fees: FeeSchedule,
        clock: Clock,
        events_added: Callable[[], None],
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._database = database
        self._wallet = wallet
        self._fees = fees
        self._clock = clock
        self._events_added = events_added
        self._request_seconds = request_seconds
        self._steps: Batcher[Step, domain.Payment] = Batcher(database, self._apply)
        self._flights: dict[str, Flight] = {}

    # --- paying ---------------------------------------------------------------------------------------------------

    async def initiate(self, caller: Caller, order: messages.InitiatePayment, key: str | None) -> Answered | Refusal:
        """Pay a merchant from the caller's wallet; once, however often it is asked with the same key.

        Refused before anything is stored: ``validation-error``, ``amount-too-small``, ``idempotency-key-reused``,
        ``request-in-progress``. The wallet's refusals are stored and part of :class:`Answered`. Refused with
        ``timeout`` is raised where the outcome is not known in time.
        """
        refusal = _refusal_of_order(order)
        if refusal is not None:
            return refusal
        request_hash = _hash(order)
        fee = self._fees.fee_on(order.amount, order.currency)
        if isinstance(fee, Refusal):
            return await self._earlier_answer(caller.subject, key, request_hash) or fee
        payment = _new_payment(caller, order, fee=fee, key=key, request_hash=request_hash, now=self._clock())
        outcome = await self._once(payment)
        return outcome if isinstance(outcome, Refusal) else _answered(outcome, replayed=outcome.id != payment.id)

    async def _earlier_answer(self, customer_id: str, key: str | None, request_hash: str) -> Answered | Refusal | None:
        """The answer to an earlier copy of a request that today's fees would refuse; None where there was none."""
        if key is None:
            return None
        identity = domain.identity_of(customer_id, key)
        found = await self._database.reading(lambda tx: store.find_by_identity(tx, [identity]))
        if not found:
            return None
        outcome = _outcome_of_copy(found[0], request_hash)
        return outcome if isinstance(outcome, Refusal) else _answered(outcome, replayed=True)

    async def _once(self, payment: domain.Payment) -> domain.Payment | Refusal:
        """Carry the payment out, or wait for the copy of it that is under way here.

        The work is a task of its own: a client that goes away does not stop it half-way.
        """
        flight = self._flights.get(payment.identity)
        if flight is None:
            flight = self._flights[payment.identity] = Flight(payment, asyncio.create_task(self._carry_out(payment)))
            flight.outcome.add_done_callback(lambda _outcome: self._flights.pop(payment.identity))
        elif flight.payment.request_hash != payment.request_hash:
            return _KEY_REUSED
        return await asyncio.shield(flight.outcome)

    async def _carry_out(self, payment: domain.Payment) -> domain.Payment | Refusal:
        """The saga of one request: T1, then T2 and T3 unless the key names an earlier payment."""
        deadline = time.monotonic() + self._request_seconds
        failpoints.reached("payment.begin.before")
        stored = await self._steps.submit(Begin(payment), deadline=deadline)
        if stored.id != payment.id:
            return _outcome_of_copy(stored, payment.request_hash)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                failure = await self._move(payment)
            return await self._settle(payment, failure, _customer(payment))
        except (OutcomeUnknown, Overloaded, TimeoutError) as error:
            log.warning("payment.outcome_unknown", payment=payment.id, error=repr(error))
            raise Refused(_unknown_outcome(payment)) from error

    async def _move(self, payment: domain.Payment) -> domain.Failure | None:
        """T2: the wallet's verdict, asked for until it comes; the caller sets the time limit."""
        order, pauses = _group_order(payment), _pauses()
        while True:
            try:
                failpoints.reached("payment.move.before")
                outcome = await self._wallet.post_group(order)
                failpoints.reached("payment.move.after")
                return _failure(outcome)
            except (OutcomeUnknown, Overloaded) as error:
                log.debug("payment.wallet_unclear", payment=payment.id, error=str(error))
                await asyncio.sleep(next(pauses))

    async def _settle(self, payment: domain.Payment, failure: domain.Failure | None, caller: Caller) -> domain.Payment:
        """T3: write the verdict down; the answer is what is stored, whoever was first."""
        failpoints.reached("payment.settle.before")
        stored = await self._steps.submit(Settle(payment, failure, caller))
        PAYMENTS.labels(stored.status.value).inc()
        self._events_added()
        return stored

    # --- the transactions of T1 and T3, many payments at a time ---------------------------------------------------

    def _apply(self, tx: Connection, steps: Sequence[Step]) -> list[domain.Payment]:
        now = self._clock()
        begun = store.create(
            tx,
            [step.payment for step in steps if isinstance(step, Begin)],
            lease_until=now + LEASE_SECONDS * MICROSECONDS_PER_SECOND,
        )
        if begun:
            failpoints.reached("payment.begin.written")
        settled = _apply_verdicts(tx, [step for step in steps if isinstance(step, Settle)], now)
        if settled:
            failpoints.reached("payment.settle.written")
        begun_in_order = iter(begun)
        return [next(begun_in_order) if isinstance(step, Begin) else settled[step.payment.id] for step in steps]

    # --- recovery -------------------------------------------------------------------------------------------------

    async def claim_overdue(self, limit: int) -> list[domain.Payment]:
        """Take over payments that whoever began them has not finished in time."""
        now = self._clock()
        overdue = await self._database.reading(lambda tx: store.overdue(tx, now=now, limit=limit))
        if not overdue:
            return []
        until = now + LEASE_SECONDS * MICROSECONDS_PER_SECOND
        claimed = await self._database.writing(
            lambda tx: [payment for payment, lease in overdue if store.claim(tx, payment, lease=lease, until=until)]
        )
        failpoints.reached("payment.claim.after")
        return claimed

    async def finish(self, payment: domain.Payment) -> domain.Payment:
        """Go on from T2 with the same ids as the request. OutcomeUnknown, Overloaded, TimeoutError: try again later."""
        async with asyncio.timeout(self._request_seconds):
            failure = await self._move(payment)
        return await self._settle(payment, failure, platform(payment.request_id))

    async def drain(self) -> None:
        """Wait for what is under way, so that a clean stop leaves nothing to recover."""
        if self._flights:
            await asyncio.wait([flight.outcome for flight in self._flights.values()])

    # --- looking --------------------------------------------------------------------------------------------------

    async def find(self, caller: Caller, payment_id: str) -> messages.Payment | Refusal:
        """One payment. Refused with ``not-found``."""
        payment = await self._visible(caller, payment_id)
        return payment if isinstance(payment, Refusal) else _message(payment)

    async def history(self, caller: Caller, payment_id: str) -> messages.PaymentHistory | Refusal:
        """Every state of one payment. Refused with ``not-found``."""
        payment = await self._visible(caller, payment_id)
        if isinstance(payment, Refusal):
            return payment
        rows = await self._database.reading(lambda tx: store.history_of(tx, payment_id))
        return messages.PaymentHistory(items=[_history_entry(row) for row in rows])

    async def _visible(self, caller: Caller, payment_id: str) -> domain.Payment | Refusal:
        if not is_id(payment_id, "pay"):
            return _NO_SUCH_PAYMENT
        found = await self._database.reading(lambda tx: store.find(tx, [payment_id]))
        return found[0] if found and found[0].belongs_to(caller) else _NO_SUCH_PAYMENT

    async def list_payments(
        self,
        caller: Caller,
        *,
        status: PaymentStatus | None,
        since: int | None,
        until: int | None,
        limit: int,
        cursor: str | None,
    ) -> messages.PaymentList:
        """The caller's payments, newest first; staff see everybody's. ``since`` is included, ``until`` is not."""
        before = decode_cursor(cursor, PaymentPosition)[0] if cursor is not None else None
        found = await self._database.reading(
            lambda tx: store.page(
                tx,
                customer_id=caller.subject if caller.role is Role.CUSTOMER else None,
                merchant_id=caller.subject if caller.role is Role.MERCHANT else None,
                status=status,
                since=since,
                until=until,
                before=before,
                limit=limit + 1,
            )
        )
        return messages.PaymentList(
            items=[_message(payment) for payment in found[:limit]],
            next_cursor=encode_cursor(found[limit - 1].id) if len(found) > limit else None,
        )

    async def audit_trail(
        self, _caller: Caller, *, subject: str | None, request_id: str | None, limit: int, cursor: str | None
    ) -> messages.AuditTrail:
        """Audit records, newest first."""
        before = decode_cursor(cursor, AuditPosition)[0] if cursor is not None else None
        rows = await self._database.reading(
            lambda tx: store.audit.find(tx, subject=subject, request_id=request_id, before=before, limit=limit + 1)
        )
        return messages.AuditTrail(
            items=[_audit_entry(row) for row in rows[:limit]],
            next_cursor=encode_cursor(rows[limit - 1].sequence) if len(rows) > limit else None,
        )

    def verify(self) -> list[str]:
        """A sentence for each fault in the audit chain, the payments and their history.

        Reads everything: for the command line, not for requests.
        """
        return self._database.snapshot(_faults)


def _faults(tx: Connection) -> list[str]:
    audit_fault = store.audit.first_fault(tx)
    return [*([audit_fault] if audit_fault else []), *store.faults(tx, limit=FAULTS_NAMED)]


# --- T3 -----------------------------------------------------------------------------------------------------------


def _apply_verdicts(tx: Connection, steps: Sequence[Settle], now: int) -> dict[str, domain.Payment]:
    """The payments as they are stored in the end, by id: moved by these steps, or found moved already."""
    settled = {step.payment.id: domain.settled(step.payment, step.failure, now) for step in steps}
    callers = {step.payment.id: step.caller for step in steps}
    moved_ids = store.settle(tx, settled.values())
    moved = [payment for payment in settled.values() if payment.id in moved_ids]
    store.add_history(tx, ((payment, callers[payment.id].subject) for payment in moved))
    store.audit.append(tx, now, [_audit_of(payment, callers[payment.id]) for payment in moved])
    store.outbox.add(tx, [_event_of(payment) for payment in moved])
    moved_before = store.find(tx, settled.keys() - moved_ids)
    return settled | {payment.id: payment for payment in moved_before}


def _audit_of(payment: domain.Payment, caller: Caller) -> AuditRecord:
    return AuditRecord.of(
        caller,
        domain.event_name(payment),
        payment.id,
        result=payment.failure.reason.value if payment.failure else SUCCEEDED,
        customerId=payment.customer_id,
        merchantId=payment.merchant_id,
        amount=payment.amount,
        fee=payment.fee,
        currency=payment.currency,
    )


def _event_of(payment: domain.Payment) -> Event:
    name = domain.event_name(payment)
    return Event(
        id=derived_id("evt", payment.id, name),
        name=name,
        ordering_key=payment.id,
        recipients=domain.recipients(payment),
        data=domain.event_data(payment),
        occurred_at=payment.updated_at,
        request_id=payment.request_id,
    )


# --- requests and their copies ------------------------------------------------------------------------------------

_NO_SUCH_PAYMENT = not_found("payment")
_KEY_REUSED = Refusal(
    Reason.IDEMPOTENCY_KEY_REUSED, "This Idempotency-Key belongs to another request: a new payment needs a new key."
)
_IN_PROGRESS = Refusal(
    Reason.REQUEST_IN_PROGRESS,
    "The first request with this key is still being carried out: ask again with the same key.",
    retry_after_seconds=1,
)

_canonical = msgspec.json.Encoder(order="sorted").encode


def _refusal_of_order(order: messages.InitiatePayment) -> Refusal | None:
    if not is_currency(order.currency):
        return invalid("/currency", f"{order.currency} is not a currency of ISO 4217 that the platform knows.")
    if not order.capture:
        return invalid("/capture", "Holding money to capture it later is not available yet: leave capture out.")
    return None


def _hash(order: messages.InitiatePayment) -> str:
    """What two requests have in common if and only if they ask for the same."""
    return hashlib.sha256(b"initiate" + _canonical(order)).hexdigest()


def _new_payment(
    caller: Caller, order: messages.InitiatePayment, *, fee: int, key: str | None, request_hash: str, now: int
) -> domain.Payment:
    payment_id = new_id("pay", now)
    return domain.Payment(
        id=payment_id,
        customer_id=caller.subject,
        merchant_id=order.merchant_id,
        amount=order.amount,
        fee=fee,
        currency=order.currency,
        reference=order.reference,
        description=order.description,
        metadata=order.metadata,
        identity=payment_id if key is None else domain.identity_of(caller.subject, key),
        request_hash=request_hash,
        request_id=caller.request_id,
        created_at=now,
        updated_at=now,
    )


def _customer(payment: domain.Payment) -> Caller:
    return Caller(payment.customer_id, Role.CUSTOMER, payment.request_id)


def _outcome_of_copy(stored: domain.Payment, request_hash: str) -> domain.Payment | Refusal:
    """What a later request with the key of a stored payment gets."""
    if stored.request_hash != request_hash:
        return _KEY_REUSED
    return _IN_PROGRESS if stored.status is PaymentStatus.PENDING else stored


def _unknown_outcome(payment: domain.Payment) -> Refusal:
    return Refusal(
        Reason.TIMEOUT,
        "The outcome is not known yet. It will be within seconds: look at the payment, or repeat with the same key.",
        members={"transactionId": payment.id},
        retry_after_seconds=1,
    )


def _answered(payment: domain.Payment, *, replayed: bool) -> Answered:
    return Answered(domain.refusal_of(payment) or _message(payment), replayed)


# --- the wallet's words -------------------------------------------------------------------------------------------


def _group_order(payment: domain.Payment) -> GroupOrder:
    """The same order however often it is sent: everything in it is stored with the payment."""
    return GroupOrder(
        id=domain.group_id(payment),
        transfers=tuple(_transfer_order(payment, leg) for leg in domain.legs(payment)),
        transaction_id=payment.id,
        reference=payment.reference,
        description=payment.description,
        actor=payment.customer_id,
        request_id=payment.request_id,
    )


def _transfer_order(payment: domain.Payment, leg: domain.Leg) -> TransferOrder:
    to_merchant = leg.payee is domain.Payee.MERCHANT
    return TransferOrder(
        id=leg.id,
        debit_account=wallet_account(payment.customer_id, payment.currency),
        credit_account=(
            wallet_account(payment.merchant_id, payment.currency) if to_merchant else fees_account(payment.currency)
        ),
        amount=leg.amount,
        currency=payment.currency,
        credit_role=Role.MERCHANT if to_merchant else None,
    )


def _failure(outcome: GroupOutcome) -> domain.Failure | None:
    match outcome:
        case GroupPosted():
            return None
        case GroupRefused(reason=Reason.IDEMPOTENCY_KEY_REUSED):
            # The id is ours alone, so this is no verdict on the payment: the money may have moved. It stays PENDING.
            raise InvariantBroken(f"the wallet knows another order by our id: {outcome.detail}")
        case GroupRefused():
            return domain.Failure(outcome.reason, outcome.detail)
    assert_never(outcome)


def _pauses() -> Iterator[float]:
    """Growing, jittered pauses without end: whoever waits sets the limit."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311  # jitter needs no secrecy
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


# --- rendering ----------------------------------------------------------------------------------------------------


def _message(payment: domain.Payment) -> messages.Payment:
    return messages.Payment(
        transaction_id=payment.id,
        status=payment.status,
        customer_id=payment.customer_id,
        merchant_id=payment.merchant_id,
        amount=payment.amount,
        fee=payment.fee,
        net_amount=payment.net_amount,
        refunded_amount=payment.refunded_amount,
        currency=payment.currency,
        reference=payment.reference,
        description=payment.description,
        metadata=dict(payment.metadata),
        failure_reason=payment.failure.reason.code if payment.failure else None,
        created_at=rfc3339(payment.created_at),
        updated_at=rfc3339(payment.updated_at),
    )


def _history_entry(row: Row[Any]) -> messages.HistoryEntry:
    return messages.HistoryEntry(status=row.status, at=rfc3339(row.at), actor=row.actor, reason=row.reason or UNSET)


def _audit_entry(row: Row[Any]) -> messages.AuditEntry:
    return messages.AuditEntry(
        sequence=row.sequence,
        at=rfc3339(row.at),
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        request_id=row.request_id,
        result=row.result,
        detail=msgspec.json.decode(row.detail),
        hash=row.hash,
    )
