"""The wallet's tables and every SQL statement on them.

Reads of a batch are one statement for each table, whatever the batch's size, and lock in the order of the ids. The
hot statements are written as text: they run a thousand times a second, and building them anew costs more than the
database needs to answer.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Index,
    MetaData,
    Row,
    Select,
    UniqueConstraint,
    case,
    delete,
    func,
    literal,
    select,
    union_all,
)

from ewallet.kernel.errors import InvariantBroken
from ewallet.plumbing import statements
from ewallet.plumbing.audit import AuditLog
from ewallet.plumbing.figures import Figure
from ewallet.plumbing.leases import Leases
from ewallet.plumbing.outbox import Outbox
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, KEY, LONG_TEXT, SHORT_TEXT, insert_rows, table, upsert_rows
from ewallet.plumbing.telemetry import LEDGER_BALANCE, LEDGER_HELD, LEDGER_IMBALANCE
from ewallet.plumbing.verifying import sealed
from ewallet.wallet.domain.nouns import PLATFORM, Account, Entry, Hold, HoldState, Kind, Limits
from ewallet.wallet.domain.wallets import Status, Wallet

metadata = MetaData()

wallets = table(
    "wallet_wallets",
    metadata,
    Column("owner", IDENTIFIER, primary_key=True),
    Column("role", IDENTIFIER, nullable=False),
    Column("status", IDENTIFIER, nullable=False),
    Column("created_at", INTEGER, nullable=False),
    Column("updated_at", INTEGER, nullable=False),
)

accounts = table(
    "wallet_accounts",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    Column("owner", IDENTIFIER, nullable=False),
    Column("role", IDENTIFIER, nullable=False),
    Column("currency", IDENTIFIER, nullable=False),
    Column("debits_must_not_exceed_credits", INTEGER, nullable=False),
    Column("debits_posted", INTEGER, nullable=False),
    Column("credits_posted", INTEGER, nullable=False),
    Column("debits_pending", INTEGER, nullable=False),
    Column("credits_pending", INTEGER, nullable=False),
    Column("frozen", INTEGER, nullable=False),
    Column("closed", INTEGER, nullable=False),
    Column("own_limits", INTEGER, nullable=False),
    Column("spent_on", INTEGER, nullable=False),
    Column("spent_today", INTEGER, nullable=False),
    Column("spent_this_month", INTEGER, nullable=False),
    Column("version", INTEGER, nullable=False),
    Column("created_at", INTEGER, nullable=False),
    Column("updated_at", INTEGER, nullable=False),
    Column("seal", IDENTIFIER, nullable=False),
    CheckConstraint(
        "debits_posted >= 0 AND credits_posted >= 0 AND debits_pending >= 0 AND credits_pending >= 0",
        name="wallet_accounts_count_up",
    ),
    CheckConstraint(
        "debits_must_not_exceed_credits = 0 OR debits_posted + debits_pending <= credits_posted",
        name="wallet_accounts_not_below_zero",
    ),
    CheckConstraint("spent_today >= 0 AND spent_this_month >= spent_today", name="wallet_accounts_spent_counts_up"),
    Index("wallet_accounts_by_owner", "owner"),
)

limits = table(
    "wallet_limits",
    metadata,
    Column("account", IDENTIFIER, primary_key=True),
    Column("per_payment", INTEGER),
    Column("per_day", INTEGER),
    Column("per_month", INTEGER),
)

transfers = table(
    "wallet_transfers",
    metadata,
    # The number of the audit record that tells of it and its place there, see `transfer_sequence`.
    Column("sequence", INTEGER, primary_key=True, autoincrement=False),
    Column("id", IDENTIFIER, nullable=False),
    Column("group_id", IDENTIFIER, nullable=False),
    Column("kind", IDENTIFIER, nullable=False),
    Column("debit_account", IDENTIFIER, nullable=False),
    Column("credit_account", IDENTIFIER, nullable=False),
    Column("amount", INTEGER, nullable=False),
    Column("currency", IDENTIFIER, nullable=False),
    Column("pending_id", IDENTIFIER),
    Column("expires_at", INTEGER),
    Column("transaction_id", IDENTIFIER),
    Column("reference", SHORT_TEXT),
    Column("description", LONG_TEXT),
    Column("debit_balance_after", INTEGER, nullable=False),
    Column("credit_balance_after", INTEGER, nullable=False),
    Column("at", INTEGER, nullable=False),
    UniqueConstraint("id", name="wallet_transfers_id"),
    CheckConstraint("amount > 0", name="wallet_transfers_amount_is_positive"),
    CheckConstraint("debit_account <> credit_account", name="wallet_transfers_accounts_are_different"),
    Index("wallet_transfers_by_debit_account", "debit_account", "sequence"),
    Index("wallet_transfers_by_credit_account", "credit_account", "sequence"),
)

holds = table(
    "wallet_holds",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    Column("debit_account", IDENTIFIER, nullable=False),
    Column("credit_account", IDENTIFIER, nullable=False),
    Column("amount", INTEGER, nullable=False),
    Column("currency", IDENTIFIER, nullable=False),
    Column("state", IDENTIFIER, nullable=False),
    Column("expires_at", INTEGER),
    Column("updated_at", INTEGER, nullable=False),
    Column("counted_on", INTEGER),
    Column("seal", IDENTIFIER, nullable=False),
    CheckConstraint("amount > 0", name="wallet_holds_amount_is_positive"),
    Index("wallet_holds_by_expiry", "state", "expires_at"),
)

groups = table(
    "wallet_groups",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    Column("outcome", IDENTIFIER, nullable=False),
    Column("reason", IDENTIFIER),
    Column("detail", LONG_TEXT),
    Column("body", LONG_TEXT, nullable=False),
    Column("answer", LONG_TEXT),
    Column("request_id", KEY, nullable=False),
    Column("at", INTEGER, nullable=False),
    CheckConstraint("(outcome = 'posted') = (reason IS NULL)", name="wallet_groups_posted_or_refused"),
)

keys = table(
    "wallet_keys",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    Column("caller", IDENTIFIER, nullable=False),
    Column("idempotency_key", KEY, nullable=False),
    Column("group_id", IDENTIFIER, nullable=False),
    Column("at", INTEGER, nullable=False),
)

audit = AuditLog(metadata, "wallet")
outbox = Outbox(metadata, "wallet")
leases = Leases(metadata, "wallet")

POSTED = "posted"
"""The outcome of a group that was applied; a refused one's outcome is its verdict."""

