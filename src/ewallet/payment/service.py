"""Payment's use cases: what can be asked of it. What moves money goes through the saga (``saga.py``)."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar, assert_never

import msgspec
from msgspec import UNSET, Meta
from sqlalchemy import Connection, Row

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import Clock, rfc3339
from ewallet.kernel.errors import FieldError, Overloaded, Reason, Refusal, invalid, not_found
from ewallet.kernel.ids import ID_PATTERN, is_id, new_id
from ewallet.kernel.money import Money, is_currency
from ewallet.payment import messages, store
from ewallet.payment.domain import payments, telling
from ewallet.payment.domain.fees import FeeSchedule
from ewallet.payment.domain.operations import ALL_THAT_IS_LEFT, Intent, Kind, Operation
from ewallet.payment.domain.payments import Charge, Payment, PaymentStatus
from ewallet.payment.saga import REQUEST_SECONDS, Bulk, Saga, outcome_of_copies, outcome_of_copy
from ewallet.plumbing.batching import MAXIMUM_BATCH, Gatherer
from ewallet.plumbing.database import Database
from ewallet.plumbing.http.contract import decode_cursor, encode_cursor
from ewallet.plumbing.http.trails import AuditTrail, audit_trail
from ewallet.wallet.client import WalletClient
from ewallet.wallet.messages import CreditOrder, CreditOutcome

Order = TypeVar("Order")
Outcome = TypeVar("Outcome")

IdPosition = tuple[Annotated[str, Meta(pattern=ID_PATTERN)]]
"""Where a page of payments or refunds ends: an id."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What is stored for a request: the answer, or the refusal. ``replayed``: an earlier copy of it stored it."""

    answer: messages.Payment | messages.Refund | Refusal
    replayed: bool


@dataclass(frozen=True, slots=True)
class Request:
    """What makes a request the same as another: who asks, the idempotency key, and a hash of what is asked for."""

    caller: Caller
    key: str | None
    hash: str

    @classmethod
    def of(cls, caller: Caller, key: str | None, what: str, order: msgspec.Struct) -> "Request":
        """A request; its hash is another's if and only if the two ask for the same."""
        return cls(caller, key, hashlib.sha256(what.encode() + _canonical(order)).hexdigest())

    def identity(self, own_id: str) -> str:
        """The identity of the intent with that id which the request has caused."""
        return own_id if self.key is None else payments.identity_of(self.caller.subject, self.key)


UNDER_WAY_IN_BULK = MAXIMUM_BATCH
"""Of one call that are under way at once: as many as fill a batch, so that others find a place in the next."""

BULKS_AT_ONCE = 4
"""Calls in bulk at once in one process; a fifth would only make all of them slower."""


_canonical = msgspec.json.Encoder(order="sorted").encode


