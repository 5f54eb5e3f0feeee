"""The saga: how a payment, or an operation on one, comes from intent to verdict in three local transactions.

    T1  begin    payment: the intent, PENDING, with the idempotency key
    T2  move     wallet:  the group of transfers, or the refusal, stored under ids that derive from the intent's
    T3  settle   payment: the verdict, with history, audit record and event

    intent           T2 asks the wallet for                       and T3 makes the payment
    payment          net to the merchant, fee to the platform     SUCCESS, or FAILED
    payment to hold  a hold of the whole amount                   AUTHORIZED, or FAILED; the hold's expiry begins
    capture          post of the hold, fee to the platform        SUCCESS
     · refused for good: void of the hold                         VOIDED, the capture FAILED
    void             void of the hold                             VOIDED
    expiry           void of the hold, if it is still there       EXPIRED
    refund           a part from the merchant to the customer     PARTIALLY_REFUNDED or REFUNDED

    bulk             all of many payments, or none               as each of them, or all FAILED

Only the wallet's stored verdict settles an intent (DESIGN section 5). An unknown outcome leaves it PENDING, and
recovery goes on from T2 with the same ids. Of several operations on one hold the wallet lets one through; the others
fail, and the payment goes where the one takes it.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, assert_never

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ewallet.kernel.caller import Caller, Role, platform
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock
from ewallet.kernel.errors import InvariantBroken, OutcomeUnknown, Overloaded, Reason, Refusal, Refused
from ewallet.kernel.ids import derived_id
from ewallet.payment import store
from ewallet.payment.domain import operations, postings, telling
from ewallet.payment.domain.memos import memo_of
from ewallet.payment.domain.operations import Intent, Kind, Operation, Verdict
from ewallet.payment.domain.payments import Failure, Payment, PaymentStatus, settled
from ewallet.payment.domain.postings import Group, Leg, Side
from ewallet.payment.domain.telling import BEGIN_BULK
from ewallet.plumbing import failpoints, tracing
from ewallet.plumbing.audit import BEGUN, SUCCEEDED, AuditRecord
from ewallet.plumbing.batching import Batcher
from ewallet.plumbing.database import STORAGE_RETRY_AFTER_SECONDS, Database, StorageUnavailable
from ewallet.plumbing.deadlines import TimeLimit, request_ends_at
from ewallet.plumbing.outbox import Event
from ewallet.plumbing.telemetry import OPERATIONS, PAYMENTS
from ewallet.plumbing.verifying import digest
from ewallet.wallet.client import WalletClient
from ewallet.wallet.messages import (
    GroupOrder,
    GroupOutcome,
    GroupPosted,
    GroupRefused,
    TransferKind,
    TransferOrder,
    fees_account,
    wallet_account,
)

log = structlog.get_logger()

Outcome = TypeVar("Outcome")

REQUEST_SECONDS = 4.0
"""How long a request waits for its outcome; well within the gateway's own bound, so that the answer is ours."""

LEASE_SECONDS = 5
"""A request has given up by then, so recovery takes over; a restarted process finishes its payments within 10 s."""

PROBE_SECONDS = 0.5
"""How soon a wallet that is there answers that nothing is nothing; with a round of recovery still within its lease."""

