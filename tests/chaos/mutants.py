"""Mistakes that others have made with money, each as a patch of the product in a process of its own.

Only the launcher applies one, before the product starts. ``tests/chaos/hunts.py`` says which check finds it.
"""

import secrets
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, event, select
from sqlalchemy.exc import DBAPIError

from ewallet.kernel.caller import Caller
from ewallet.kernel.errors import OutcomeUnknown, Reason, Refusal
from ewallet.kernel.ids import derived_id
from ewallet.notification.service import NotificationService
from ewallet.payment import saga as payment_saga
from ewallet.payment import store as payment_store
from ewallet.payment.domain import postings
from ewallet.payment.domain.operations import Intent
from ewallet.payment.domain.operations import Verdict as PaymentVerdict
from ewallet.payment.domain.payments import Failure, Payment
from ewallet.payment.saga import Ask, Saga
from ewallet.payment.worker import Recovery
from ewallet.plumbing import failpoints, statements
from ewallet.plumbing.audit import AuditLog, AuditRecord
from ewallet.plumbing.database import Database, DatabaseUnavailable
from ewallet.plumbing.outbox import Event, Outbox
from ewallet.wallet import service as wallet_service
from ewallet.wallet import store as wallet_store
from ewallet.wallet.domain import ledger
from ewallet.wallet.domain.nouns import Account
from ewallet.wallet.domain.verdicts import Verdict
from ewallet.wallet.messages import GroupPosted

MUTANTS: dict[str, Callable[[], None]] = {}
"""What each mistake does to the product, by its name."""


def mutant(apply: Callable[[], None]) -> Callable[[], None]:
    """Register a mistake under the name of its function."""
    MUTANTS[apply.__name__] = apply
    return apply


def _patch(owner: Any, name: str, changed: Any) -> None:
    """Replace what an owner has under a name, which must be there: a mutant of code that is gone would be none."""
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name} to mutate")
    setattr(owner, name, changed)


@mutant
def a_failed_commit_is_answered_as_success() -> None:
    """The error of a COMMIT is logged, and the answer that was prepared before it is sent."""
    transact = Database.transact

    def swallowing(self: Database, work: Callable[[Connection], Any]) -> Any:
        results: list[Any] = []
        try:
            transact(self, lambda tx: results.append(work(tx)))
        except (DBAPIError, DatabaseUnavailable):
            if not results:
                raise
        return results[-1]

    _patch(Database, "transact", swallowing)


@mutant
def a_refusal_is_not_kept() -> None:
    """Only successes are stored under their id, so that the repetition of a refused request is judged anew."""
    store_outcome = wallet_service._Batch._store_outcome

    def forgetting(self: wallet_service._Batch, *arguments: Any, **named: Any) -> wallet_store.StoredGroup:
        stored = store_outcome(self, *arguments, **named)
        if stored.reason is not None:
            self.new_groups.remove(stored)
            del self.groups[stored.id]
        return stored

    _patch(wallet_service._Batch, "_store_outcome", forgetting)


@mutant
def a_key_is_checked_and_then_written() -> None:
    """Whether a key is known is looked up in another transaction than the one that writes it."""
    find = payment_store.find

    async def once(self: Saga, intent: Intent, caller: Caller) -> Intent | Refusal:
        payment = intent.payment
        prefix = f"{payment.identity} "
        known = select(payment_store.payments.c.id).where(payment_store.payments.c.identity.startswith(prefix))
        earlier = await self._database.reading(lambda tx: find(tx, tx.execute(known).scalars().all()))
        if earlier:
            return payment_saga.outcome_of_copy(Intent(earlier[0]), payment.request_hash)
        return await self._carry_out(Intent(replace(payment, identity=prefix + payment.id)), caller)

    _patch(Saga, "carry_out", once)


@mutant
def the_fee_is_booked_afterwards() -> None:
    """The merchant's part and the fee are two groups, and nobody remembers the second when the process dies."""
    group_of, carry_out = postings.group_of, Saga._carry_out

    async def both(self: Saga, intent: Intent, caller: Caller) -> Intent | Refusal:
        outcome = await carry_out(self, intent, caller)
        if isinstance(outcome, Refusal) or outcome.own.id != intent.own.id:
            return outcome
        whole = group_of(intent)
        fee = postings.Group(derived_id("grp", intent.own.id, "fee"), whole.legs[1:])
        await self._wallet.post_group(payment_saga.group_order(intent, fee))
        return outcome

    def net_only(intent: Intent) -> postings.Group:
        return replace(group_of(intent), legs=group_of(intent).legs[:1])

    _patch(postings, "group_of", net_only)
    _patch(Saga, "_carry_out", both)


@mutant
def a_balance_is_read_before_it_is_locked() -> None:
    """Balances are computed from what was read when the last batch began, and then written whole."""
    accounts_by_id = wallet_store.accounts_by_id
    read_before: dict[str, Account] = {}

    def stale(tx: Connection, ids: Collection[str], *, lock: bool) -> dict[str, Account]:
        fresh = accounts_by_id(tx, ids, lock=lock)
        used = {each: replace(read_before.get(each, account)) for each, account in fresh.items()}
        read_before.update({each: replace(account) for each, account in fresh.items()})
        return used

    _patch(wallet_store, "accounts_by_id", stale)