TRANSFERS_OF_A_RECORD = 1_000
"""One audit record tells of a group; no group has as many transfers."""

_ACCOUNT_UPDATES = (
    "debits_posted",
    "credits_posted",
    "debits_pending",
    "credits_pending",
    "frozen",
    "closed",
    "own_limits",
    "spent_on",
    "spent_today",
    "spent_this_month",
    "version",
    "updated_at",
    "seal",
)


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """The outcome of an order under its id, and the order itself, to tell a repetition from another order.

    Fields in the order of the table's columns. ``reason`` and ``detail`` are those of a refusal; ``answer`` is what a
    direct credit or debit was answered, or the further members of a refusal, in JSON; ``request_id`` is that of the
    first request.
    """

    id: str
    outcome: str
    reason: str | None
    detail: str | None
    body: str
    answer: str | None
    request_id: str
    at: int


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An idempotency key and the group it belongs to. Fields in the order of the table's columns."""

    id: str
    caller: str
    idempotency_key: str
    group_id: str
    at: int


# --- reading what a batch decides on ------------------------------------------------------------------------------


def wallets_by_owner(tx: Connection, owners: Collection[str], *, lock: bool) -> dict[str, Wallet]:
    """Wallets, locked in the order of their owners if wanted; always before accounts."""
    rows = statements.rows_in(tx, wallets, "owner", owners, lock=lock)
    return {
        owner: Wallet(owner, role, Status(status), created_at, updated_at)
        for owner, role, status, created_at, updated_at in rows
    }


def accounts_by_id(tx: Connection, ids: Collection[str], *, lock: bool) -> dict[str, Account]:
    """Accounts, locked in the order of their ids if wanted.

    Two batches that meet can so wait for each other, but never in a ring.
    """
    return {row[0]: Account(*row[:-1]) for row in statements.rows_in(tx, accounts, "id", ids, lock=lock)}