GIVE_UP_SECONDS = 60
"""How long recovery tries before it abandons an intent: ten times as long as a restart takes."""

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
"""Between repetitions of a step whose outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Begin:
    """An item of T1, and who asks for it."""

    intent: Intent
    caller: Caller


@dataclass(frozen=True, slots=True)
class Settle:
    """An item of T3: the verdict on a PENDING intent, and on whose behalf it was asked for."""

    intent: Intent
    verdict: Verdict
    caller: Caller


@dataclass(frozen=True, slots=True)
class Bulk:
    """Payments that are carried out together or not at all, in their order: one transaction for all in each step."""

    payments: tuple[Payment, ...]


@dataclass(frozen=True, slots=True)
class BeginBulk:
    """An item of T1: all of these, or none. ``id`` names them together."""

    id: str
    bulk: Bulk
    caller: Caller


@dataclass(frozen=True, slots=True)
class SettleBulk:
    """An item of T3: the verdicts on all of a bulk."""

    steps: tuple[Settle, ...]


Step = Begin | Settle | BeginBulk | SettleBulk

Ask = Callable[[GroupOrder], Awaitable[GroupOutcome]]
"""How the wallet is asked in T2."""

AskLinked = Callable[[Sequence[GroupOrder]], Awaitable[Sequence[GroupOutcome]]]
"""How it is asked about all of a bulk."""


@dataclass(frozen=True, slots=True)
class Flight:
    """An intent that this process is carrying out; copies of its request wait for the same outcome."""

    intent: Intent
    outcome: asyncio.Task[Intent | Refusal]


class Saga:
    """Carries intents out. ``events_added`` is called when there is something to relay."""

    def __init__(
        self,
        database: Database,
        wallet: WalletClient,
        *,
        clock: Clock,
        events_added: Callable[[], None],
        request_seconds: float,
    ) -> None:
        self._database = database
        self._wallet = wallet
        self._clock = clock
        self._events_added = events_added
        self._request_seconds = request_seconds
        self._limit = TimeLimit(request_seconds)
        self._steps: Batcher[Step, Any] = Batcher(database, self._apply)
        self._flights: dict[str, Flight] = {}
        self._bulks: set[asyncio.Task[Bulk | Refusal]] = set()
        self._failing_since: dict[str, int] = {}
        # As the wallet answered last, whoever asked: a full disk is everybody's, and time may be up before it answers.
        self._wallet_stores = True

    # --- a request ------------------------------------------------------------------------------------------------

    async def carry_out(self, intent: Intent, caller: Caller) -> Intent | Refusal:
        """Carry an intent out, or wait for the copy of it that is under way here; the intent as it is stored then.

        An earlier one is returned where it has the same identity. Refused before anything is stored:
        ``idempotency-key-reused``, ``request-in-progress``. Refused with ``timeout`` is raised where the outcome is not
        known in time. The work is a task of its own: a client that goes away does not stop it half-way.
        """
        own = intent.own
        flight = self._flights.get(own.identity)
        if flight is None:
            outcome = asyncio.create_task(self._carry_out(intent, caller))
            flight = self._flights[own.identity] = Flight(intent, outcome)
            outcome.add_done_callback(lambda _outcome: self._flights.pop(own.identity))
        elif flight.intent.own.request_hash != own.request_hash:
            return KEY_REUSED
        return await asyncio.shield(flight.outcome)

    async def _carry_out(self, intent: Intent, caller: Caller) -> Intent | Refusal:
        """T1, then T2 and T3 unless the key names an earlier intent or the payment's state forbids this one."""
        deadline, limit = self._latest_beginning(), self._limit.begin()
        with tracing.span("payment", "payment.begin"):
            stored: Intent = await self._begin(Begin(intent, caller), deadline)
        if stored.own.id != intent.own.id:
            return outcome_of_copy(stored, intent.own.request_hash)
        if not stored.own.is_pending:
            return stored
        try:
            with limit, tracing.span("payment", "payment.move"):
                verdict = await self._move(stored, self._wallet.post_group)
            with tracing.span("payment", "payment.settle"):
                return await self._settle(Settle(stored, verdict, caller))
        except (OutcomeUnknown, Overloaded, TimeoutError) as error:
            log.warning("payment.outcome_unknown", payment=intent.own.id, error=repr(error))
            disk_refuses = isinstance(error, StorageUnavailable) or not self._wallet_stores
            members = {"transactionId": intent.payment.id}
            raise Refused(_unknown_outcome(members, disk_refuses=disk_refuses)) from error

    async def carry_out_all(self, bulk_id: str, bulk: Bulk, caller: Caller) -> Bulk | Refusal:
        """Carry out all of some payments or none; they are as they are stored then, an earlier call's where it was one.

        Refused before anything is stored: ``idempotency-key-reused`` where any of the keys was used otherwise,
        ``request-in-progress``. Refused with ``timeout`` is raised as by :meth:`carry_out`.
        """
        task = asyncio.create_task(self._carry_out_all(BeginBulk(bulk_id, bulk, caller)))
        self._bulks.add(task)
        task.add_done_callback(self._bulks.discard)
        return await asyncio.shield(task)

    async def _carry_out_all(self, step: BeginBulk) -> Bulk | Refusal:
        """T1, T2 and T3 as of one payment, each with all of them at once."""
        deadline, limit = self._latest_beginning(), self._limit.begin()
        with tracing.span("payment", "payment.begin"):
            stored: Bulk | None = await self._begin(step, deadline)
        if stored is None:
            return KEYS_REUSED
        if stored.payments[0].id != step.bulk.payments[0].id:
            return outcome_of_copies(stored, [payment.request_hash for payment in step.bulk.payments])
        try:
            with limit, tracing.span("payment", "payment.move"):
                verdicts = await self._move_all(stored, self._wallet.post_linked)
            with tracing.span("payment", "payment.settle"):
                return await self._settle_all(stored, verdicts, step.caller)
        except (OutcomeUnknown, Overloaded, TimeoutError) as error:
            log.warning("payment.outcome_unknown", bulk=step.id, error=repr(error))
            disk_refuses = isinstance(error, StorageUnavailable) or not self._wallet_stores
            raise Refused(_unknown_outcome({}, disk_refuses=disk_refuses)) from error

    def _latest_beginning(self) -> float:
        """When a request that has not been begun is not worth it any more: nobody waits for its answer."""
        own = time.monotonic() + self._request_seconds
        return min(own, request_ends_at.get() or own)

    async def foretell(self, intent: Intent) -> Verdict:
        """The verdict that the wallet would come to right now; nothing is stored and nothing moves."""
        return _verdict(await self._wallet.try_group(group_order(intent, postings.group_of(intent))))

    # --- the steps ------------------------------------------------------------------------------------------------

    async def _begin(self, step: Begin | BeginBulk, deadline: float) -> Any:
        """T1: write the intent down; the answer is what is stored under its identity, or those of a bulk."""
        failpoints.reached("payment.begin.before")
        try:
            return await self._steps.submit(step, deadline=deadline)
        except IntegrityError:
            # Between our look and our write another process used the same key. The second look finds it.
            return await self._steps.submit(step, deadline=deadline)

    async def _move(self, intent: Intent, ask: Ask) -> Verdict:
        """T2: the wallet's verdict; the caller sets the time limit. A capture refused for good releases its hold."""
        payment, operation = intent.payment, intent.operation
        if operation is not None and (verdict := operations.needless(payment, operation)) is not None:
            return verdict
        verdict = await self._ask(ask, intent, postings.group_of(intent))
        if operation is not None and operations.needs_compensation(operation, verdict):
            released = await self._ask(ask, intent, postings.releasing(payment, operation))
            return operations.compensated(verdict, released)
        return verdict

    async def _move_all(self, bulk: Bulk, ask: AskLinked) -> list[Verdict]:
        """T2 of a bulk: the wallet's verdicts, which are all for it or all against it."""
        orders = _orders_of(bulk)
        return [_verdict(outcome) for outcome in await self._answered(lambda: ask(orders), bulk.payments[0].id)]

    async def _abandon_all(self, orders: Sequence[GroupOrder]) -> Sequence[GroupOutcome]:
        """Give up all of a bulk. The first that has been refused refuses the others, whoever still asks for them."""
        return await asyncio.gather(*map(self._wallet.abandon_group, orders))

    async def _ask(self, ask: Ask, intent: Intent, group: Group) -> Verdict:
        """One group's verdict."""
        order = group_order(intent, group)
        return _verdict(await self._answered(lambda: ask(order), intent.own.id))

    async def _answered(self, ask: Callable[[], Awaitable[Outcome]], intent_id: str) -> Outcome:
        """The wallet's answer, asked for until it comes."""
        pauses = _pauses()
        while True:
            try:
                failpoints.reached("payment.move.before")
                outcome = await ask()
                failpoints.reached("payment.move.after")
            except (OutcomeUnknown, Overloaded) as error:
                self._wallet_stores = not isinstance(error, StorageUnavailable)
                log.debug("payment.wallet_unclear", payment=intent_id, error=str(error))
                await asyncio.sleep(next(pauses))
            else:
                self._wallet_stores = True
                return outcome

    async def _settle(self, step: Settle) -> Intent:
        """T3: write the verdict down; the answer is what is stored, whoever was first."""
        stored: Intent = await self._write_verdict(step)
        if stored.operation is None:
            PAYMENTS.labels(stored.payment.status.value).inc()
        else:
            OPERATIONS.labels(stored.operation.kind.value, stored.operation.status.value).inc()
        self._events_added()
        return stored

    async def _settle_all(self, bulk: Bulk, verdicts: Sequence[Verdict], caller: Caller) -> Bulk:
        """T3 of a bulk: nobody sees one of its payments settled and another not."""
        settles = tuple(
            Settle(Intent(payment), verdict, caller)
            for payment, verdict in zip(bulk.payments, verdicts, strict=True)
            if payment.status is PaymentStatus.PENDING  # reconciliation may have been here, one by one
        )
        stored: Bulk = await self._write_verdict(SettleBulk(settles))
        for payment in stored.payments:
            PAYMENTS.labels(payment.status.value).inc()
        self._events_added()
        settled_by_id = {payment.id: payment for payment in stored.payments}
        return Bulk(tuple(settled_by_id.get(payment.id, payment) for payment in bulk.payments))

    async def _write_verdict(self, step: Settle | SettleBulk) -> Any:
        failpoints.reached("payment.settle.before")
        return await self._steps.submit(step)

    # --- recovery -------------------------------------------------------------------------------------------------

    async def claim_overdue(self, limit: int) -> list[Intent | Bulk]:
        """Take over intents that whoever began them has not finished in time, and holds whose time is over.

        Of a bulk that has one of these all is taken over, so that never a part of it is sent.
        """
        now = self._clock()
        overdue = await self._database.reading(lambda tx: store.overdue(tx, now=now, limit=limit))
        if not overdue:
            return []
        until = _lease_from(now)
        claimed = await self._database.writing(lambda tx: _claim(tx, overdue, until))
        failpoints.reached("payment.claim.after")
        return claimed

    async def finish(self, intent: Intent) -> Intent:
        """Go on from T2 with the same ids as the request; any error means that it must be tried again later.

        What cannot be finished for long, while the wallet answers others, is abandoned: a tombstone lies under its id
        before it is called failed, and where it was done after all, that is found instead.
        """
        with tracing.span("payment", "payment.recover"):
            return await self._finish(intent)

    async def _finish(self, intent: Intent) -> Intent:
        ask = self._wallet.abandon_group if self._is_hopeless(intent) else self._wallet.post_group
        try:
            with self._limit.begin():
                verdict = await self._move(intent, ask)
        except Exception:
            await self._note_failure(intent)
            raise
        self._failing_since.pop(intent.own.id, None)
        return await self._settle(Settle(intent, verdict, platform(intent.own.request_id, tracing.here())))

    async def finish_all(self, bulk: Bulk) -> Bulk:
        """:meth:`finish` of a bulk, whole."""
        first = Intent(bulk.payments[0])
        with tracing.span("payment", "payment.recover"):
            try:
                with self._limit.begin():
                    ask = self._abandon_all if self._is_hopeless(first) else self._wallet.post_linked
                    verdicts = await self._move_all(bulk, ask)
            except Exception:
                await self._note_failure(first)
                raise
            self._failing_since.pop(first.own.id, None)
            return await self._settle_all(bulk, verdicts, platform(first.own.request_id, tracing.here()))

    def _is_hopeless(self, intent: Intent) -> bool:
        """Whether it is time to give up. Not on an expiry: nobody waits for it, and the wallet ends the hold itself."""
        if intent.operation is not None and intent.operation.kind is Kind.EXPIRY:
            return False
        since = self._failing_since.get(intent.own.id)
        return since is not None and self._clock() - since >= GIVE_UP_SECONDS * MICROSECONDS_PER_SECOND

    async def _note_failure(self, intent: Intent) -> None:
        """Remember since when an intent has failed though the wallet answers; a wallet that is away proves nothing."""
        nothing = group_order(intent, Group(derived_id("grp", intent.own.id, "nothing"), ()))
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._wallet.try_group(nothing)
        except (OutcomeUnknown, Overloaded, TimeoutError):
            self._failing_since.pop(intent.own.id, None)
        else:
            self._failing_since.setdefault(intent.own.id, self._clock())

    async def drain(self) -> None:
        """Wait for what is under way, so that a clean stop leaves nothing to recover."""
        if under_way := [*(flight.outcome for flight in self._flights.values()), *self._bulks]:
            await asyncio.wait(under_way)

    # --- the transactions of T1 and T3, many intents at a time ----------------------------------------------------

    def _apply(self, tx: Connection, steps: Sequence[Step]) -> list[Any]:
        now = self._clock()
        begins = [step for step in steps if isinstance(step, Begin)]
        settles = [each for step in steps for each in _settles(step)]
        payments = _lock(tx, [*settles, *begins])
        settled_by_id = _settle(tx, settles, payments, now)
        if settled_by_id:
            failpoints.reached("payment.settle.written")
        begun = _begin(tx, begins, payments, now)
        # Behind the others of the same batch, whose keys they must find.
        bulks = [_begin_bulk(tx, step, now) for step in steps if isinstance(step, BeginBulk)]
        if begun or bulks:
            failpoints.reached("payment.begin.written")
        begun_in_order, bulks_in_order = iter(begun), iter(bulks)
        return [_result(step, settled_by_id, begun_in_order, bulks_in_order) for step in steps]