@mutant
def nobody_looks_for_more_than_there_is() -> None:
    """No check of the funds: not in the rules, not before the write, not in the table."""
    check = ledger.check

    def generous(*arguments: Any) -> Verdict | None:
        verdict = check(*arguments)
        return None if verdict is Verdict.EXCEEDS_CREDITS else verdict

    _patch(ledger, "check", generous)
    _patch(ledger, "require_sound", lambda *_arguments: None)

    def unchecked(connection: Any, _record: Any) -> None:
        sqlite, mariadb = "PRAGMA ignore_check_constraints = 1", "SET check_constraint_checks = 0"
        connection.cursor().execute(sqlite if isinstance(connection, sqlite3.Connection) else mariadb)

    event.listen(Engine, "connect", unchecked)


@mutant
def nobody_finishes_what_a_dead_process_began() -> None:
    """Recovery never finds anything."""

    async def idle(_self: Recovery) -> int:
        return 0

    _patch(Recovery, "run_once", idle)


@mutant
def a_timeout_is_taken_for_a_refusal() -> None:
    """A lost answer of the wallet fails the payment, whatever the wallet has done."""

    async def impatient(_self: Saga, intent: Intent, ask: Ask) -> PaymentVerdict:
        try:
            outcome = await ask(payment_saga.group_order(intent, postings.group_of(intent)))
            failpoints.reached("payment.move.after")
        except OutcomeUnknown:
            return PaymentVerdict(failure=Failure(Reason.INVALID_STATE, "The wallet did not answer in time."))
        return payment_saga._verdict(outcome)

    _patch(Saga, "_move", impatient)


@mutant
def a_timeout_is_compensated() -> None:
    """A lost answer of the wallet is answered by paying the customer back, whatever the wallet has done."""

    async def hasty(_self: Saga, intent: Intent, ask: Ask) -> PaymentVerdict:
        order = payment_saga.group_order(intent, postings.group_of(intent))
        try:
            outcome = await ask(order)
            failpoints.reached("payment.move.after")
        except OutcomeUnknown:
            back = tuple(
                msgspec.structs.replace(
                    leg,
                    id=derived_id("trf", leg.id, "back"),
                    debit_account=leg.credit_account,
                    credit_account=leg.debit_account,
                    credit_role=None,
                )
                for leg in order.transfers
            )
            compensation = msgspec.structs.replace(
                order, id=derived_id("grp", intent.own.id, "back"), transfers=back, spender=None
            )
            if isinstance(await ask(compensation), GroupPosted):
                return PaymentVerdict(failure=Failure(Reason.INVALID_STATE, "The money was paid back."))
            raise
        return payment_saga._verdict(outcome)

    _patch(Saga, "_move", hasty)


@mutant
def an_event_is_written_after_the_commit() -> None:
    """The outbox has its own transaction, behind the one that caused the event."""
    add, transact = Outbox.add, Database.transact
    remembered: list[tuple[Outbox, Sequence[Event]]] = []

    def late(self: Database, work: Callable[[Connection], Any]) -> Any:
        result = transact(self, work)
        while remembered:
            outbox, events = remembered.pop()
            transact(self, lambda tx: add(outbox, tx, events))  # noqa: B023  # called at once
        return result

    _patch(Outbox, "add", lambda self, _tx, events: remembered.append((self, events)) if events else None)
    _patch(Database, "transact", late)


@mutant
def an_event_is_not_known_again() -> None:
    """A notification's id is a new one each time, so that an event that comes again is told again."""
    notifications = NotificationService._notifications

    def anew(self: NotificationService, told: Event) -> list[Any]:
        return [each._replace(id=f"ntf_{secrets.token_hex(13)}") for each in notifications(self, told)]

    _patch(NotificationService, "_notifications", anew)


@mutant
def an_audit_record_is_dropped() -> None:
    """The last record of each transaction is counted and forgotten; the chain of the others is whole."""
    append = AuditLog.append

    def forgetful(self: AuditLog, tx: Connection, at: int, records: Sequence[AuditRecord]) -> range:
        if not records:
            return range(0)
        append(self, tx, at, records[:-1])
        (before_last,) = statements.lock_head(tx, self.head, "sequence")
        statements.set_head(tx, self.head, sequence=before_last + 1)
        return range(before_last + 2 - len(records), before_last + 2)

    _patch(AuditLog, "append", forgetful)


@mutant
def a_list_breaks_off() -> None:
    """The second page of payments cannot be read."""
    page = payment_store.page

    def broken(tx: Connection, **wanted: Any) -> list[Payment]:
        if wanted.get("before") is not None:
            raise RuntimeError("the second page")
        return page(tx, **wanted)

    _patch(payment_store, "page", broken)