def limits_by_account(tx: Connection, wanted: Iterable[Account]) -> dict[str, Limits]:
    """The own limits of those accounts that have any; the locks on the accounts guard them too."""
    ids = [account.id for account in wanted if account.own_limits]
    return {row[0]: Limits(*row[1:]) for row in statements.rows_in(tx, limits, "account", ids)}


def account_ids_of(tx: Connection, owners: Collection[str]) -> list[str]:
    """The accounts of owners whose wallets are locked, so that none can be added meanwhile."""
    return [row[0] for row in statements.rows_in(tx, accounts, "owner", owners, columns=("id",))]


def roles_of(tx: Connection, owners: Collection[str]) -> dict[str, str]:
    """The roles of those owners that have a wallet."""
    return dict(statements.rows_in(tx, wallets, "owner", owners, columns=("owner", "role")))


def groups_by_id(tx: Connection, ids: Collection[str]) -> dict[str, StoredGroup]:
    """The outcomes of those orders that are known already."""
    return {row[0]: StoredGroup(*row) for row in statements.rows_in(tx, groups, "id", ids)}


def keys_by_id(tx: Connection, ids: Collection[str]) -> dict[str, StoredKey]:
    """Those idempotency keys that are known already."""
    return {row[0]: StoredKey(*row) for row in statements.rows_in(tx, keys, "id", ids)}


def holds_by_id(tx: Connection, ids: Collection[str]) -> dict[str, Hold]:
    """Holds; the locks on their accounts guard them too."""
    return {row[0]: _hold(row) for row in statements.rows_in(tx, holds, "id", ids)}


def taken_transfer_ids(tx: Connection, ids: Collection[str]) -> set[str]:
    """Those ids that a transfer has already."""
    return {row[0] for row in statements.rows_in(tx, transfers, "id", ids, columns=("id",))}


def holds_due(tx: Connection, now: int, limit: int) -> list[Hold]:
    """Holds whose time is over and that nobody has ended."""
    query = (
        select(holds)
        .where(holds.c.state == HoldState.PENDING, holds.c.expires_at <= now)
        .order_by(holds.c.expires_at)
        .limit(limit)
    )
    return [_hold(row) for row in tx.execute(query)]


def _hold(row: Sequence[Any]) -> Hold:
    """A hold by its row, in the order of the table's columns."""
    hold = Hold(*row[:-1])
    hold.state = HoldState(hold.state)
    return hold


# --- writing what a batch has decided -----------------------------------------------------------------------------


def transfer_sequence(record: int, place: int) -> int:
    """The place of a transfer among all: behind those of earlier audit records, then in the order of its group.

    Its last three digits are the place in the group, those before them the number of the record.
    """
    if place >= TRANSFERS_OF_A_RECORD:
        raise InvariantBroken(f"audit record {record} tells of a group with more than {place} transfers")
    return record * TRANSFERS_OF_A_RECORD + place


def insert_transfers(tx: Connection, new: Iterable[tuple[int, Sequence[tuple[Any, ...]]]]) -> None:
    """Append transfers: for each audit record's number the rows of :func:`transfer_row` that it tells of, in order."""
    rows = [(transfer_sequence(record, place), *row) for record, told in new for place, row in enumerate(told)]
    insert_rows(tx, transfers, rows)


def transfer_row(
    entry: Entry,
    *,
    group_id: str,
    transaction_id: str | None,
    reference: str | None,
    description: str | None,
    at: int,
) -> tuple[Any, ...]:
    """An applied transfer with what only the order as a whole knows; all columns but the sequence, in their order."""
    transfer = entry.transfer
    return (
        transfer.id,
        group_id,
        transfer.kind,
        transfer.debit_account,
        transfer.credit_account,
        transfer.amount,
        transfer.currency,
        transfer.pending_id,
        entry.expires_at,
        transaction_id,
        reference,
        description,
        entry.debit_balance_after,
        entry.credit_balance_after,
        at,
    )


def insert_accounts(tx: Connection, new: Iterable[Account]) -> None:
    """Add accounts; one that another process added at this moment is an IntegrityError, never overwritten."""
    insert_rows(tx, accounts, [_account_row(account) for account in new])


