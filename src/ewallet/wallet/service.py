"""The wallet's use cases. Everything that writes goes through one batcher: a transaction is whatever arrived together.

A batch reads what its items name (:class:`_Needs`), lets each item decide in the order of arrival, in memory, and
writes what was decided with a handful of statements (:class:`_Batch`). A refusal is a result like any other.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Any, assert_never

import msgspec
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import Clock, parse_rfc3339, rfc3339
from ewallet.kernel.errors import InvariantBroken, Reason, Refusal, invalid, not_found, unwrap
from ewallet.kernel.ids import derived_id, new_id
from ewallet.kernel.money import is_currency
from ewallet.plumbing import failpoints, tracing
from ewallet.plumbing.audit import SUCCEEDED, AuditRecord
from ewallet.plumbing.batching import Batcher, Gatherer
from ewallet.plumbing.database import Database
from ewallet.plumbing.deadlines import request_ends_at
from ewallet.plumbing.http.contract import decode_cursor, encode_cursor
from ewallet.plumbing.http.trails import AuditTrail, audit_trail
from ewallet.plumbing.outbox import Event
from ewallet.plumbing.reconciling import Case, Compared, KeptEvent, Receiver, Retelling
from ewallet.plumbing.verifying import digest
from ewallet.wallet import reconcile, store
from ewallet.wallet.domain import ledger
from ewallet.wallet.domain.limits import (
    UNLIMITED,
    LimitSchedule,
    exceeded,
    left,
    limit_refusal,
    spending_of,
    spent,
)
from ewallet.wallet.domain.nouns import (
    PLATFORM,
    PLATFORM_OWNERS,
    Account,
    Book,
    Entry,
    Hold,
    Kind,
    Limits,
    Transfer,
    owner_of,
)
from ewallet.wallet.domain.verdicts import Verdict, refusal_of
from ewallet.wallet.domain.wallets import CLOSED, Change, Status, Wallet, set_status, status_after
from ewallet.wallet.messages import (
    BalanceView,
    CreditBooked,
    CreditOrder,
    CreditOutcome,
    CreditRefused,
    GroupOrder,
    GroupOutcome,
    GroupPosted,
    GroupRefused,
    LimitsView,
    LimitView,
    MoneyMoved,
    MovementType,
    MoveMoney,
    OpenWallet,
    SetLimits,
    Statement,
    StatementEntry,
    StoredOrder,
    StoredOrders,
    TransferOrder,
    ValidateWallet,
    Validation,
    WalletStatus,
    WalletView,
    cash_account,
    wallet_account,
)
from ewallet.wallet.store import StatementFilter, StoredGroup, StoredKey

log = structlog.get_logger()

EXPIRED_AT_ONCE = 200
"""Holds ended in one round of the expiry; a batch takes no more than 256 items."""

LISTED_AT_ONCE = 500
"""Audit records behind one page of orders: half a megabyte or so."""

Position = tuple[Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]]
"""Where a page of a list ends: a sequence that the database can compare."""

# --- what can be asked of a batch ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Abandonment:
    """A group of another service that is given up."""

    order: GroupOrder


@dataclass(frozen=True, slots=True)
class Chain:
    """Groups of another service that are applied together or not at all."""

    orders: tuple[GroupOrder, ...]


@dataclass(frozen=True, slots=True)
class Movement:
    """A direct credit or debit. The reference is an idempotency key: it determines the id of the group."""

    caller: Caller
    type: MovementType
    request: MoveMoney
    idempotency_key: str | None
    transfer_id: str

    @property
    def group_id(self) -> str:
        return derived_id("grp", self.caller.subject, f"reference\0{self.request.reference}")

    @property
    def key_id(self) -> str | None:
        if self.idempotency_key is None:
            return None
        return derived_id("key", self.caller.subject, f"key\0{self.idempotency_key}")

    @property
    def transfer(self) -> Transfer:
        request = self.request
        own, cash = wallet_account(request.customer_id, request.currency), cash_account(request.currency)
        debit, credit = (own, cash) if self.type is MovementType.DEBIT else (cash, own)
        return Transfer(self.transfer_id, Kind.POSTED, debit, credit, request.amount, request.currency)


@dataclass(frozen=True, slots=True)
class Moved:
    """The answer to a movement, and whether it is the answer of an earlier request."""

    answer: MoneyMoved | Refusal
    replayed: bool


@dataclass(frozen=True, slots=True)
class Opening:
    """A balance to be opened; ``role`` is None where the wallet must exist already."""

    owner: str
    role: Role | None
    currency: str
    actor: str
    request_id: str


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A wallet to be frozen, unfrozen or closed; ``id`` names the event that it causes."""

    id: str
    caller: Caller
    owner: str
    change: Change
    reason: str


@dataclass(frozen=True, slots=True)
class LimitsChange:
    """Own limits for one balance of a wallet; None takes them away."""

    caller: Caller
    owner: str
    currency: str
    limits: Limits | None

    @property
    def account_id(self) -> str:
        return wallet_account(self.owner, self.currency)


