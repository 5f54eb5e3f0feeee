"""Reconciliation: payments, the wallet's groups and what was told are compared, and put right where that is safe.

When one of the databases was put back to an older copy, the others know more. What only the wallet knows is written
down again from the memo on the order and goes through the saga like a request, which finds its group decided. What only
payment knows is ordered again under the same ids, if the wallet would post it; what had been refused is refused for
good. Events are rebuilt from the books and told again under the same ids.

All of it is harmless beside a running platform: a payment is written down before the wallet hears of it, has its
verdict only after the wallet's, and its event leaves the outbox only when it has arrived. Each comparison first reads
what is written last, so that what is under way is no disagreement.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from ewallet.kernel.caller import Role, platform
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock
from ewallet.kernel.errors import Refusal
from ewallet.kernel.money import Money
from ewallet.payment import store
from ewallet.payment.domain import postings, telling
from ewallet.payment.domain.memos import operation_from, payment_from
from ewallet.payment.domain.operations import (
    Intent,
    Kind,
    Operation,
    OperationStatus,
    Verdict,
    as_left_by,
    needs_compensation,
)
from ewallet.payment.domain.payments import Payment, PaymentStatus, as_settled
from ewallet.payment.domain.postings import Group
from ewallet.payment.saga import LEASE_SECONDS, Saga, event_of, group_order
from ewallet.plumbing.audit import SUCCEEDED, AuditRecord
from ewallet.plumbing.database import Database
from ewallet.plumbing.reconciling import AT_ONCE, Case, Compared, Receiver, Retelling, Told
from ewallet.wallet.client import WalletBooks
from ewallet.wallet.messages import GroupOrder, GroupPosted, GroupRefused, OpenWallet, StoredOrder

log = structlog.get_logger()

_ACTOR = platform("reconciliation")

_FORGOTTEN = "the wallet has it, payment had lost it"

_ORDERED = ("transfers", "transaction_id", "reference", "description", "spender", "memo")
"""What must be the same in an order and in what the wallet has stored under its id."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Expected:
    """A group that the wallet must know, and whether it must be ``posted``; None where either will do."""

    group: Group
    posted: bool | None


class Reconciliation:
    """Compares everything that has come to a verdict."""

    def __init__(
        self, database: Database, wallet: WalletBooks, saga: Saga, *, receiver: Receiver, clock: Clock
    ) -> None:
        self._database = database
        self._wallet = wallet
        self._saga = saga
        self._retelling = Retelling(database, store.outbox, receiver, told_after)
        self._clock = clock

    async def run(self) -> list[Case]:
        """Everything that disagreed. What can be put right is, again and again while that makes more of it possible."""
        settled = [case async for case in self._known_to_the_wallet()]
        while True:
            cases = [case async for case in _walk(self._wallet.repeat_movements)]
            cases += [case async for case in self._known_to_payment()]
            progress = [case for case in cases if case.settled]
            settled += progress
            if not progress:
                return settled + cases + await self._untold()

    async def _untold(self) -> list[Case]:
        """What the books say was told, and did not arrive; when the books agree."""
        return [case for page in (self._retelling.page, self._wallet.repeat_events) async for case in _walk(page)]

    # --- what the wallet knows ------------------------------------------------------------------------------------

    async def _known_to_the_wallet(self) -> AsyncIterator[Case]:
        """Write down again what payment has lost, in the order in which it happened."""
        after: int | None = 0
        while after is not None:
            page = await self._wallet.orders_after(after)
            ours = [stored for stored in page.items if stored.order.memo is not None]
            first_by_id = {_own_id(stored.order): stored for stored in reversed(ours)}
            known = await self._known(set(first_by_id))
            for stored in reversed(first_by_id.values()):
                intent = known.get(_own_id(stored.order))
                case = await (self._write_down(stored) if intent is None else self._finish(intent, stored))
                if case is not None:
                    yield case
            after = page.after

    async def _known(self, ids: set[str]) -> dict[str, Intent]:
        """Those intents that are written down, by their ids."""

        def find(tx: Connection) -> dict[str, Intent]:
            found = store.find_operations(tx, ids)
            payments = {each.id: each for each in store.find(tx, ids | {each.payment_id for each in found})}
            by_operation = {each.id: Intent(payments[each.payment_id], each) for each in found}
            return {key: Intent(payment) for key, payment in payments.items()} | by_operation

        return await self._database.reading(find)

    async def _finish(self, intent: Intent, stored: StoredOrder) -> Case | None:
        """Finish what was left behind, as recovery would: what is written down behind it may need its outcome."""
        if not intent.own.is_pending or self._is_under_way(intent):
            return None
        if (difference := _difference(intent, stored)) is not None:
            return await self._reported(intent, f"PENDING, but {difference}", "nothing", settled=False)
        await self._saga.finish(intent)
        return None

    def _is_under_way(self, intent: Intent) -> bool:
        """Whether the process that began it may still be carrying it out."""
        return self._clock() - intent.own.created_at < LEASE_SECONDS * MICROSECONDS_PER_SECOND

    async def _write_down(self, stored: StoredOrder) -> Case:
        intent = await self._rebuilt(stored.order)
        if intent is None:
            return _orphan(stored.order)
        if (difference := _difference(intent, stored)) is not None:
            return await self._reported(intent, f"{_FORGOTTEN}, and {difference}", "nothing", settled=False)
        outcome = await self._saga.carry_out(intent, platform(stored.order.request_id))
        if isinstance(outcome, Refusal) or outcome.own.id != intent.own.id:
            return await self._reported(
                intent, _FORGOTTEN, "nothing: its idempotency key was used again", settled=False
            )
        agreed = isinstance(stored.outcome, GroupPosted) != (outcome.own.failure is not None)
        return await self._reported(intent, _FORGOTTEN, f"written down again, {outcome.own.status}", settled=agreed)

    async def _rebuilt(self, order: GroupOrder) -> Intent | None:
        """What an order carried out; None for an operation on a payment that could not be written down itself."""
        memo, payment_id = order.memo or {}, order.transaction_id or ""
        if "operation" not in memo:
            return Intent(_rebuilt_payment(order))
        found = await self._database.reading(lambda tx: store.find(tx, [payment_id]))
        return Intent(found[0], operation_from(memo, payment_id, order.request_id)) if found else None

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
        if stored is None:
            return await self._order_again(intent, group_order(intent, expected.group), posted=expected.posted)
        if (difference := _difference(intent, stored)) is not None:
            return await self._reported(intent, f"{intent.own.status}, but {difference}", "nothing", settled=False)
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
        if posted:
            await self._open_balances(intent.payment)
            order = msgspec.structs.replace(order, applied_at=intent.own.updated_at)
        foretold = await self._wallet.try_group(order)
        if posted and isinstance(foretold, GroupRefused):
            return await self._reported(intent, what, f"nothing: {foretold.detail}", settled=False)
        outcome = await self._wallet.post_group(order)
        again = isinstance(outcome, GroupPosted)
        return await self._reported(intent, what, "posted again" if again else "refused", settled=again or not posted)

    async def _open_balances(self, payment: Payment) -> None:
        """Both sides had a balance in the payment's currency; opening what is open changes nothing."""
        for owner, role in ((payment.customer_id, Role.CUSTOMER), (payment.merchant_id, Role.MERCHANT)):
            await self._wallet.open_wallet(
                OpenWallet(
                    owner=owner,
                    role=role,
                    currency=payment.currency,
                    actor=_ACTOR.subject,
                    request_id=_ACTOR.request_id,
                )
            )

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


