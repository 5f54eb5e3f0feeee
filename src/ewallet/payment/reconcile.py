"""Reconciliation: payments and the wallet's groups are compared in both directions, and put right where that is safe.

When one of the two databases was put back to an older copy, the other one knows more. What only the wallet knows is
written down again from the memo on the order and goes through the saga like a request, which finds its group decided.
What only payment knows is ordered again under the same ids, if the wallet would post it; what had been refused is
refused for good.

All of it is harmless beside a running platform: a payment is written down before the wallet hears of it and has its
verdict only after the wallet's, and each comparison first reads what is written last.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial

import structlog
from sqlalchemy import Connection

from ewallet.kernel.caller import platform
from ewallet.kernel.clock import Clock
from ewallet.kernel.errors import Refusal
from ewallet.payment import store
from ewallet.payment.domain import postings
from ewallet.payment.domain.memos import operation_from, payment_from
from ewallet.payment.domain.operations import Intent, Kind, OperationStatus, Verdict, needs_compensation
from ewallet.payment.domain.payments import Payment, PaymentStatus
from ewallet.payment.domain.postings import Group
from ewallet.payment.saga import Saga, group_order
from ewallet.plumbing.audit import SUCCEEDED, AuditRecord
from ewallet.plumbing.database import Database
from ewallet.wallet.client import WalletBooks
from ewallet.wallet.messages import GroupOrder, GroupPosted, GroupRefused, StoredOrder

log = structlog.get_logger()

AT_ONCE = 200
"""Intents compared by one question to the wallet."""

_ACTOR = platform("reconciliation")


@dataclass(frozen=True, slots=True)
class Case:
    """One disagreement: about which payment or operation, over how much, what was done, and whether that settles it."""

    id: str
    what: str
    amount: int
    currency: str
    done: str
    settled: bool


@dataclass(frozen=True, slots=True)
class Expected:
    """A group that the wallet must know, and whether it must be ``posted``; None where either will do."""

    group: Group
    posted: bool | None


class Reconciliation:
    """Compares everything that has come to a verdict."""

    def __init__(self, database: Database, wallet: WalletBooks, saga: Saga, *, clock: Clock) -> None:
        self._database = database
        self._wallet = wallet
        self._saga = saga
        self._clock = clock

    async def run(self) -> list[Case]:
        """Everything that disagreed. What can be put right is, again and again while that makes more of it possible."""
        settled = [case async for case in self._known_to_the_wallet()]
        while True:
            cases = [case async for case in self._known_to_payment()]
            progress = [case for case in cases if case.settled]
            settled += progress
            if not progress:
                return settled + cases

    # --- what the wallet knows ------------------------------------------------------------------------------------

    async def _known_to_the_wallet(self) -> AsyncIterator[Case]:
        """Write down again what payment has lost, in the order in which it happened."""
        after: int | None = 0
        while after is not None:
            page = await self._wallet.orders_after(after)
            ours = [stored for stored in page.items if stored.order.memo is not None]
            known = await self._known({_own_id(stored.order) for stored in ours})
            for stored in ours:
                intent = known.get(_own_id(stored.order))
                if intent is None:
                    yield await self._write_down(stored)
                elif intent.own.is_pending:
                    # What is written down behind it may need its outcome; recovery would have come to it, too.
                    await self._saga.finish(intent)
            after = page.after

    async def _known(self, ids: set[str]) -> dict[str, Intent]:
        """Those intents that are written down, by their ids."""

        def find(tx: Connection) -> dict[str, Intent]:
            found = store.find_operations(tx, ids)
            payments = {each.id: each for each in store.find(tx, ids | {each.payment_id for each in found})}
            by_operation = {each.id: Intent(payments[each.payment_id], each) for each in found}
            return {key: Intent(payment) for key, payment in payments.items()} | by_operation

        return await self._database.reading(find)

    async def _write_down(self, stored: StoredOrder) -> Case:
        order, what = stored.order, "the wallet has it, payment had lost it"
        intent = await self._rebuilt(order)
        outcome = await self._saga.carry_out(intent, platform(order.request_id))
        if isinstance(outcome, Refusal) or outcome.own.id != intent.own.id:
            return await self._reported(intent, what, "nothing: its idempotency key was used again", settled=False)
        agreed = isinstance(stored.outcome, GroupPosted) != (outcome.own.failure is not None)
        return await self._reported(intent, what, f"written down again, {outcome.own.status}", settled=agreed)

    async def _rebuilt(self, order: GroupOrder) -> Intent:
        memo, payment_id = order.memo or {}, order.transaction_id or ""
        if "operation" not in memo:
            return Intent(_rebuilt_payment(order))
        [payment] = await self._database.reading(lambda tx: store.find(tx, [payment_id]))
        return Intent(payment, operation_from(memo, payment_id, order.request_id))

    # --- what payment knows ---------------------------------------------------------------------------------------

    async def _known_to_payment(self) -> AsyncIterator[Case]:
        """Order again what the wallet has lost; name what the two have decided differently."""
        for find in (store.payments_after, store.operations_after):
            after = ""
            while page := await self._database.reading(partial(find, after=after, limit=AT_ONCE)):
                expected = {each.group.id: (intent, each) for intent in page for each in _expected(intent)}
                stored = {each.order.id: each for each in await self._wallet.find_orders(list(expected))}
                for group_id, (intent, wanted) in expected.items():
                    case = await self._compared(intent, wanted, stored.get(group_id))
                    if case is not None:
                        yield case
                after = page[-1].own.id

    async def _compared(self, intent: Intent, expected: Expected, stored: StoredOrder | None) -> Case | None:
        order = group_order(intent, expected.group)
        if stored is None:
            return await self._order_again(intent, order, posted=expected.posted)
        if stored.order.transfers != order.transfers:
            return await self._reported(intent, "the wallet has other transfers", "nothing", settled=False)
        posted = isinstance(stored.outcome, GroupPosted)
        if expected.posted in (posted, None):
            return None
        what = f"{intent.own.status}, but the wallet has {'posted' if posted else 'refused'} it"
        return await self._reported(intent, what, "nothing", settled=False)

    async def _order_again(self, intent: Intent, order: GroupOrder, *, posted: bool | None) -> Case:
        """The same order with the same ids, where that leads to the same: an outcome stands for ever."""
        what = f"{intent.own.status}, but the wallet had lost it"
        if posted is False:
            await self._wallet.abandon_group(order)
            return await self._reported(intent, what, "refused for good", settled=True)
        foretold = await self._wallet.try_group(order)
        if posted and isinstance(foretold, GroupRefused):
            return await self._reported(intent, what, f"nothing: {foretold.detail}", settled=False)
        outcome = await self._wallet.post_group(order)
        again = isinstance(outcome, GroupPosted)
        return await self._reported(intent, what, "posted again" if again else "refused", settled=again or not posted)

    async def _reported(self, intent: Intent, what: str, done: str, *, settled: bool) -> Case:
        """The case; what was done about it is audited, too."""
        amount = intent.payment.amount if intent.operation is None else intent.operation.amount
        case = Case(intent.own.id, what, amount, intent.payment.currency, done, settled)
        log.warning("payment.reconciled", payment=case.id, what=what, amount=amount, currency=case.currency, done=done)
        if settled:
            detail = {"intent": case.id, "what": what, "done": done, "amount": amount, "currency": case.currency}
            subject = intent.payment.id
            record = AuditRecord(_ACTOR.subject, "payment.reconcile", subject, _ACTOR.request_id, SUCCEEDED, detail)
            await self._database.writing(lambda tx: store.audit.append(tx, self._clock(), [record]))
        return case


def _own_id(order: GroupOrder) -> str:
    """The id of the intent that an order of payment's carries out."""
    return str((order.memo or {}).get("operation") or order.transaction_id)