@dataclass(frozen=True, slots=True)
class Expiry:
    """A hold whose time seems to be over."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class Repetition:
    """A movement that was booked once and has been lost."""

    movement: Movement


Item = GroupOrder | Chain | Abandonment | Movement | Repetition | Opening | StatusChange | LimitsChange | Expiry


@dataclass(slots=True)
class _Needs:
    """Everything that the items of a batch name, so that it can be read before anything is decided."""

    owners: set[str] = field(default_factory=set)
    accounts: set[str] = field(default_factory=set)
    spenders: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    transfers: set[str] = field(default_factory=set)
    holds: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)

    def add(self, item: Item) -> None:
        match item:
            case GroupOrder():
                self.groups.add(item.id)
                for transfer in item.transfers:
                    self._add_transfer(transfer)
                    if item.spender is not None:
                        self.spenders.add(wallet_account(item.spender, transfer.currency))
            case Chain():
                for order in item.orders:
                    self.add(order)
            case Abandonment():
                self.add(item.order)  # the same locks, so that it waits for whoever is posting the same order
            case Movement():
                self.groups.add(item.group_id)
                self._add_transfer(item.transfer)
                if item.key_id is not None:
                    self.keys.add(item.key_id)
            case Repetition():
                self.add(item.movement)
            case Opening():
                self.owners.add(item.owner)
                self.accounts.update(wallet_account(owner, item.currency) for owner in (item.owner, *PLATFORM_OWNERS))
            case StatusChange():
                self.owners.add(item.owner)
            case LimitsChange():
                self.accounts.add(item.account_id)
            case Expiry():
                self.holds.add(item.hold.id)
                self.accounts.update((item.hold.debit_account, item.hold.credit_account))
            case _:
                assert_never(item)

    def _add_transfer(self, transfer: TransferOrder | Transfer) -> None:
        self.transfers.add(transfer.id)
        self.accounts.add(transfer.debit_account)
        self.accounts.add(transfer.credit_account)
        if transfer.pending_id is not None:
            self.holds.add(transfer.pending_id)


class _Batch:
    """One transaction: what it has read and locked, what its items have decided, and what it will write.

    With ``lock=False`` it can decide, but must not write.
    """

    def __init__(
        self, tx: Connection, items: Sequence[Item], now: int, *, schedule: LimitSchedule, lock: bool = True
    ) -> None:
        needs = _Needs()
        for item in items:
            needs.add(item)
        # Wallets before accounts, each in sorted order: whoever follows the same order cannot deadlock.
        self.wallets = store.wallets_by_owner(tx, needs.owners, lock=lock)
        needs.accounts.update(store.account_ids_of(tx, needs.owners))
        accounts = store.accounts_by_id(tx, needs.accounts, lock=lock)
        # Only now, behind the locks, is an outcome looked up: the loser of a race must see what the winner stored.
        self.groups = store.groups_by_id(tx, needs.groups)
        self.keys = store.keys_by_id(tx, needs.keys)
        self.book = Book(
            accounts,
            roles=store.roles_of(tx, {owner_of(each) for each in needs.accounts - accounts.keys()}),
            holds=store.holds_by_id(tx, needs.holds),
            taken_ids=store.taken_transfer_ids(tx, needs.transfers),
        )
        self.schedule = schedule
        spenders = [accounts[each] for each in needs.spenders if each in accounts]
        self.book.limits = {each.id: schedule.of(each.currency) for each in spenders}
        self.book.limits |= store.limits_by_account(tx, spenders)
        self.sums_before = ledger.sums(accounts.values())
        # Clocks of several processes differ; on one account time must not go back.
        self.now = max([now, *(account.updated_at for account in accounts.values())])
        self.new_accounts: dict[str, Account] = {}
        self.new_wallets: dict[str, Wallet] = {}
        self.changed_accounts: dict[str, Account] = {}
        self.changed_wallets: dict[str, Wallet] = {}
        self.changed_holds: dict[str, Hold] = {}
        self.changed_limits: dict[str, Limits | None] = {}
        self.new_transfers: dict[str, list[tuple[Any, ...]]] = {}
        self.new_groups: list[StoredGroup] = []
        self.new_keys: list[StoredKey] = []
        self.audit: list[AuditRecord] = []
        self.told: list[tuple[int, list[tuple[Any, ...]]]] = []
        self.events: list[Event] = []

    def do(self, item: Item) -> Any:
        """Decide one item; what it changes is visible to the items after it."""
        match item:
            case GroupOrder():
                return self.post(item)
            case Chain():
                return self.link(item.orders)
            case Abandonment():
                return self.abandon(item.order)
            case Movement():
                return self.move(item)
            case Repetition():
                return self.repeat(item.movement)
            case Opening():
                return self.open(item)
            case StatusChange():
                return self.change_status(item)
            case LimitsChange():
                return self.change_limits(item)
            case Expiry():
                return self.expire(item)
        assert_never(item)

    def write(self, tx: Connection) -> None:
        """Write everything decided. InvariantBroken: the decisions cannot be right; nothing is written."""
        ledger.require_sound(self.book, self.sums_before)
        changed = [account for key, account in self.changed_accounts.items() if key not in self.new_accounts]
        for account in self.changed_accounts.values():
            account.version += 1
            account.updated_at = self.now
        store.insert_wallets(tx, self.new_wallets.values())
        store.update_wallets(tx, self.changed_wallets.values())
        store.insert_accounts(tx, self.new_accounts.values())
        store.update_accounts(tx, changed)
        store.write_holds(tx, self.changed_holds.values())
        store.write_limits(tx, self.changed_limits)
        store.insert_groups(tx, self.new_groups)
        store.insert_keys(tx, self.new_keys)
        numbers = store.audit.append(tx, self.now, self.audit)
        store.insert_transfers(tx, ((numbers[place], rows) for place, rows in self.told))
        store.outbox.add(tx, self.events)

    # --- moving money

    def post(self, order: GroupOrder) -> GroupOutcome:
        """Apply a group of another service, or answer what was answered to its id before."""
        return self._known_outcome(order) or self._decide_group(order)

    def link(self, orders: Sequence[GroupOrder]) -> list[GroupOutcome]:
        """Apply all of some groups or none, in their order; each has its own outcome, by its own id, for ever.

        Those that have an outcome keep it. If one of these is a refusal, the others are refused, so that whoever gives
        up one group has given up all, and whatever a repetition meets, it never applies a part.
        """
        known = [self._known_outcome(order) for order in orders]
        new = [order for order, outcome in zip(orders, known, strict=True) if outcome is None]
        if any(isinstance(outcome, GroupRefused) for outcome in known):
            for order in new:
                self._conclude(order, Verdict.LINKED_GROUP_WAS_REFUSED, _POST)
        else:
            self._decide_linked(new)
        return [self.post(order) for order in orders]

    def _decide_linked(self, orders: Sequence[GroupOrder]) -> None:
        """Try all groups in a copy of the book; the first that is refused there refuses the others."""
        trial = self.book.imagined()
        for order in orders:
            applied = ledger.apply(
                trial, [_transfer(each) for each in order.transfers], self.now, spender=order.spender
            )
            if isinstance(applied, Verdict):
                self._refuse_linked(orders, order, applied, trial)
                return
        for order in orders:
            if isinstance(self._decide_group(order), GroupRefused):
                raise InvariantBroken(f"{order.id} is refused, and was not when it was tried")

    def _refuse_linked(self, orders: Sequence[GroupOrder], refused: GroupOrder, verdict: Verdict, trial: Book) -> None:
        for order in orders:
            if order is refused:
                self._conclude(order, verdict, _POST, book=trial)
            else:
                self._conclude(order, Verdict.LINKED_GROUP_WAS_REFUSED, _POST)

    def abandon(self, order: GroupOrder) -> GroupOutcome:
        """Refuse a group for good, unless it has an outcome already: then nothing changes."""
        known = self._known_outcome(order)
        return known or self._conclude(order, Verdict.GROUP_WAS_ABANDONED, _ABANDON)

    def _known_outcome(self, order: GroupOrder) -> GroupOutcome | None:
        stored = self.groups.get(order.id)
        if stored is None:
            return None
        if (name := _differing_name(stored.body, _group_body(order), _GROUP_NAMES)) is not None:
            refusal = refusal_of(Verdict.ID_ALREADY_TAKEN)
            detail = f"{order.id} exists with a different {name}."
            return GroupRefused(id=order.id, verdict=Verdict.ID_ALREADY_TAKEN, reason=refusal.reason, detail=detail)
        return _outcome(stored)

    def _decide_group(self, order: GroupOrder) -> GroupOutcome:
        transfers = [_transfer(each) for each in order.transfers]
        applied = self._apply(
            transfers,
            order.id,
            order.transaction_id,
            order.reference,
            order.description,
            spender=order.spender,
            as_of=order.applied_at,
        )
        return self._conclude(order, applied if isinstance(applied, Verdict) else None, _POST)

    def _conclude(
        self, order: GroupOrder, verdict: Verdict | None, action: str, *, book: Book | None = None
    ) -> GroupOutcome:
        """Store the outcome; ``book`` is where the verdict was come to, if it was not in the batch's own."""
        refusal = self._refusal(order, verdict, book or self.book) if verdict is not None else None
        members = _encode(refusal.members).decode() if refusal is not None and refusal.members else None
        stored = self._store_outcome(
            order.id, verdict, refusal, body=_group_body(order), answer=members, request_id=order.request_id
        )
        who = Caller(order.actor, Role.SERVICE, order.request_id)
        self._record(who, action, order.transaction_id or order.id, stored)
        return _outcome(stored)

    def _refusal(self, order: GroupOrder, verdict: Verdict, book: Book) -> Refusal:
        """A verdict in words, and with figures where a limit stands against the order."""
        refusal = refusal_of(verdict)
        if refusal.reason is not Reason.LIMIT_EXCEEDED or order.spender is None:
            return refusal
        return limit_refusal(book, spending_of(map(_transfer, order.transfers), order.spender), self.now)

    def move(self, movement: Movement) -> Moved:
        """Credit or debit a wallet, or answer what was answered to the same reference or key before."""
        key, group_id = self.keys.get(movement.key_id or ""), movement.group_id
        if key is not None and key.group_id != group_id:
            return Moved(_reused("Idempotency-Key", "reference"), replayed=False)
        stored = self.groups.get(group_id)
        if stored is None:
            return Moved(_movement_answer(self._decide_movement(movement, group_id)), replayed=False)
        if (name := _differing_name(stored.body, _movement_body(movement), _MOVEMENT_NAMES)) is not None:
            return Moved(_reused("reference", name), replayed=False)
        if told := self._store_key(movement):
            self.audit.append(AuditRecord.of(movement.caller, "wallet.add_key", movement.request.customer_id, **told))
        return Moved(_movement_answer(stored), replayed=True)

    def _store_key(self, movement: Movement) -> dict[str, Any]:
        """Keep the key of a movement, if it has one that is not known; returns what the audit tells of it."""
        key_id = movement.key_id
        if key_id is None or movement.idempotency_key is None or key_id in self.keys:
            return {}
        key = StoredKey(key_id, movement.caller.subject, movement.idempotency_key, movement.group_id, self.now)
        self.keys[key_id] = key
        self.new_keys.append(key)
        return {"key": key_id, "keyDigest": digest(store.key_row(key))}

    def repeat(self, movement: Movement) -> Moved:
        """Book a movement again that was lost. A refusal is not stored: it would stand where there was none."""
        if movement.group_id not in self.groups:
            verdict = ledger.check(self.book, movement.transfer, self.now)
            if verdict is not None:
                return Moved(refusal_of(verdict), replayed=False)
        return self.move(movement)

    def _decide_movement(self, movement: Movement, group_id: str) -> StoredGroup:
        request = movement.request
        applied: list[Entry] | Verdict
        if request.customer_id in PLATFORM_OWNERS:  # they have accounts, but no wallet
            applied = Verdict.CREDIT_OWNER_NOT_FOUND
        else:
            applied = self._apply([movement.transfer], group_id, None, request.reference, request.description)
        verdict = applied if isinstance(applied, Verdict) else None
        answer = self._moved(movement) if verdict is None else None
        encoded = _encode(answer).decode() if answer is not None else None
        refusal = refusal_of(verdict) if verdict is not None else None
        body, request_id = _movement_body(movement), movement.caller.request_id
        stored = self._store_outcome(group_id, verdict, refusal, body=body, answer=encoded, request_id=request_id)
        record = self._record(
            movement.caller,
            f"wallet.{movement.type.lower()}",
            request.customer_id,
            stored,
            reference=request.reference,
            amount=request.amount,
            currency=request.currency,
            **self._store_key(movement),
        )
        if verdict is None:
            self.events.append(
                reconcile.movement_event(record, stored, movement.idempotency_key, movement.caller.trace)
            )
        return stored

    def _moved(self, movement: Movement) -> MoneyMoved:
        """The answer to a movement that has just been applied."""
        request = movement.request
        available = self.book.accounts[wallet_account(request.customer_id, request.currency)].available
        return MoneyMoved(
            transfer_id=movement.transfer_id,
            customer_id=request.customer_id,
            type=movement.type,
            amount=request.amount,
            currency=request.currency,
            available=available,
            reference=request.reference,
            created_at=rfc3339(self.now),
        )

    def _apply(
        self,
        transfers: Sequence[Transfer],
        group_id: str,
        transaction_id: str | None,
        reference: str | None,
        description: str | None,
        *,
        spender: str | None = None,
        as_of: int | None = None,
    ) -> list[Entry] | Verdict:
        applied = ledger.apply(self.book, transfers, self.now, spender=spender, as_of=as_of)
        if applied is Verdict.PENDING_TRANSFER_EXPIRED:
            self._release_due(transfers)
        if isinstance(applied, Verdict):
            return applied
        for entry in applied:
            transfer = entry.transfer
            row = store.transfer_row(
                entry,
                group_id=group_id,
                transaction_id=transaction_id,
                reference=reference,
                description=description,
                at=self.now,
            )
            self.new_transfers.setdefault(group_id, []).append(row)
            self._touch(transfer.debit_account, transfer.credit_account)
            hold = self.book.holds.get(transfer.pending_id or transfer.id)
            if hold is not None:
                self.changed_holds[hold.id] = hold
        return applied

    def _touch(self, *account_ids: str) -> None:
        for account_id in account_ids:
            self.changed_accounts[account_id] = self.book.accounts[account_id]

    def _store_outcome(
        self,
        group_id: str,
        verdict: Verdict | None,
        refusal: Refusal | None,
        *,
        body: bytes,
        answer: str | None,
        request_id: str,
    ) -> StoredGroup:
        """Fix the outcome of an order under its id, for this batch and for ever."""
        outcome = store.POSTED if verdict is None else verdict.value
        reason, detail = (None, None) if refusal is None else (refusal.reason.value, refusal.detail)
        stored = StoredGroup(group_id, outcome, reason, detail, body.decode(), answer, request_id, self.now)
        self.groups[group_id] = stored
        self.new_groups.append(stored)
        return stored

    def _release_due(self, transfers: Sequence[Transfer]) -> None:
        """End the holds that transfers came too late for: no process whose clock is behind may still finish them."""
        for transfer in transfers:
            if (hold := self.book.holds.get(transfer.pending_id or "")) is not None:
                self._release(hold)

    def expire(self, expiry: Expiry) -> bool:
        """End a hold whose time is over; False where it ended otherwise meanwhile."""
        return self._release(self.book.holds[expiry.hold.id])

    def _release(self, hold: Hold) -> bool:
        if not ledger.expire(self.book, hold, self.now):
            return False
        self.changed_holds[hold.id] = hold
        self._touch(hold.debit_account, hold.credit_account)
        detail = {"amount": hold.amount, "currency": hold.currency}
        self.audit.append(AuditRecord("service:wallet", "wallet.expire_hold", hold.id, hold.id, SUCCEEDED, detail))
        return True

    # --- wallets

    def open(self, opening: Opening) -> Refusal | None:
        """Open a wallet and its balance in one currency; what is open is left as it is."""
        wallet = self.wallets.get(opening.owner)
        if wallet is None and opening.role is None:
            return not_found("wallet")
        account_id = wallet_account(opening.owner, opening.currency)
        if account_id in self.book.accounts:
            return None
        if wallet is None:
            wallet = self._new_wallet(opening.owner, opening.role or Role.CUSTOMER)
        if wallet.status is Status.CLOSED:
            return CLOSED
        self._new_account(account_id, wallet, opening.currency)
        caller = Caller(opening.actor, Role.SERVICE, opening.request_id)
        detail = {"role": wallet.role, "currency": opening.currency}
        self.audit.append(AuditRecord.of(caller, "wallet.open", opening.owner, **detail))
        return None

    def _new_wallet(self, owner: str, role: Role) -> Wallet:
        wallet = Wallet(owner, role, Status.ACTIVE, self.now, self.now)
        self.wallets[owner] = self.new_wallets[owner] = wallet
        self.book.roles[owner] = role
        return wallet

    def _new_account(self, account_id: str, wallet: Wallet, currency: str) -> None:
        """Add a balance, and where they are missing the platform's accounts, so that they can be locked."""
        for owner in PLATFORM_OWNERS:
            platform_id = wallet_account(owner, currency)
            if platform_id not in self.book.accounts:
                self._add(Account(platform_id, owner, PLATFORM, currency, debits_must_not_exceed_credits=False))
        account = Account(account_id, wallet.owner, wallet.role, currency, debits_must_not_exceed_credits=True)
        account.frozen = wallet.status is Status.FROZEN
        self._add(account)

    def _add(self, account: Account) -> None:
        account.created_at = account.updated_at = self.now
        self.book.accounts[account.id] = self.new_accounts[account.id] = account

    def change_status(self, change: StatusChange) -> Refusal | None:
        """Freeze, unfreeze or close a wallet with all its accounts."""
        wallet = self.wallets.get(change.owner)
        if wallet is None:
            return not_found("wallet")
        own = [account for account in self.book.accounts.values() if account.owner == wallet.owner]
        status = status_after(change.change, wallet.status, own)
        if status is wallet.status:
            return None
        action = f"wallet.{change.change}"
        if isinstance(status, Refusal):
            refused = AuditRecord.of(
                change.caller, action, wallet.owner, result=status.reason.value, reason=change.reason
            )
            self.audit.append(refused)
            return status
        set_status(wallet, own, status, self.now)
        self.changed_wallets[wallet.owner] = wallet
        self._touch(*(account.id for account in own))
        record = AuditRecord.of(change.caller, action, wallet.owner, reason=change.reason, change=change.id)
        self.audit.append(record)
        if (event := reconcile.status_event(record, self.now, change.caller.trace)) is not None:
            self.events.append(event)
        return None

    def change_limits(self, change: LimitsChange) -> Refusal | None:
        """Give a balance limits of its own, or take them away; what has been spent already counts."""
        account = self.book.accounts.get(change.account_id)
        if account is None and change.owner in self.book.roles:
            return Refusal(Reason.CURRENCY_MISMATCH, f"The wallet has no balance in {change.currency}.")
        if account is None or account.role == PLATFORM:
            return not_found("wallet")
        account.own_limits = change.limits is not None
        self.book.limits[account.id] = change.limits or self.schedule.of(account.currency)
        self.changed_limits[account.id] = change.limits
        self._touch(account.id)
        limits = asdict(change.limits) if change.limits is not None else None
        self.audit.append(
            AuditRecord.of(change.caller, "wallet.change_limits", change.owner, currency=change.currency, limits=limits)
        )
        return None

    # --- telling

    def _record(self, caller: Caller, action: str, subject: str, stored: StoredGroup, **detail: Any) -> AuditRecord:
        """Audit the outcome of an order; ``outcome`` is the verdict where it was refused.

        The digests are those of the group's row and of its transfers'; ``verify`` looks for them, and for the key's.
        """
        rows = self.new_transfers.pop(stored.id, [])
        self.told.append((len(self.audit), rows))
        detail |= {
            "outcome": stored.outcome,
            "group": stored.id,
            "digests": [digest(store.group_row(stored)), *map(digest, rows)],
        }
        record = AuditRecord.of(caller, action, subject, result=stored.reason or SUCCEEDED, **detail)
        self.audit.append(record)
        return record