class PaymentService:
    """Payments from intent to outcome. ``events_added`` is called when there is something to relay."""

    def __init__(
        self,
        database: Database,
        wallet: WalletClient,
        *,
        fees: FeeSchedule,
        hold_seconds: int,
        clock: Clock,
        events_added: Callable[[], None],
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """``hold_seconds`` is how long a new payment that is not captured at once is held."""
        self._database = database
        self._wallet = wallet
        self._fees = fees
        self._hold_seconds = hold_seconds
        self._clock = clock
        self._looks = Gatherer(self._look, name="payment-looks")
        self._bulks = 0
        self.saga = Saga(database, wallet, clock=clock, events_added=events_added, request_seconds=request_seconds)

    # --- paying ---------------------------------------------------------------------------------------------------

    async def initiate(self, caller: Caller, order: messages.InitiatePayment, key: str | None) -> Answered | Refusal:
        """Pay a merchant from the caller's wallet, or hold the money; once, however often it is asked with the key.

        Refused before anything is stored: ``validation-error``, ``amount-too-small``, ``idempotency-key-reused``,
        ``request-in-progress``. The wallet's refusals are stored and part of :class:`Answered`. Refused with
        ``timeout`` is raised where the outcome is not known in time.
        """
        if not is_currency(order.currency):
            return _unknown_currency(order.currency)
        request = Request.of(caller, key, "initiate", order)
        fee = self._fees.fee_on(order.amount, order.currency)
        if isinstance(fee, Refusal):
            return await self._earlier_answer(request) or fee
        return await self._carried_out(Intent(self._new_payment(request, order, fee)), caller)

    async def initiate_each(
        self, caller: Caller, orders: Sequence[messages.PaymentInBulk]
    ) -> list[Answered | Refusal | Exception]:
        """Many payments, begun in their order, each for itself: what :meth:`initiate` returns or raises for each.

        Overloaded is raised where as many such calls as this process takes are under way; nothing has been begun.
        """
        return await self._each(lambda order: self.initiate(caller, order.alone, order.idempotency_key), orders)

    async def initiate_all(self, caller: Caller, orders: Sequence[messages.PaymentInBulk]) -> list[Answered] | Refusal:
        """Many payments, all or none, in their order: the answer to each, of which all have succeeded or all failed.

        Refused as a whole, before anything is stored: ``validation-error``, ``amount-too-small``,
        ``idempotency-key-reused`` where any key was used otherwise, ``request-in-progress``. Raised: Refused with
        ``timeout`` where the outcome is not known in time, Overloaded as by :meth:`initiate_each`.
        """
        if (refusal := _wrong_together(orders)) is not None:
            return refusal
        requests = [Request.of(caller, order.idempotency_key, "initiate", order.alone) for order in orders]
        fees = [self._fees.fee_on(order.amount, order.currency) for order in orders]
        for place, fee in enumerate(fees):
            if isinstance(fee, Refusal):
                wrong = FieldError(f"/payments/{place}/amount", fee.detail)
                return await self._earlier_answers(requests) or replace(fee, errors=(wrong,))
        bulk = Bulk(
            tuple(
                self._new_payment(request, order, fee)
                for request, order, fee in zip(requests, orders, fees, strict=True)
                if not isinstance(fee, Refusal)
            )
        )
        with self._place_for_bulk():
            stored = await self.saga.carry_out_all(new_id("blk", self._clock()), bulk, caller)
        if isinstance(stored, Refusal):
            return stored
        return _all_answered(stored, replayed=stored.payments[0].id != bulk.payments[0].id)

    async def _earlier_answers(self, requests: Sequence[Request]) -> list[Answered] | Refusal | None:
        """The answers to an earlier copy of a call that today's fees would refuse; None where there was none."""
        identities = [payments.identity_of(request.caller.subject, request.key or "") for request in requests]
        found = await self._database.reading(lambda tx: store.find_bulk(tx, identities))
        if found is None:
            return None
        outcome = outcome_of_copies(Bulk(tuple(found)), [request.hash for request in requests])
        return outcome if isinstance(outcome, Refusal) else _all_answered(outcome, replayed=True)

    async def credit_each(
        self, caller: Caller, orders: Sequence[messages.CreditInBulk]
    ) -> list[CreditOutcome | Exception]:
        """Many credits, begun in their order, each for itself: what the wallet answers or raises for each.

        There is no intent of ours: the wallet does a credit in one transaction, and its reference finds it again.
        Overloaded is raised as by :meth:`initiate_each`.
        """
        return await self._each(lambda order: self._wallet.book_credit(_credit_order(caller, order)), orders)

    async def _each(
        self, use_case: Callable[[Order], Awaitable[Outcome]], orders: Sequence[Order]
    ) -> list[Outcome | Exception]:
        places = asyncio.Semaphore(UNDER_WAY_IN_BULK)

        async def outcome(order: Order) -> Outcome | Exception:
            async with places:
                try:
                    return await use_case(order)
                except Exception as error:  # noqa: BLE001  # whatever became of this one, the others have answers
                    return error

        with self._place_for_bulk():
            return await asyncio.gather(*map(outcome, orders))

    @contextmanager
    def _place_for_bulk(self) -> Iterator[None]:
        if self._bulks >= BULKS_AT_ONCE:
            raise Overloaded("as many calls in bulk are under way as this process takes")
        self._bulks += 1
        try:
            yield
        finally:
            self._bulks -= 1

    async def quote(self, caller: Caller, order: messages.QuotePayment) -> messages.Quote | Refusal:
        """What a payment would cost and whether it would succeed right now. Refused with ``validation-error``."""
        if not is_currency(order.currency):
            return _unknown_currency(order.currency)
        charge = Charge(order.amount, self._fees.of(order.amount, order.currency))
        failure = await self._failure_foretold(caller, order, charge)
        return messages.Quote(
            amount=charge.amount,
            currency=order.currency,
            fee=charge.fee,
            net_amount=charge.net,
            would_succeed=failure is None,
            reasons=[] if failure is None else [failure.code],
        )

    async def _failure_foretold(self, caller: Caller, order: messages.QuotePayment, charge: Charge) -> Reason | None:
        if charge.net <= 0:
            return Reason.AMOUNT_TOO_SMALL
        wanted = messages.InitiatePayment(merchant_id=order.merchant_id, amount=order.amount, currency=order.currency)
        payment = self._new_payment(Request.of(caller, None, "quote", order), wanted, charge.fee)
        verdict = await self.saga.foretell(Intent(payment))
        return verdict.failure.reason if verdict.failure else None

    # The operations on a payment are refused like initiate, and with ``not-found``; stored is also ``invalid-state``.

    async def capture(
        self, caller: Caller, payment_id: str, order: messages.CapturePayment, key: str | None
    ) -> Answered | Refusal:
        """Take what is held for a payment, or a part; the fee is today's on what is taken."""
        payment = await self._visible(caller, payment_id)
        if isinstance(payment, Refusal):
            return payment
        amount = payment.amount if order.amount is None else order.amount
        if amount > payment.amount:
            return invalid("/amount", f"No more than {Money(payment.amount, payment.currency)} was authorized.")
        request = Request.of(caller, key, f"capture {payment_id}", order)
        fee = self._fees.fee_on(amount, payment.currency)
        if isinstance(fee, Refusal):
            return await self._earlier_answer(request, payment) or fee
        capture = self._new_operation(request, payment, Kind.CAPTURE, Charge(amount, fee))
        return await self._carried_out(Intent(payment, capture), caller)

    async def void(
        self, caller: Caller, payment_id: str, order: messages.VoidPayment, key: str | None
    ) -> Answered | Refusal:
        """Release what is held for a payment."""
        payment = await self._visible(caller, payment_id)
        if isinstance(payment, Refusal):
            return payment
        request = Request.of(caller, key, f"void {payment_id}", order)
        void = self._new_operation(request, payment, Kind.VOID, Charge(payment.amount, 0))
        return await self._carried_out(Intent(payment, void), caller)

    async def refund(
        self, caller: Caller, payment_id: str, order: messages.RefundPayment, key: str | None
    ) -> Answered | Refusal:
        """Give back what was paid, or a part, out of the merchant's wallet; the fee is kept."""
        payment = await self._visible(caller, payment_id)
        if isinstance(payment, Refusal):
            return payment
        request = Request.of(caller, key, f"refund {payment_id}", order)
        amount = ALL_THAT_IS_LEFT if order.amount is None else order.amount
        refund = self._new_operation(request, payment, Kind.REFUND, Charge(amount, 0), reason=order.reason)
        return await self._carried_out(Intent(payment, refund), caller)

    async def _carried_out(self, intent: Intent, caller: Caller) -> Answered | Refusal:
        outcome = await self.saga.carry_out(intent, caller)
        return outcome if isinstance(outcome, Refusal) else _answered(outcome, replayed=outcome.own.id != intent.own.id)

    async def _earlier_answer(self, request: Request, payment: Payment | None = None) -> Answered | Refusal | None:
        """The answer to an earlier copy of a request that today's fees would refuse; None where there was none.

        ``payment`` is what an operation is about.
        """
        if request.key is None:
            return None
        identities = [payments.identity_of(request.caller.subject, request.key)]

        def find(tx: Connection) -> list[Intent]:
            if payment is None:
                return [Intent(found) for found in store.find_by_identity(tx, identities)]
            return [Intent(payment, found) for found in store.find_operations_by_identity(tx, identities)]

        intents = await self._database.reading(find)
        if not intents:
            return None
        outcome = outcome_of_copy(intents[0], request.hash)
        return outcome if isinstance(outcome, Refusal) else _answered(outcome, replayed=True)

    def _new_payment(self, request: Request, order: messages.InitiatePayment, fee: int) -> Payment:
        now = self._clock()
        payment_id = new_id("pay", now)
        return Payment(
            id=payment_id,
            customer_id=request.caller.subject,
            merchant_id=order.merchant_id,
            amount=order.amount,
            fee=fee,
            hold_seconds=None if order.capture else self._hold_seconds,
            currency=order.currency,
            reference=order.reference,
            description=order.description,
            metadata=order.metadata,
            identity=request.identity(payment_id),
            request_hash=request.hash,
            request_id=request.caller.request_id,
            created_at=now,
            updated_at=now,
        )

    def _new_operation(
        self, request: Request, payment: Payment, kind: Kind, charge: Charge, *, reason: str | None = None
    ) -> Operation:
        now = self._clock()
        operation_id = new_id(kind.prefix, now)
        return Operation(
            id=operation_id,
            payment_id=payment.id,
            kind=kind,
            amount=charge.amount,
            fee=charge.fee,
            reason=reason,
            actor=request.caller.subject,
            identity=request.identity(operation_id),
            request_hash=request.hash,
            request_id=request.caller.request_id,
            created_at=now,
            updated_at=now,
        )

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

    async def refunds(
        self, caller: Caller, payment_id: str, *, limit: int, cursor: str | None
    ) -> messages.RefundList | Refusal:
        """The refunds of one payment, newest first, failed ones too. Refused with ``not-found``."""
        before = decode_cursor(cursor, IdPosition)[0] if cursor is not None else None
        payment = await self._visible(caller, payment_id)
        if isinstance(payment, Refusal):
            return payment
        found = await self._database.reading(
            lambda tx: store.refunds_of(tx, payment_id, before=before, limit=limit + 1)
        )
        return messages.RefundList(
            items=[_refund_message(payment, refund) for refund in found[:limit]],
            next_cursor=encode_cursor(found[limit - 1].id) if len(found) > limit else None,
        )

    async def _visible(self, caller: Caller, payment_id: str) -> Payment | Refusal:
        if not is_id(payment_id, "pay"):
            return _NO_SUCH_PAYMENT
        found = await self._looks.submit(payment_id)
        return found if found and found.belongs_to(caller) else _NO_SUCH_PAYMENT

    async def _look(self, ids: Sequence[str]) -> Sequence[Payment | None]:
        """All who look at a payment while others are being answered share one statement."""
        found = {each.id: each for each in await self._database.reading(lambda tx: store.find(tx, ids))}
        return [found.get(each) for each in ids]

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
        before = decode_cursor(cursor, IdPosition)[0] if cursor is not None else None
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
    ) -> AuditTrail:
        """Audit records, newest first. Raises Refused where the cursor is none of ours."""
        return await audit_trail(
            self._database, store.audit, subject=subject, request_id=request_id, limit=limit, cursor=cursor
        )