def _settles(step: Step) -> tuple[Settle, ...]:
    match step:
        case Settle():
            return (step,)
        case SettleBulk():
            return step.steps
        case Begin() | BeginBulk():
            return ()
    assert_never(step)


def _result(
    step: Step, settled_by_id: Mapping[str, Intent], begun: Iterator[Intent], bulks: Iterator[Bulk | None]
) -> Intent | Bulk | None:
    """What has become of a step, with those that were begun in the order in which they were asked for."""
    match step:
        case Begin():
            return next(begun)
        case BeginBulk():
            return next(bulks)
        case Settle():
            return settled_by_id[step.intent.own.id]
        case SettleBulk():
            return Bulk(tuple(settled_by_id[each.intent.own.id].payment for each in step.steps))
    assert_never(step)


def _lock(tx: Connection, steps: Sequence[Begin | Settle]) -> dict[str, Payment]:
    """All payments of a batch with operations, locked in one go: in sorted order, and before any is written."""
    if all(step.intent.operation is None for step in steps):
        return {}
    existing = [step.intent for step in steps if step.intent.operation is not None or isinstance(step, Settle)]
    return store.lock(tx, {intent.payment.id for intent in existing})


# --- T1 -----------------------------------------------------------------------------------------------------------


def _begin(tx: Connection, steps: Sequence[Begin], payments: Mapping[str, Payment], now: int) -> list[Intent]:
    """The intents that are stored under the identities of these, in their order."""
    new = [step.intent.payment for step in steps if step.intent.operation is None]
    created = iter(store.create(tx, new, lease_until=_lease_from(now)))
    begun = iter(_begin_operations(tx, steps, payments, now))
    return [Intent(next(created)) if step.intent.operation is None else next(begun) for step in steps]