# --- the use cases ------------------------------------------------------------------------------------------------


class WalletService:
    """The wallet for everybody: for HTTP, for the command line, and directly as other services' ``WalletClient``."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        limits: LimitSchedule = UNLIMITED,
        events_added: Callable[[], None] = lambda: None,
        receiver: Receiver | None = None,
    ) -> None:
        """``limits`` hold for everybody who has none of their own.

        ``events_added`` is called after events were written: their relay need not wait for its next round.
        ``receiver`` is whom they are for; needed to reconcile with it.
        """
        self._database = database
        self._clock = clock
        self._limits = limits
        self._events_added = events_added
        self._receiver = receiver
        self._batcher: Batcher[Item, Any] = Batcher(database, self._apply)
        self._looks = Gatherer(self._look, name="wallet-looks")

    # --- for other services

    async def open_wallet(self, order: OpenWallet) -> None:
        """Open a wallet and its balance; harmless when repeated.

        Refused with ``wallet-closed``: a closed wallet gets no further currency.
        """
        unwrap(await self._submit(Opening(order.owner, order.role, order.currency, order.actor, order.request_id)))

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        """Apply a group of transfers, or return the stored refusal: the same answer to the same id for ever."""
        with tracing.span("wallet", "wallet.post_group", parent=order.trace, links=(tracing.here(),)):
            outcome: GroupOutcome = await self._submit(order)
        return outcome

    async def post_linked(self, orders: Sequence[GroupOrder]) -> Sequence[GroupOutcome]:
        """Apply all of some groups or none, in their order; the same answers to the same ids for ever."""
        with tracing.span("wallet", "wallet.post_linked", parent=orders[0].trace, links=(tracing.here(),)):
            outcomes: Sequence[GroupOutcome] = await self._submit(Chain(tuple(orders)))
        return outcomes

    async def try_group(self, order: GroupOrder) -> GroupOutcome:
        """What :meth:`post_group` would answer right now. Nothing is applied, nothing stored, nothing locked."""
        now, schedule = self._clock(), self._limits
        return await self._database.reading(
            lambda tx: _Batch(tx, [order], now, schedule=schedule, lock=False).post(order)
        )

    async def abandon_group(self, order: GroupOrder) -> GroupOutcome:
        """Give up a group whose outcome is unknown: the outcome that it has already, or that it was abandoned."""
        with tracing.span("wallet", "wallet.abandon_group", parent=order.trace, links=(tracing.here(),)):
            outcome: GroupOutcome = await self._submit(Abandonment(order))
        return outcome

    async def book_credit(self, order: CreditOrder) -> CreditOutcome:
        """Book money that enters for a client of another service; the refusals are those of ``_move``."""
        caller = Caller(order.actor, Role.SERVICE, order.request_id, order.trace)
        moved = await self.credit(caller, order.credit, order.idempotency_key)
        if isinstance(moved.answer, Refusal):
            return CreditRefused(answer=moved.answer, replayed=moved.replayed)
        return CreditBooked(answer=moved.answer, replayed=moved.replayed)

    async def find_orders(self, ids: Sequence[str]) -> Sequence[StoredOrder]:
        """What is stored under those of these ids that are known."""
        found = await self._database.reading(lambda tx: store.groups_by_id(tx, ids))
        return [_stored_order(each) for each in found.values()]

    async def orders_after(self, after: int) -> StoredOrders:
        """A page of the groups of other services, in the sequence in which they were decided."""

        def find(tx: Connection) -> StoredOrders:
            records = store.audit.following(tx, after, LISTED_AT_ONCE)
            ids = [_decode_detail(row.detail)["group"] for row in records if row.action in _GROUP_ACTIONS]
            group_by_id = store.groups_by_id(tx, ids)
            items = [_stored_order(group_by_id[each]) for each in ids]
            return StoredOrders(items=items, after=records[-1].sequence if records else None)

        return await self._database.reading(find)

    # --- for reconciliation

    async def without_wallet(self, owners: Sequence[str]) -> Sequence[str]:
        """Those of some users that have no wallet."""
        known = await self._database.reading(lambda tx: store.roles_of(tx, owners))
        return [owner for owner in owners if owner not in known]

    async def repeat_events(self, after: int) -> Compared:
        """Tell again what was told and is not known to the receiver; page by page, 0 is before the first."""
        return await Retelling(self._database, store.outbox, self._known_receiver(), reconcile.told_after).page(after)

    async def repeat_movements(self, after: int) -> Compared:
        """Book again what the receiver was told of and the wallet has lost; page by page, 0 is before the first."""
        kept = await self._known_receiver().kept_after(after)
        movements = [_movement_told(event) for event in kept.items]
        ids = [movement.group_id for movement in movements]
        groups = await self._database.reading(lambda tx: store.groups_by_id(tx, ids))
        cases = [await self._compared(movement, groups.get(movement.group_id)) for movement in movements]
        self._events_added()
        return Compared([case for case in cases if case is not None], kept.after)

    async def _compared(self, movement: Movement, stored: StoredGroup | None) -> Case | None:
        """The case of a movement that was told, where what is stored under its reference is not that."""
        if stored is None:
            return await self._repeated(movement)
        if stored.body.encode() == _movement_body(movement) and stored.reason is None:
            return None
        return _movement_case(movement, "nothing: its reference was used again", settled=False)

    async def _repeated(self, movement: Movement) -> Case:
        request, caller = movement.request, movement.caller
        # There was a balance in this currency; where there is not even a wallet, the movement is refused.
        await self._submit(Opening(request.customer_id, None, request.currency, caller.subject, caller.request_id))
        moved: Moved = await self._submit(Repetition(movement))
        if isinstance(moved.answer, Refusal):
            return _movement_case(movement, f"nothing: {moved.answer.detail}", settled=False)
        return _movement_case(movement, "booked again", settled=True)

    def _known_receiver(self) -> Receiver:
        if self._receiver is None:
            raise InvariantBroken("the wallet was not told who receives its events")
        return self._receiver

    # --- for clients

    async def credit(self, caller: Caller, request: MoveMoney, idempotency_key: str | None) -> Moved:
        """Book money that enters; the refusals are those of ``_move``."""
        return await self._move(caller, MovementType.CREDIT, request, idempotency_key)

    async def debit(self, caller: Caller, request: MoveMoney, idempotency_key: str | None) -> Moved:
        """Book money that leaves; the refusals are those of ``_move``, and ``insufficient-funds``."""
        return await self._move(caller, MovementType.DEBIT, request, idempotency_key)

    async def _move(self, caller: Caller, type_: MovementType, request: MoveMoney, key: str | None) -> Moved:
        """Move money between a wallet and ``cash``.

        Refusals that are stored: ``not-found``, ``currency-mismatch``, ``wallet-frozen``, ``wallet-closed``,
        ``insufficient-funds``, ``invalid-state``. Not stored: ``validation-error``, ``idempotency-key-reused``.
        """
        if not is_currency(request.currency):
            return Moved(_unknown_currency(request.currency), replayed=False)
        movement = Movement(caller, type_, request, key, transfer_id=new_id("trf", self._clock()))
        moved: Moved = await self._submit(movement)
        self._events_added()
        return moved

    async def wallet(self, caller: Caller, customer_id: str) -> WalletView | Refusal:
        """A wallet with its balances. Refused with ``not-found``."""
        found = await self._visible(caller, customer_id)
        return found if isinstance(found, Refusal) else _view(*found)

    async def validate(self, caller: Caller, request: ValidateWallet) -> Validation | Refusal:
        """Whether a wallet could pay, with all reasons why not. Refused with ``not-found`` or ``validation-error``."""
        if not is_currency(request.currency):
            return _unknown_currency(request.currency)
        found = await self._visible(caller, request.customer_id)
        if isinstance(found, Refusal):
            return found
        wallet, accounts = found
        book = Book({each.id: each for each in accounts}, limits=await self._limits_of(accounts))
        reasons = [reason.code for reason in _reasons_against(wallet, book, request, self._clock())]
        return Validation(valid=not reasons, reasons=reasons)

    async def open_balance(self, caller: Caller, customer_id: str, currency: str) -> WalletView | Refusal:
        """Add a balance in another currency. Refused: ``not-found``, ``validation-error``, ``wallet-closed``."""
        if not caller.may_see(customer_id):
            return not_found("wallet")
        if not is_currency(currency):
            return _unknown_currency(currency)
        opening = Opening(customer_id, None, currency, caller.subject, caller.request_id)
        refusal: Refusal | None = await self._submit(opening)
        return refusal or await self.wallet(caller, customer_id)

    async def change_status(
        self, caller: Caller, customer_id: str, change: Change, reason: str
    ) -> WalletView | Refusal:
        """Freeze, unfreeze or close. Refused: ``not-found``, ``wallet-closed``, ``invalid-state`` (not empty)."""
        order = StatusChange(new_id("chg", self._clock()), caller, customer_id, change, reason)
        refusal: Refusal | None = await self._submit(order)
        self._events_added()
        return refusal or await self.wallet(caller, customer_id)

    async def limits(self, caller: Caller, customer_id: str) -> LimitsView | Refusal:
        """What the owner of a wallet may spend, and what is left of it. Refused with ``not-found``."""
        found = await self._visible(caller, customer_id)
        if isinstance(found, Refusal):
            return found
        wallet, accounts = found
        limits, now = await self._limits_of(accounts), self._clock()
        return LimitsView(
            customer_id=wallet.owner, limits=[_limit_view(each, limits[each.id], now) for each in accounts]
        )

    async def change_limits(
        self, caller: Caller, customer_id: str, currency: str, wanted: SetLimits | None
    ) -> LimitsView | Refusal:
        """Give a balance limits of its own, or with None everybody's. Refused: ``not-found``, ``currency-mismatch``."""
        limits = Limits(wanted.per_payment, wanted.per_day, wanted.per_month) if wanted is not None else None
        refusal: Refusal | None = await self._submit(LimitsChange(caller, customer_id, currency, limits))
        return refusal or await self.limits(caller, customer_id)

    async def statement(
        self,
        caller: Caller,
        customer_id: str,
        *,
        currency: str | None,
        start: str | None,
        end: str | None,
        limit: int,
        cursor: str | None,
    ) -> Statement | Refusal:
        """Entries newest first, from ``start`` on and before ``end`` (RFC 3339).

        Refused: ``not-found``, ``validation-error``. Raises Refused where the cursor is none of ours.
        """
        found = await self._visible(caller, customer_id)
        if isinstance(found, Refusal):
            return found
        period = _period(start, end)
        if isinstance(period, Refusal):
            return period
        before = decode_cursor(cursor, Position)[0] if cursor is not None else None
        account_ids = [account.id for account in found[1] if currency in (None, account.currency)]
        wanted = StatementFilter(*period, before, limit + 1)
        rows = await self._database.reading(lambda tx: store.statement(tx, account_ids, wanted))
        return Statement(
            items=[_statement_entry(row) for row in rows[:limit]],
            next_cursor=encode_cursor(rows[limit - 1].sequence) if len(rows) > limit else None,
        )

    async def audit_trail(
        self, _caller: Caller, *, subject: str | None, request_id: str | None, limit: int, cursor: str | None
    ) -> AuditTrail:
        """Audit records, newest first. Raises Refused where the cursor is none of ours."""
        return await audit_trail(
            self._database, store.audit, subject=subject, request_id=request_id, limit=limit, cursor=cursor
        )

    # --- for workers and operators

    async def expire_holds(self) -> int:
        """End the holds whose time is over; returns how many."""
        now = self._clock()
        due = await self._database.reading(lambda tx: store.holds_due(tx, now, EXPIRED_AT_ONCE))
        return sum(await asyncio.gather(*(self._submit(Expiry(hold)) for hold in due)))

    # --- inside

    def _apply(self, tx: Connection, items: Sequence[Item]) -> Sequence[Any]:
        """One transaction; see the module."""
        failpoints.reached("wallet.batch.before")
        batch = _Batch(tx, items, self._clock(), schedule=self._limits)
        results = [batch.do(item) for item in items]
        batch.write(tx)
        failpoints.reached("wallet.batch.written")
        return results

    async def _submit(self, item: Item) -> Any:
        deadline = request_ends_at.get()
        try:
            return await self._batcher.submit(item, deadline=deadline)
        except IntegrityError:
            # Between our look and our write another process stored the same id. The second look finds it.
            return await self._batcher.submit(item, deadline=deadline)

    async def _visible(self, caller: Caller, customer_id: str) -> tuple[Wallet, list[Account]] | Refusal:
        if not caller.may_see(customer_id) or not customer_id.isascii():
            return not_found("wallet")
        return await self._looks.submit(customer_id) or not_found("wallet")

    async def _look(self, owners: Sequence[str]) -> Sequence[store.WalletAndAccounts | None]:
        """All who look at a wallet while others are being answered share one statement."""
        found = await self._database.reading(lambda tx: store.wallets_with_accounts(tx, owners))
        return [found.get(owner) for owner in owners]

    async def _limits_of(self, accounts: Sequence[Account]) -> dict[str, Limits]:
        """The limits of some accounts: their own, or else everybody's."""
        limits = {each.id: self._limits.of(each.currency) for each in accounts}
        if any(each.own_limits for each in accounts):
            limits |= await self._database.reading(lambda tx: store.limits_by_account(tx, accounts))
        return limits