def update_accounts(tx: Connection, changed: Iterable[Account]) -> None:
    """Write accounts that :func:`accounts_by_id` has locked."""
    upsert_rows(tx, accounts, [_account_row(account) for account in changed], update=_ACCOUNT_UPDATES)


def _account_row(account: Account) -> tuple[Any, ...]:
    row = (
        account.id,
        account.owner,
        account.role,
        account.currency,
        int(account.debits_must_not_exceed_credits),
        account.debits_posted,
        account.credits_posted,
        account.debits_pending,
        account.credits_pending,
        int(account.frozen),
        int(account.closed),
        int(account.own_limits),
        account.spent_on,
        account.spent_today,
        account.spent_this_month,
        account.version,
        account.created_at,
        account.updated_at,
    )
    return sealed(row)


def write_limits(tx: Connection, changed: Mapping[str, Limits | None]) -> None:
    """Write the own limits of accounts, and remove those of accounts that shall have none any more."""
    rows = [
        (account, own.per_payment, own.per_day, own.per_month) for account, own in changed.items() if own is not None
    ]
    upsert_rows(tx, limits, rows, update=("per_payment", "per_day", "per_month"))
    if removed := [account for account, own in changed.items() if own is None]:
        tx.execute(delete(limits).where(limits.c.account.in_(removed)))


def insert_wallets(tx: Connection, new: Iterable[Wallet]) -> None:
    """Add wallets; one that another process added at this moment is an IntegrityError, never overwritten."""
    insert_rows(tx, wallets, [_wallet_row(wallet) for wallet in new])


def update_wallets(tx: Connection, changed: Iterable[Wallet]) -> None:
    """Write wallets that :func:`wallets_by_owner` has locked."""
    upsert_rows(tx, wallets, [_wallet_row(wallet) for wallet in changed], update=("status", "updated_at"))


def _wallet_row(wallet: Wallet) -> tuple[Any, ...]:
    return wallet.owner, wallet.role, wallet.status, wallet.created_at, wallet.updated_at


def write_holds(tx: Connection, changed: Iterable[Hold]) -> None:
    """Add new holds and write the state of those that have ended."""
    rows = [_hold_row(hold) for hold in changed]
    upsert_rows(tx, holds, rows, update=("state", "updated_at", "seal"))


def _hold_row(hold: Hold) -> tuple[Any, ...]:
    row = (
        hold.id,
        hold.debit_account,
        hold.credit_account,
        hold.amount,
        hold.currency,
        hold.state,
        hold.expires_at,
        hold.updated_at,
        hold.counted_on,
    )
    return sealed(row)


def insert_groups(tx: Connection, new: Iterable[StoredGroup]) -> None:
    """Store outcomes under their ids; one that is there already is an IntegrityError, never overwritten."""
    insert_rows(tx, groups, [group_row(group) for group in new])


def group_row(group: StoredGroup) -> tuple[Any, ...]:
    """An outcome in the order of the table's columns."""
    return (
        group.id,
        group.outcome,
        group.reason,
        group.detail,
        group.body,
        group.answer,
        group.request_id,
        group.at,
    )


def insert_keys(tx: Connection, new: Iterable[StoredKey]) -> None:
    """Store idempotency keys; one that is there already is an IntegrityError, never overwritten."""
    insert_rows(tx, keys, [key_row(key) for key in new])


def key_row(key: StoredKey) -> tuple[Any, ...]:
    """An idempotency key in the order of the table's columns."""
    return key.id, key.caller, key.idempotency_key, key.group_id, key.at


# --- figures ------------------------------------------------------------------------------------------------------


def figures(tx: Connection, now: int) -> Iterator[Figure]:
    """What the books hold, by currency and kind of owner, for the metrics. Reads all accounts."""
    # A table of its own, because MariaDB lets nobody group by an expression and select it.
    each = select(
        accounts.c.currency,
        case((accounts.c.role == PLATFORM, accounts.c.owner), else_=func.lower(accounts.c.role)).label("owner"),
        (accounts.c.credits_posted - accounts.c.debits_posted).label("balance"),
        accounts.c.debits_pending.label("held"),
    ).subquery()
    query = select(each.c.currency, each.c.owner, func.sum(each.c.balance), func.sum(each.c.held))
    total: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for currency, owner, balance, pending in tx.execute(query.group_by(each.c.currency, each.c.owner)):
        yield Figure(LEDGER_BALANCE, (currency, owner), int(balance))
        total[currency] += int(balance)
        held[currency] += int(pending)
    for currency in total:
        yield Figure(LEDGER_HELD, (currency,), held[currency])
        yield Figure(LEDGER_IMBALANCE, (currency,), total[currency])
    yield from outbox.figures(tx, now)