def _begin_bulk(tx: Connection, step: BeginBulk, now: int) -> Bulk | None:
    """What is stored under the identities of a bulk; None where it cannot be begun, nor is a copy of another."""
    stored = store.create_bulk(tx, step.id, step.bulk.payments, lease_until=_lease_from(now))
    if stored is step.bulk.payments:
        members = store.bulk_rows(step.id, stored)
        detail = {"members": len(members), "membersDigest": digest(members)}
        record = AuditRecord.of(step.caller, BEGIN_BULK, step.id, result=BEGUN, **detail)
        store.audit.append(tx, now, [record])
    return None if stored is None else Bulk(tuple(stored))


def _begin_operations(
    tx: Connection, steps: Sequence[Begin], payments: Mapping[str, Payment], now: int
) -> list[Intent]:
    """Check each operation against its locked payment, and store what has become of it, with an audit record."""
    wanted = [(step.intent.operation, step.caller) for step in steps if step.intent.operation is not None]
    if not wanted:
        return []
    found = store.find_operations_by_identity(tx, {operation.identity for operation, _ in wanted})
    stored = {operation.identity: operation for operation in found}
    set_aside = store.being_refunded(tx, payments.keys())
    new: list[Operation] = []
    records: list[AuditRecord] = []
    for operation, caller in wanted:
        if operation.identity in stored:
            continue
        payment = payments[operation.payment_id]
        begun = operations.begun(operation, payment, set_aside.get(payment.id, 0))
        if begun.is_pending and begun.kind is Kind.REFUND:
            set_aside[payment.id] = set_aside.get(payment.id, 0) + begun.amount
        records.append(_audit_of(Intent(payment, begun), caller, begun=True))
        stored[begun.identity] = begun
        new.append(begun)
    store.begin_operations(
        tx, [(operation, _lease_from(now) if operation.is_pending else store.NO_LEASE) for operation in new]
    )
    store.audit.append(tx, now, records)
    return [Intent(payments[operation.payment_id], stored[operation.identity]) for operation, _ in wanted]