# --- bodies: what was ordered, to tell a repetition from another order ---------------------------------------------

_encode = msgspec.json.Encoder().encode
_decode_body = msgspec.json.Decoder(list[Any]).decode
_decode_members = msgspec.json.Decoder(dict[str, Any]).decode
_decode_detail = msgspec.json.Decoder(dict[str, Any]).decode
_decode_transfers = partial(msgspec.convert, type=tuple[TransferOrder, ...])
_decode_moved = msgspec.json.Decoder(MoneyMoved).decode

_POST, _ABANDON = "wallet.post_group", "wallet.abandon_group"
_GROUP_ACTIONS = frozenset({_POST, _ABANDON})
_GROUP_NAMES = ("transaction_id", "reference", "description", "transfers", "spender", "memo")
_MOVEMENT_NAMES = ("type", "customerId", "amount", "currency", "description")


def _group_body(order: GroupOrder) -> bytes:
    """The order without who asked, which a repetition by the recovery may change.

    Defaults are left out, those of a transfer, and a ``spender`` and ``memo`` of None at the end: what a later release
    adds must not make an old order another one.
    """
    body = [order.transaction_id, order.reference, order.description, order.transfers, order.spender, order.memo]
    while body[-1] is None:
        body.pop()
    return _encode(body)


def _stored_order(stored: StoredGroup) -> StoredOrder:
    """The order in a body of :func:`_group_body`, and what became of it."""
    values = dict(zip(_GROUP_NAMES, _decode_body(stored.body), strict=False))
    transfers = _decode_transfers(values.pop("transfers"))
    order = GroupOrder(id=stored.id, transfers=transfers, actor="", request_id=stored.request_id, **values)
    return StoredOrder(order=order, outcome=_outcome(stored))