# --- reading for people -------------------------------------------------------------------------------------------


WalletAndAccounts: TypeAlias = tuple[Wallet, list[Account]]
"""A wallet and its accounts, in the order of their currencies."""


def wallets_with_accounts(tx: Connection, owners: Collection[str]) -> dict[str, WalletAndAccounts]:
    """Wallets and their accounts by owner, as of one moment: on every database one statement sees one."""
    wanted = statements.in_list({*owners})
    found: dict[str, WalletAndAccounts] = {}
    for row in statements.run(tx, _select_with_accounts(len(wanted)), wanted).rows:
        owner, role, status, created_at, updated_at = row[:_WALLET_WIDTH]
        if owner not in found:
            found[owner] = Wallet(owner, role, Status(status), created_at, updated_at), []
        if row[_WALLET_WIDTH] is not None:
            found[owner][1].append(Account(*row[_WALLET_WIDTH:-1]))
    return found


_WALLET_WIDTH = len(wallets.columns)


@lru_cache
def _select_with_accounts(size: int) -> str:
    return (
        f"SELECT {', '.join(map(str, (*wallets.columns, *accounts.columns)))} "  # noqa: S608  # names of ours; values are bound
        f"FROM {wallets.name} LEFT JOIN {accounts.name} ON {accounts.c.owner} = {wallets.c.owner} "
        f"WHERE {wallets.c.owner} IN {statements.marks(size)} ORDER BY {accounts.c.currency}"
    )


class StatementFilter(NamedTuple):
    """Which entries are wanted: from ``start`` on and before ``end``, older than the sequence ``before``."""

    start: int | None
    end: int | None
    before: int | None
    limit: int


def statement(tx: Connection, account_ids: Sequence[str], wanted: StatementFilter) -> Sequence[Row[Any]]:
    """Posted transfers of some accounts, newest first, merged from a range of an index for each account and side.

    Columns: ``sequence, id, is_debit, amount, currency, balance_after, counterparty_account, transaction_id,
    reference, description, at``.
    """
    if not account_ids:
        return ()
    return tx.execute(statement_query(account_ids, wanted)).all()


def statement_query(account_ids: Sequence[str], wanted: StatementFilter) -> Select[Any]:
    """The newest of several ranges, each of which has been cut to the limit by itself."""
    ranges = [
        _statement_range(account_id, wanted, is_debit=is_debit).subquery()
        for account_id in account_ids
        for is_debit in (True, False)
    ]
    merged = union_all(*(select(one) for one in ranges)).subquery()
    return select(merged).order_by(merged.c.sequence.desc()).limit(wanted.limit)


def _statement_range(account_id: str, wanted: StatementFilter, *, is_debit: bool) -> Select[Any]:
    own, other, balance = (
        (transfers.c.debit_account, transfers.c.credit_account, transfers.c.debit_balance_after)
        if is_debit
        else (transfers.c.credit_account, transfers.c.debit_account, transfers.c.credit_balance_after)
    )
    query = (
        select(
            transfers.c.sequence,
            transfers.c.id,
            literal(int(is_debit)).label("is_debit"),
            transfers.c.amount,
            transfers.c.currency,
            balance.label("balance_after"),
            other.label("counterparty_account"),
            transfers.c.transaction_id,
            transfers.c.reference,
            transfers.c.description,
            transfers.c.at,
        )
        .where(own == account_id, transfers.c.kind.in_((Kind.POSTED, Kind.POST)))
        .order_by(transfers.c.sequence.desc())
        .limit(wanted.limit)
    )
    if wanted.start is not None:
        query = query.where(transfers.c.at >= wanted.start)
    if wanted.end is not None:
        query = query.where(transfers.c.at < wanted.end)
    if wanted.before is not None:
        query = query.where(transfers.c.sequence < wanted.before)
    return query