def _lease_from(now: int) -> int:
    return now + LEASE_SECONDS * MICROSECONDS_PER_SECOND


# --- recovery -----------------------------------------------------------------------------------------------------


def _claim(tx: Connection, overdue: Sequence[tuple[Intent, int]], until: int) -> list[Intent | Bulk]:
    """Those that nobody else has taken over meanwhile, and with each that is of a bulk all of it."""
    claimed = [intent for intent, lease in overdue if store.claim(tx, intent, lease=lease, until=until)]
    payment_ids = [intent.own.id for intent in claimed if intent.operation is None]
    bulks = [Bulk(tuple(payments)) for payments in store.claim_bulks(tx, payment_ids, until=until)]
    linked = {payment.id for bulk in bulks for payment in bulk.payments}
    return [*(intent for intent in claimed if intent.own.id not in linked), *bulks]


# --- T3 -----------------------------------------------------------------------------------------------------------


def _settle(tx: Connection, steps: Sequence[Settle], payments: dict[str, Payment], now: int) -> dict[str, Intent]:
    """The intents as they are stored in the end, by id."""
    settled_by_id = _settle_payments(tx, [step for step in steps if step.intent.operation is None], now)
    return settled_by_id | _settle_operations(tx, [step for step in steps if step.intent.operation], payments, now)