def _movement_body(movement: Movement) -> bytes:
    request = movement.request
    return _encode((movement.type, request.customer_id, request.amount, request.currency, request.description))


def _movement_told(event: KeptEvent) -> Movement:
    """The movement that an event was about, with the ids and keys that it had."""
    data, memo = event.data, event.memo
    request = MoveMoney(
        customer_id=data["customerId"],
        amount=data["amount"],
        currency=data["currency"],
        reference=data["reference"],
        description=data["description"],
    )
    caller = Caller(memo["actor"], Role.SERVICE, memo["requestId"])
    type_ = reconcile.MOVEMENT_TYPES[event.name]
    return Movement(caller, type_, request, memo.get("key"), transfer_id=data["transferId"])


def _movement_case(movement: Movement, done: str, *, settled: bool) -> Case:
    request, what = movement.request, f"a {movement.type.lower()} was told, but the wallet had lost it"
    log.warning("wallet.reconciled", transfer=movement.transfer_id, amount=request.amount, done=done)
    return Case(movement.transfer_id, what, request.amount, request.currency, done, settled)


def _differing_name(stored: str, wanted: bytes, names: Sequence[str]) -> str | None:
    """The name of the first value in which an order differs from the stored one, or None where they are equal."""
    if stored.encode() == wanted:
        return None
    before, after = (dict(_named_values(names, _decode_body(body))) for body in (stored, wanted))
    return next((name for name in before | after if before.get(name) != after.get(name)), "body")


