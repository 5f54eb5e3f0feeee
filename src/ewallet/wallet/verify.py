"""Whether the wallet's books are in order: everything is recomputed, and every row compared with what vouches for it.

The audit's hash chain vouches for itself. Its records carry digests of every group, transfer and idempotency key, and
tell which wallets and limits there must be. Balances are added up anew from transfers and holds. What then is left,
times and versions of accounts and holds, is sealed. Transfers and audit are read page by page; what is kept in memory
grows with the number of accounts only.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, select

from ewallet.plumbing import statements
from ewallet.plumbing.audit import SUCCEEDED
from ewallet.plumbing.verifying import Seen, count, digest, pages, seal_is_whole
from ewallet.wallet.domain.ledger import sums
from ewallet.wallet.domain.nouns import PLATFORM, PLATFORM_OWNERS, Account, HoldState, Kind, Limits
from ewallet.wallet.domain.wallets import Status, Wallet
from ewallet.wallet.messages import wallet_account
from ewallet.wallet.store import (
    accounts,
    audit,
    groups,
    holds,
    keys,
    limits,
    transfer_sequence,
    transfers,
    wallets,
)

_STATUS_CHANGES = {
    "wallet.freeze": Status.FROZEN,
    "wallet.unfreeze": Status.ACTIVE,
    "wallet.close": Status.CLOSED,
}
"""What the audit's words mean for a wallet."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True)
class _Sums:
    """What an account's transfers and holds add up to; ``astray`` once a balance-after was wrong."""

    debits_posted: int = 0
    credits_posted: int = 0
    debits_pending: int = 0
    credits_pending: int = 0
    astray: bool = False


@dataclass(slots=True)
class _Books:
    """What there must be: what transfers add up to, and what the audit tells of wallets, accounts and own limits."""

    sums: dict[str, _Sums] = field(default_factory=lambda: defaultdict(_Sums))
    wallets: dict[str, Wallet] = field(default_factory=dict)
    account_ids: set[str] = field(default_factory=set)
    limits: dict[str, Limits] = field(default_factory=dict)


def faults(tx: Connection, seen: Seen = lambda _count: None) -> Iterator[str]:
    """A sentence for each fault, which names the wrong record. ``tx`` must see one snapshot."""
    books = _Books()
    broken = audit.first_fault(tx, seen)
    if broken is None:
        yield from _deed_faults(tx, books, seen)
        yield from _wallet_faults(tx, books, seen)
        yield from _limit_faults(tx, books, seen)
    else:
        yield broken  # Only a whole audit can vouch for other rows.
    yield from _transfer_faults(tx, books, seen)
    yield from _hold_faults(tx, books, seen)
    yield from _account_faults(tx, books, seen, told=broken is None)


# --- what the audit tells -----------------------------------------------------------------------------------------


def _deed_faults(tx: Connection, books: _Books, seen: Seen) -> Iterator[str]:
    """Compare every group, transfer and key with its audit record, and note which wallets there must be."""
    booked, kept, start = 0, 0, -(2**63)
    for page in pages(tx, audit.records, seen):
        deeds = [(row, _decode(row.detail)) for row in page]
        end = transfer_sequence(page[-1].sequence + 1, 0)
        found = {row.sequence: row for row in _transfers_between(tx, start, end)}
        bookings = {row.sequence: detail for row, detail in deeds if "digests" in detail}
        yield from _booking_faults(tx, bookings, found)
        yield from _unknown_transfers(found.values())
        new_keys = {detail["key"]: (row.sequence, detail["keyDigest"]) for row, detail in deeds if "key" in detail}
        yield from _key_faults(tx, new_keys)
        for row, detail in deeds:
            _note(books, row, detail)
        expired = {row.subject: HoldState.EXPIRED for row in page if row.action == "wallet.expire_hold"}
        yield from _hold_state_faults(tx, expired)
        booked, kept, start = booked + len(bookings), kept + len(new_keys), end
    yield from _unknown_transfers(_transfers_between(tx, start, 2**63 - 1))
    if (count(tx, groups), count(tx, keys)) != (booked, kept):
        yield from _unknown_rows(tx, seen)


def _transfers_between(tx: Connection, start: int, end: int) -> Sequence[Row[Any]]:
    """The transfers from one sequence on and before another."""
    column = transfers.c.sequence
    return tx.execute(select(transfers).where(column >= start, column < end).order_by(column)).all()


def _booking_faults(
    tx: Connection, bookings: Mapping[int, dict[str, Any]], found: dict[int, Row[Any]]
) -> Iterator[str]:
    """Compare groups and transfers with the digests in their records; takes those transfers out of ``found``."""
    ids = {detail["group"] for detail in bookings.values()}
    group_by_id = {row[0]: row for row in statements.rows_in(tx, groups, "id", ids)}
    for number, detail in bookings.items():
        group_id, (of_group, *of_transfers) = detail["group"], detail["digests"]
        group = group_by_id.get(group_id)
        if group is None:
            yield f"group {group_id} is missing: audit record {number} tells of it"
        elif digest(group) != of_group:
            yield f"group {group_id} is not what audit record {number} tells"
        for place, written in enumerate(of_transfers):
            transfer = found.pop(transfer_sequence(number, place), None)
            if transfer is None:
                yield f"transfer {place + 1} of group {group_id} is missing: audit record {number} tells of it"
            elif digest(tuple(transfer)[1:]) != written:
                yield f"transfer {transfer.id} of group {group_id} is not what audit record {number} tells"