def _settle_payments(tx: Connection, steps: Sequence[Settle], now: int) -> dict[str, Intent]:
    """The payments as they are stored in the end, by id: moved by these steps, or found moved already."""
    step_by_id = {step.intent.payment.id: step for step in steps}
    after = {key: settled(step.intent.payment, step.verdict.failure, now) for key, step in step_by_id.items()}
    moved_ids = store.settle(tx, after.values())
    moved = [(payment, step_by_id[key]) for key, payment in after.items() if key in moved_ids]
    lines = store.add_history(tx, ((payment, step.caller.subject, payment.failure) for payment, step in moved))
    store.create_operations(
        tx,
        [
            (operations.expiry_of(payment), operations.hold_ends_at(payment, step.verdict.at))
            for payment, step in moved
            if payment.status is PaymentStatus.AUTHORIZED
        ],
    )
    records = [
        _audit_of(Intent(payment), step.caller, line=line) for (payment, step), line in zip(moved, lines, strict=True)
    ]
    store.audit.append(tx, now, records)
    store.outbox.add(tx, [event_of(Intent(payment), step.caller.trace) for payment, step in moved])
    moved_before = store.find(tx, after.keys() - moved_ids)
    return {payment.id: Intent(payment) for payment in [*after.values(), *moved_before]}