def _named_values(names: Sequence[str], body: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """A body's values by their names; the last ones may be missing."""
    for name, value in zip(names, body, strict=False):
        if isinstance(value, list):
            for number, transfer in enumerate(value):
                yield from ((f"{name}[{number}].{member}", each) for member, each in transfer.items())
        else:
            yield name, value


def _transfer(order: TransferOrder) -> Transfer:
    return Transfer(
        order.id,
        Kind(order.kind),
        order.debit_account,
        order.credit_account,
        order.amount,
        order.currency,
        order.credit_role,
        order.pending_id,
        order.timeout_seconds,
    )


# --- answers ------------------------------------------------------------------------------------------------------


def _outcome(stored: StoredGroup) -> GroupOutcome:
    if stored.reason is None:
        return GroupPosted(id=stored.id, posted_at=stored.at)
    return GroupRefused(
        id=stored.id,
        verdict=stored.outcome,
        reason=Reason(stored.reason),
        detail=stored.detail or "",
        members=_decode_members(stored.answer or "{}"),
    )


def _movement_answer(stored: StoredGroup) -> MoneyMoved | Refusal:
    """What was answered to the first request: a refusal with the id of that request."""
    if stored.reason is not None:
        return Refusal(Reason(stored.reason), stored.detail or "", members={"requestId": stored.request_id})
    if stored.answer is None:
        raise InvariantBroken(f"group {stored.id} was posted without an answer")
    return _decode_moved(stored.answer)


def _reused(key: str, name: str) -> Refusal:
    return Refusal(
        Reason.IDEMPOTENCY_KEY_REUSED,
        f"This {key} belongs to a request with a different {name}: use a new one for a new request.",
    )


def _unknown_currency(code: str) -> Refusal:
    return invalid("/currency", f"{code} is no currency that the platform knows.")


def _view(wallet: Wallet, accounts: Sequence[Account]) -> WalletView:
    return WalletView(
        customer_id=wallet.owner,
        status=WalletStatus(wallet.status),
        balances=[
            BalanceView(currency=account.currency, available=account.available, held=account.debits_pending)
            for account in accounts
        ],
        created_at=rfc3339(wallet.created_at),
        updated_at=rfc3339(max([wallet.updated_at, *(account.updated_at for account in accounts)])),
    )


def _limit_view(account: Account, limits: Limits, now: int) -> LimitView:
    today, this_month = spent(account, now)
    return LimitView(
        currency=account.currency,
        per_payment=limits.per_payment,
        per_day=limits.per_day,
        per_month=limits.per_month,
        overridden=bool(account.own_limits),
        spent_today=today,
        left_today=None if limits.per_day is None else left(limits.per_day, today),
        spent_this_month=this_month,
        left_this_month=None if limits.per_month is None else left(limits.per_month, this_month),
    )


def _reasons_against(wallet: Wallet, book: Book, request: ValidateWallet, now: int) -> Iterator[Reason]:
    """Everything that would refuse a payment of this amount out of the wallet; a closed one is empty by itself."""
    if wallet.status is Status.CLOSED:
        yield Reason.WALLET_CLOSED
        return
    account = book.accounts.get(wallet_account(wallet.owner, request.currency))
    if account is None:
        yield Reason.CURRENCY_MISMATCH
    elif account.available < request.amount:
        yield Reason.INSUFFICIENT_FUNDS
    if account is not None and exceeded(book, account.id, request.amount, now) is not None:
        yield Reason.LIMIT_EXCEEDED
    if wallet.status is Status.FROZEN:
        yield Reason.WALLET_FROZEN


def _period(start: str | None, end: str | None) -> tuple[int | None, int | None] | Refusal:
    moments: list[int | None] = []
    for name, text in (("from", start), ("to", end)):
        moment = parse_rfc3339(text) if text is not None else None
        if text is not None and moment is None:
            return invalid(name, "This is no time: write it like 2026-11-22T08:15:30.123Z.")
        moments.append(moment)
    return moments[0], moments[1]


def _statement_entry(row: Any) -> StatementEntry:
    return StatementEntry(
        transfer_id=row.id,
        type=MovementType.DEBIT if row.is_debit else MovementType.CREDIT,
        amount=row.amount,
        currency=row.currency,
        balance_after=row.balance_after,
        counterparty=owner_of(row.counterparty_account),
        transaction_id=row.transaction_id,
        reference=row.reference,
        description=row.description,
        created_at=rfc3339(row.at),
    )