def _unknown_transfers(rows: Iterable[Row[Any]]) -> Iterator[str]:
    for row in rows:
        yield f"transfer {row.id} at {row.sequence} was inserted: no audit record tells of it"


def _key_faults(tx: Connection, new_keys: Mapping[str, tuple[int, str]]) -> Iterator[str]:
    """Compare keys with the numbers and the digests of the records that tell of them."""
    key_by_id = {row[0]: row for row in statements.rows_in(tx, keys, "id", new_keys)}
    for key_id, (number, written) in new_keys.items():
        key = key_by_id.get(key_id)
        if key is None:
            yield f"idempotency key {key_id} is missing: audit record {number} tells of it"
        elif digest(key) != written:
            yield f"idempotency key {key_id} is not what audit record {number} tells"


def _unknown_rows(tx: Connection, seen: Seen) -> Iterator[str]:
    """Name the groups and keys that no audit record tells of. There are some, so this once all ids are kept."""
    details = (_decode(row.detail) for page in pages(tx, audit.records, seen) for row in page)
    told = {(name, detail.get(name)) for detail in details for name in ("group", "key")}
    for table, name, noun in ((groups, "group", "group"), (keys, "key", "idempotency key")):
        for page in pages(tx, table, seen):
            for row in page:
                if (name, row.id) not in told:
                    yield f"{noun} {row.id} was inserted: no audit record tells of it"


def _note(books: _Books, row: Row[Any], detail: dict[str, Any]) -> None:
    """What an audit record tells of a wallet."""
    if row.result != SUCCEEDED:
        return
    if row.action == "wallet.open":
        books.wallets.setdefault(row.subject, Wallet(row.subject, detail["role"], Status.ACTIVE, row.at, row.at))
        owners = (row.subject, *PLATFORM_OWNERS)
        books.account_ids.update(wallet_account(owner, detail["currency"]) for owner in owners)
    elif row.action in _STATUS_CHANGES:
        wallet = books.wallets[row.subject]
        wallet.status, wallet.updated_at = _STATUS_CHANGES[row.action], row.at
    elif row.action == "wallet.change_limits":
        account_id, own = wallet_account(row.subject, detail["currency"]), detail["limits"]
        books.limits.pop(account_id, None)
        books.limits |= {} if own is None else {account_id: Limits(**own)}


def _wallet_faults(tx: Connection, books: _Books, seen: Seen) -> Iterator[str]:
    """Compare the wallets with what the audit tells of them."""
    missing = books.wallets.copy()
    for page in pages(tx, wallets, seen):
        for row in page:
            if row.owner not in missing:
                yield f"wallet {row.owner} was inserted: the audit knows of no such wallet"
            elif missing.pop(row.owner) != Wallet(*tuple(row)):
                yield f"wallet {row.owner} is not what the audit tells of it"
    yield from (f"wallet {owner} is missing: the audit tells of it" for owner in missing)


def _limit_faults(tx: Connection, books: _Books, seen: Seen) -> Iterator[str]:
    """Compare the accounts' own limits with what the audit tells of them."""
    missing = books.limits.copy()
    for page in pages(tx, limits, seen):
        for row in page:
            if missing.pop(row.account, None) != Limits(row.per_payment, row.per_day, row.per_month):
                yield f"the limits of account {row.account} are not what the audit tells of them"
    yield from (f"the limits of account {account_id} are missing: the audit tells of them" for account_id in missing)


# --- what the transfers add up to ---------------------------------------------------------------------------------


def _transfer_faults(tx: Connection, books: _Books, seen: Seen) -> Iterator[str]:
    """Add up all transfers from the first one on, and look on the way at what they say was left."""
    for page in pages(tx, transfers, seen):
        states: dict[str, str | None] = {}
        for row in page:
            match row.kind:
                case Kind.PENDING:
                    states.setdefault(row.id, None)
                case Kind.POST:
                    states[str(row.pending_id)] = HoldState.POSTED  # one that was erased is a hold that is missing
                case Kind.VOID:
                    states[str(row.pending_id)] = HoldState.VOIDED
            if row.kind in (Kind.POSTED, Kind.POST):
                books.sums[row.debit_account].debits_posted += row.amount
                books.sums[row.credit_account].credits_posted += row.amount
            yield from _balance_after_faults(books, row)
        yield from _hold_state_faults(tx, states)