def _settle_operations(
    tx: Connection, steps: Sequence[Settle], payments: dict[str, Payment], now: int
) -> dict[str, Intent]:
    """The operations as they are stored in the end, by id; moves their payments, in the dictionary, too."""
    if not steps:
        return {}
    stored = {
        operation.id: operation for operation in store.find_operations(tx, {step.intent.own.id for step in steps})
    }
    concluded: list[tuple[Intent, Caller]] = []
    moves: list[tuple[Intent, Caller]] = []
    for step in steps:
        operation = stored[step.intent.own.id]
        payment = payments[operation.payment_id]
        if not operation.is_pending:
            continue
        after, operation = operations.concluded(payment, operation, step.verdict, now)
        payments[after.id], stored[operation.id] = after, operation
        concluded.append((Intent(after, operation), step.caller))
        if after is not payment:
            moves.append(concluded[-1])
    moved_ids = {intent.payment.id for intent, _ in moves}
    store.conclude(tx, [payments[key] for key in sorted(moved_ids)], [stored[intent.own.id] for intent, _ in concluded])
    lines = store.add_history(tx, ((intent.payment, caller.subject, intent.own.failure) for intent, caller in moves))
    line_by_id = {intent.own.id: line for (intent, _), line in zip(moves, lines, strict=True)}
    records = [_audit_of(intent, caller, line=line_by_id.get(intent.own.id)) for intent, caller in concluded]
    store.audit.append(tx, now, records)
    store.outbox.add(tx, [event_of(intent, caller.trace) for intent, caller in moves])
    return {operation.id: Intent(payments[operation.payment_id], operation) for operation in stored.values()}


def _audit_of(intent: Intent, caller: Caller, *, begun: bool = False, line: str | None = None) -> AuditRecord:
    """What was done. ``begun``: the operation is new; ``line``: the digest of the line of history, where there is one.

    The digests let the audit vouch for payments and operations, see ``verify.py``. What a refund brought the sum to is
    for its event, should that have to be told again.
    """
    payment, operation = intent.payment, intent.operation
    charge = payment.charge
    detail: dict[str, Any] = {} if line is None else {"version": payment.version, "line": line}
    if operation is not None:
        detail |= {"operation": operation.id, "seal": store.operation_seal(operation)}
        if operation.kind is Kind.REFUND and line is not None:
            detail["refundedAmount"] = payment.refunded_amount
    if begun:
        detail["begun"] = True
    return AuditRecord.of(
        caller,
        telling.audit_action(payment, operation),
        payment.id,
        result=_result_of(intent),
        **detail,
        customerId=payment.customer_id,
        merchantId=payment.merchant_id,
        amount=operation.amount if operation else charge.amount,
        fee=operation.fee if operation else charge.fee,
        currency=payment.currency,
    )


def _result_of(intent: Intent) -> str:
    if intent.own.failure is not None:
        return intent.own.failure.reason.value
    return BEGUN if intent.own.is_pending else SUCCEEDED


def event_of(intent: Intent, trace: str = "") -> Event:
    """What is told when an intent has moved its payment; the payment is as it was right then."""
    payment = intent.payment
    name = telling.event_name(payment)
    return Event(
        id=derived_id("evt", intent.own.id, name),
        name=name,
        ordering_key=payment.id,
        recipients=telling.recipients(payment),
        data=telling.event_data(payment, intent.operation),
        occurred_at=payment.updated_at,
        request_id=intent.own.request_id,
        trace=trace,
    )


# --- requests and their copies ------------------------------------------------------------------------------------

KEY_REUSED = Refusal(
    Reason.IDEMPOTENCY_KEY_REUSED, "This Idempotency-Key belongs to another request: a new request needs a new key."
)
KEYS_REUSED = Refusal(
    Reason.IDEMPOTENCY_KEY_REUSED,
    "A key of this call belongs to another request: all or nothing is for payments that were not asked for before.",
)
_IN_PROGRESS = Refusal(
    Reason.REQUEST_IN_PROGRESS,
    "The first request with this key is still being carried out: ask again with the same key.",
    retry_after_seconds=1,
)