_NO_SUCH_PAYMENT = not_found("payment")


def _wrong_together(orders: Sequence[messages.PaymentInBulk]) -> Refusal | None:
    """What is wrong with payments that are to be carried out together, which none of them may be alone."""
    keys: set[str] = set()
    for place, order in enumerate(orders):
        if not is_currency(order.currency):
            return _unknown_currency(order.currency, f"/payments/{place}/currency")
        if order.idempotency_key in keys:
            return invalid(f"/payments/{place}/idempotencyKey", "Another payment of the call has the same key.")
        keys.add(order.idempotency_key)
    return None


def _credit_order(caller: Caller, order: messages.CreditInBulk) -> CreditOrder:
    return CreditOrder(
        credit=order.alone,
        idempotency_key=order.idempotency_key,
        actor=caller.subject,
        request_id=caller.request_id,
        trace=caller.trace,
    )


def _unknown_currency(code: str, pointer: str = "/currency") -> Refusal:
    return invalid(pointer, f"{code} is not a currency of ISO 4217 that the platform knows.")


# --- rendering ----------------------------------------------------------------------------------------------------


def _answered(intent: Intent, *, replayed: bool) -> Answered:
    return Answered(telling.refusal_of(intent) or _answer(intent), replayed)


def _all_answered(bulk: Bulk, *, replayed: bool) -> list[Answered]:
    return [_answered(Intent(payment), replayed=replayed) for payment in bulk.payments]