def _balance_after_faults(books: _Books, row: Row[Any]) -> Iterator[str]:
    """Of each account the first transfer that is wrong about its balance; the later ones would only repeat it."""
    for account_id, after in (
        (row.debit_account, row.debit_balance_after),
        (row.credit_account, row.credit_balance_after),
    ):
        added_up = books.sums[account_id]
        if not added_up.astray and added_up.credits_posted - added_up.debits_posted != after:
            added_up.astray = True
            yield f"transfer {row.id} says that {account_id} had {after} after it, its transfers say otherwise"


# --- holds --------------------------------------------------------------------------------------------------------


def _hold_state_faults(tx: Connection, states: Mapping[str, str | None]) -> Iterator[str]:
    """Compare holds with the states that other records tell of; None is any state."""
    stored = dict(statements.rows_in(tx, holds, "id", states, columns=("id", "state")))
    for hold_id, state in states.items():
        if hold_id not in stored:
            yield f"hold {hold_id} is missing"
        elif state is not None and stored[hold_id] != state:
            yield f"hold {hold_id} is {stored[hold_id]}, but it was {state}"


_HELD = ("id", "debit_account", "credit_account", "amount", "currency", "expires_at", "kind")


def _hold_faults(tx: Connection, books: _Books, seen: Seen) -> Iterator[str]:
    """Compare every hold with its seal and its transfer, and add up those that have not ended."""
    for page in pages(tx, holds, seen):
        ids = [row.id for row in page]
        transfer_by_id = {row[0]: row for row in statements.rows_in(tx, transfers, "id", ids, columns=_HELD)}
        for row in page:
            held = (row.id, row.debit_account, row.credit_account, row.amount, row.currency, row.expires_at)
            if not seal_is_whole(row):
                yield f"hold {row.id} is not what was written"
            if transfer_by_id.get(row.id) != (*held, Kind.PENDING):
                yield f"hold {row.id} is not that of its transfer"
            if row.state == HoldState.PENDING:
                books.sums[row.debit_account].debits_pending += row.amount
                books.sums[row.credit_account].credits_pending += row.amount


# --- accounts -----------------------------------------------------------------------------------------------------


def _account_faults(tx: Connection, books: _Books, seen: Seen, *, told: bool) -> Iterator[str]:
    """Compare every account with its seal, its wallet and its sums; ``told``: with what the audit tells, too."""
    totals: dict[str, tuple[int, int]] = {}
    missing = books.account_ids.copy()
    for page in pages(tx, accounts, seen):
        owners = {row.owner for row in page}
        wallet_by_owner = {row[0]: Wallet(*row) for row in statements.rows_in(tx, wallets, "owner", owners)}
        for row in page:
            account = Account(*tuple(row)[:-1])
            if not seal_is_whole(row):
                yield f"account {account.id} is not what was written"
            if not _belongs(account, wallet_by_owner.get(account.owner)):
                yield f"account {account.id} does not agree with its owner's wallet"
            if told and account.id not in missing:
                yield f"account {account.id} was inserted: the audit knows of no such account"
            if told and account.own_limits != (account.id in books.limits):
                yield f"account {account.id} is wrong about having limits of its own"
            missing.discard(account.id)
            yield from _sum_faults(account, books.sums.pop(account.id, _Sums()))
            for currency, (posted, pending) in sums([account]).items():
                before = totals.get(currency, (0, 0))
                totals[currency] = before[0] + posted, before[1] + pending
    yield from (f"account {account_id} is missing: the audit tells of it" for account_id in sorted(missing))
    yield from (f"account {each} does not exist, but transfers or holds name it" for each in sorted(books.sums))
    for currency, (posted, pending) in sorted(totals.items()):
        if posted or pending:
            yield f"the accounts of {currency} do not sum to zero: posted {posted}, held {pending}"


def _belongs(account: Account, wallet: Wallet | None) -> bool:
    """Whether an account has the id, the role and the flags that follow from its owner's wallet."""
    if account.owner in PLATFORM_OWNERS:
        role, status = PLATFORM, Status.ACTIVE
    elif wallet is not None:
        role, status = wallet.role, wallet.status
    else:
        return False
    flags = (role != PLATFORM, status == Status.FROZEN, status == Status.CLOSED)
    return (
        account.id == wallet_account(account.owner, account.currency)
        and account.role == role
        and (account.debits_must_not_exceed_credits, account.frozen, account.closed) == flags
    )


def _sum_faults(account: Account, added_up: _Sums) -> Iterator[str]:
    if (account.debits_posted, account.credits_posted) != (added_up.debits_posted, added_up.credits_posted):
        yield (
            f"account {account.id} has debits of {account.debits_posted} and credits of {account.credits_posted}, "
            f"its transfers add up to {added_up.debits_posted} and {added_up.credits_posted}"
        )
    if (account.debits_pending, account.credits_pending) != (added_up.debits_pending, added_up.credits_pending):
        yield (
            f"account {account.id} holds {account.debits_pending} and is promised {account.credits_pending}, "
            f"its holds add up to {added_up.debits_pending} and {added_up.credits_pending}"
        )