def _rebuilt_payment(order: GroupOrder) -> Payment:
    """The payment that an order began, by its transfers and its memo."""
    first = order.transfers[0]
    return payment_from(
        order.memo or {},
        order.transaction_id or "",
        customer_id=owner_in(first.debit_account),
        merchant_id=owner_in(first.credit_account),
        amount=sum(transfer.amount for transfer in order.transfers),
        currency=first.currency,
        hold_seconds=first.timeout_seconds,
        reference=order.reference,
        description=order.description,
        request_id=order.request_id,
    )


def owner_in(account_id: str) -> str:
    """Whose account it is."""
    return account_id.rpartition(":")[0]


def _expected(intent: Intent) -> Iterator[Expected]:
    """The groups that the wallet must have decided for an intent with a verdict."""
    payment, operation = intent.payment, intent.operation
    if operation is None:
        yield Expected(postings.group_of(intent), posted=payment.status is not PaymentStatus.FAILED)
    elif operation.kind is Kind.EXPIRY:
        if operation.status is OperationStatus.SUCCESS:
            # The wallet releases a hold at its end by itself, and then refuses to do so again.
            yield Expected(postings.group_of(intent), posted=None)
    elif operation.status is OperationStatus.SUCCESS:
        yield Expected(postings.group_of(intent), posted=True)
    elif operation.updated_at > operation.created_at:  # else it failed before the wallet was asked
        yield Expected(postings.group_of(intent), posted=False)
        if needs_compensation(operation, Verdict(failure=operation.failure)):
            yield Expected(postings.releasing(payment, operation), posted=None)