def outcome_of_copy(stored: Intent, request_hash: str) -> Intent | Refusal:
    """What a later request with the key of a stored intent gets."""
    if stored.own.request_hash != request_hash:
        return KEY_REUSED
    return _IN_PROGRESS if stored.own.is_pending else stored


def outcome_of_copies(stored: Bulk, request_hashes: Sequence[str]) -> Bulk | Refusal:
    """What a later call with all the keys of a stored bulk gets."""
    if [payment.request_hash for payment in stored.payments] != list(request_hashes):
        return KEYS_REUSED
    pending = any(payment.status is PaymentStatus.PENDING for payment in stored.payments)
    return _IN_PROGRESS if pending else stored


def _unknown_outcome(members: Mapping[str, Any], *, disk_refuses: bool) -> Refusal:
    """What a request hears; with ``disk_refuses`` because a disk, ours or the wallet's, takes nothing."""
    if disk_refuses:
        return Refusal(
            Reason.STORAGE_UNAVAILABLE,
            "The outcome cannot be stored at the moment: look at the payment later, or repeat with the same key.",
            members=members,
            retry_after_seconds=STORAGE_RETRY_AFTER_SECONDS,
        )
    return Refusal(
        Reason.TIMEOUT,
        "The outcome is not known yet. It will be within seconds: look at the payment, or repeat with the same key.",
        members=members,
        retry_after_seconds=1,
    )


# --- the wallet's words -------------------------------------------------------------------------------------------


def group_order(intent: Intent, group: Group) -> GroupOrder:
    """The same order however often it is sent: everything in it but its trace is stored with the intent."""
    payment, operation = intent.payment, intent.operation
    return GroupOrder(
        id=group.id,
        transfers=tuple(_transfer_order(payment, leg) for leg in group.legs),
        transaction_id=payment.id,
        reference=payment.reference,
        description=payment.description,
        spender=payment.customer_id if operation is None else None,
        memo=memo_of(intent),
        actor=payment.customer_id if operation is None else operation.actor,
        request_id=intent.own.request_id,
        trace=tracing.here(),
    )


def _orders_of(bulk: Bulk) -> list[GroupOrder]:
    intents = [Intent(payment) for payment in bulk.payments]
    return [group_order(intent, postings.group_of(intent)) for intent in intents]


def _transfer_order(payment: Payment, leg: Leg) -> TransferOrder:
    return TransferOrder(
        id=leg.id,
        kind=TransferKind(leg.move),
        debit_account=_account(payment, leg.payer),
        credit_account=_account(payment, leg.payee),
        amount=leg.amount,
        currency=payment.currency,
        credit_role=Role.MERCHANT if leg.payee is Side.MERCHANT else None,
        pending_id=leg.finishes,
        timeout_seconds=leg.hold_seconds,
    )


def _account(payment: Payment, side: Side) -> str:
    match side:
        case Side.CUSTOMER:
            return wallet_account(payment.customer_id, payment.currency)
        case Side.MERCHANT:
            return wallet_account(payment.merchant_id, payment.currency)
        case Side.FEES:
            return fees_account(payment.currency)
    assert_never(side)


_HOLD_EXPIRED = "pending_transfer_expired"
"""The wallet's verdict on an order that came after the end of the hold that it names."""


def _verdict(outcome: GroupOutcome) -> Verdict:
    match outcome:
        case GroupPosted():
            return Verdict(at=outcome.posted_at)
        case GroupRefused(reason=Reason.IDEMPOTENCY_KEY_REUSED):
            # The id is ours alone, so this is no verdict on the intent: the money may have moved. It stays PENDING.
            raise InvariantBroken(f"the wallet knows another order by our id: {outcome.detail}")
        case GroupRefused():
            failure = Failure(outcome.reason, outcome.detail, outcome.members)
            return Verdict(failure=failure, hold_expired=outcome.verdict == _HOLD_EXPIRED)
    assert_never(outcome)


def _pauses() -> Iterator[float]:
    """Growing, jittered pauses without end: whoever waits sets the limit."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311  # jitter needs no secrecy
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