def _answer(intent: Intent) -> messages.Payment | messages.Refund:
    """What was answered to the request when it had succeeded, whatever has happened to the payment since."""
    payment, operation = intent.payment, intent.operation
    if operation is None:
        return _message(payments.as_settled(payment))
    match operation.kind:
        case Kind.CAPTURE:
            return _message(payments.as_captured(payment, operation.updated_at))
        case Kind.VOID | Kind.EXPIRY:
            return _message(payment)  # It is over: nothing has happened to it since.
        case Kind.REFUND:
            return _refund_message(payment, operation)
    assert_never(operation.kind)


def _message(payment: Payment) -> messages.Payment:
    charge = payment.charge
    return messages.Payment(
        transaction_id=payment.id,
        status=payment.status,
        customer_id=payment.customer_id,
        merchant_id=payment.merchant_id,
        amount=charge.amount,
        fee=charge.fee,
        net_amount=charge.net,
        authorized_amount=payment.amount,
        refunded_amount=payment.refunded_amount,
        currency=payment.currency,
        reference=payment.reference,
        description=payment.description,
        metadata=dict(payment.metadata),
        failure_reason=payment.failure.reason.code if payment.failure else None,
        created_at=rfc3339(payment.created_at),
        updated_at=rfc3339(payment.updated_at),
    )


def _refund_message(payment: Payment, refund: Operation) -> messages.Refund:
    return messages.Refund(
        refund_id=refund.id,
        transaction_id=payment.id,
        amount=refund.amount,
        currency=payment.currency,
        reason=refund.reason,
        status=refund.status,
        failure_reason=refund.failure.reason.code if refund.failure else None,
        created_at=rfc3339(refund.created_at),
    )


def _history_entry(row: Row[Any]) -> messages.HistoryEntry:
    return messages.HistoryEntry(status=row.status, at=rfc3339(row.at), actor=row.actor, reason=row.reason or UNSET)