async def _walk(page: Callable[[int], Awaitable[Compared]]) -> AsyncIterator[Case]:
    """The cases of all pages."""
    after: int | None = 0
    while after is not None:
        compared = await page(after)
        for case in compared.cases:
            yield case
        after = compared.after


def told_after(tx: Connection, after: int) -> Told:
    """The events of a page of the audit, each as it was when it was told: a move that was audited was told, too."""
    records = store.audit.following(tx, after, AT_ONCE)
    moves = [(row, detail) for row in records if "line" in (detail := _decode(row.detail))]
    payments = {each.id: each for each in store.find(tx, {row.subject for row, _ in moves})}
    ids = {detail["operation"] for _, detail in moves if "operation" in detail}
    operations = {each.id: each for each in store.find_operations(tx, ids)}
    intents = [_moved(payments[row.subject], operations, detail) for row, detail in moves]
    # A payment that says something else than the audit was changed by hand: nobody is told that.
    told = [intent for intent, (row, _) in zip(intents, moves, strict=True) if _says(intent, row.action)]
    return Told([event_of(intent) for intent in told], records[-1].sequence if records else None)


def _moved(payment: Payment, operations: Mapping[str, Operation], detail: Mapping[str, Any]) -> Intent:
    """What has moved a payment, with the payment as it was right then."""
    if "operation" not in detail:
        return Intent(as_settled(payment))
    operation = operations[detail["operation"]]
    return Intent(as_left_by(payment, operation, detail.get("refundedAmount", 0)), operation)


def _says(intent: Intent, action: str) -> bool:
    return telling.audit_action(intent.payment, intent.operation) == action


def _own_id(order: GroupOrder) -> str:
    """The id of the intent that an order of payment's carries out."""
    return str((order.memo or {}).get("operation") or order.transaction_id)


def _orphan(order: GroupOrder) -> Case:
    """An operation whose payment is not there either."""
    memo, done = order.memo or {}, "nothing: its payment could not be written down"
    return Case(_own_id(order), _FORGOTTEN, memo["amount"], order.transfers[0].currency, done, settled=False)


def _difference(intent: Intent, stored: StoredOrder) -> str | None:
    """In what the wallet's order is another one than the intent's, with its amount; None where they are the same."""
    orders = {each.id: group_order(intent, each) for each in _groups(intent)}
    order = orders[stored.order.id]
    name = next((name for name in _ORDERED if getattr(order, name) != getattr(stored.order, name)), None)
    if name is None:
        return None
    transfers = stored.order.transfers
    total = Money(sum(transfer.amount for transfer in transfers), transfers[0].currency)
    return f"the wallet has an order of {total} by its id, with a different {name}"


def _groups(intent: Intent) -> Iterator[Group]:
    """All groups that carrying out an intent may ask the wallet for."""
    yield postings.group_of(intent)
    if intent.operation is not None:
        yield postings.releasing(intent.payment, intent.operation)


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
