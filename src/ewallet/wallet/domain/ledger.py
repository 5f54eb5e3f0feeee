"""What may happen to money. The heart is :func:`check` and :func:`record`; everything else surrounds them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import InvariantBroken
from ewallet.kernel.money import MAXIMUM_AMOUNT, MINIMUM_AMOUNT
from ewallet.wallet.domain.limits import Spending, count, day_of, exceeded, give_back, spending_of
from ewallet.wallet.domain.nouns import (
    LARGEST_SUM,
    PLATFORM,
    PLATFORM_OWNERS,
    Account,
    Book,
    Entry,
    Hold,
    HoldState,
    Kind,
    Transfer,
    owner_of,
)
from ewallet.wallet.domain.verdicts import Verdict

MAXIMUM_TIMEOUT_SECONDS = 366 * 24 * 3600
"""A hold longer than a year is a mistake in the unit."""

NOTHING_SPENT: Spending = {}


def apply(
    book: Book, transfers: Sequence[Transfer], now: int, *, spender: str | None = None, as_of: int | None = None
) -> list[Entry] | Verdict:
    """Apply a group of transfers, all or none, and return its entries; a Verdict leaves the book as it was.

    ``spender`` is the owner whose limits hold for the group as a whole. ``as_of`` is when a group that was lost had
    been applied first: a hold that was alive then, and has not been released since, can still be finished.
    """
    spending = NOTHING_SPENT if spender is None else spending_of(transfers, spender)
    entries: list[Entry] = []
    for transfer in transfers:
        verdict = check(book, transfer, now if as_of is None else as_of, spending)
        if verdict is not None:
            for entry in reversed(entries):
                _undo(book, entry)
            return verdict
        entries.append(record(book, transfer, now))
    _count(book, entries, spending, now)
    _give_back(book, entries, spending)
    return entries or Verdict.GROUP_MUST_NOT_BE_EMPTY


def check(book: Book, transfer: Transfer, now: int, spending: Spending = NOTHING_SPENT) -> Verdict | None:
    """Why a transfer may not happen, or None where it may. The order of the guards is the order of ``Verdict``."""
    kind, amount = transfer.kind, transfer.amount
    finishes_hold = kind is Kind.POST or kind is Kind.VOID

    if transfer.debit_account == transfer.credit_account:
        return Verdict.ACCOUNTS_MUST_BE_DIFFERENT
    if not MINIMUM_AMOUNT <= amount <= MAXIMUM_AMOUNT:
        return Verdict.AMOUNT_OUT_OF_RANGE
    if finishes_hold and transfer.pending_id is None:
        return Verdict.PENDING_ID_MUST_BE_GIVEN
    if not finishes_hold and transfer.pending_id is not None:
        return Verdict.PENDING_ID_MUST_NOT_BE_GIVEN
    if transfer.timeout_seconds is not None and kind is not Kind.PENDING:
        return Verdict.TIMEOUT_RESERVED_FOR_PENDING
    if transfer.timeout_seconds is not None and not 0 < transfer.timeout_seconds <= MAXIMUM_TIMEOUT_SECONDS:
        return Verdict.TIMEOUT_OUT_OF_RANGE

    if transfer.id in book.taken_ids:
        return Verdict.ID_ALREADY_TAKEN
    if finishes_hold and (verdict := _check_hold(book, transfer, now)) is not None:
        return verdict

    debit = book.accounts.get(transfer.debit_account)
    credit = book.accounts.get(transfer.credit_account)
    if debit is None or credit is None or transfer.credit_role not in (None, credit.role):
        return _missing(book, transfer)
    if not debit.currency == credit.currency == transfer.currency:
        return Verdict.ACCOUNTS_MUST_HAVE_THE_CURRENCY

    if kind is Kind.VOID:
        return None  # Releasing a hold moves no money; a frozen wallet must be able to get rid of its holds.
    if debit.closed:
        return Verdict.DEBIT_ACCOUNT_CLOSED
    if credit.closed:
        return Verdict.CREDIT_ACCOUNT_CLOSED
    if debit.frozen:
        return Verdict.DEBIT_ACCOUNT_FROZEN
    if credit.frozen:
        return Verdict.CREDIT_ACCOUNT_FROZEN

    if kind is Kind.POST:
        return None  # The hold has set the money aside: there is enough of it, and the sums have room.
    if debit.id in spending and (limit := exceeded(book, debit.id, spending[debit.id], now)) is not None:
        return limit.verdict
    if debit.debits_must_not_exceed_credits and amount > debit.available:
        return Verdict.EXCEEDS_CREDITS
    if debit.debits_posted + debit.debits_pending + amount > LARGEST_SUM:
        return Verdict.OVERFLOWS_DEBITS
    if credit.credits_posted + credit.credits_pending + amount > LARGEST_SUM:
        return Verdict.OVERFLOWS_CREDITS
    return None


def _check_hold(book: Book, transfer: Transfer, now: int) -> Verdict | None:
    """Why a POST or VOID may not finish the hold that it names."""
    hold = book.holds.get(transfer.pending_id or "")
    if hold is None:
        return Verdict.PENDING_TRANSFER_NOT_FOUND
    if hold.debit_account != transfer.debit_account:
        return Verdict.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT
    if hold.credit_account != transfer.credit_account:
        return Verdict.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT
    if hold.currency != transfer.currency:
        return Verdict.PENDING_TRANSFER_HAS_DIFFERENT_CURRENCY
    if transfer.kind is Kind.VOID and transfer.amount != hold.amount:
        return Verdict.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT
    if transfer.amount > hold.amount:
        return Verdict.EXCEEDS_PENDING_TRANSFER_AMOUNT
    if hold.state is HoldState.POSTED:
        return Verdict.PENDING_TRANSFER_ALREADY_POSTED
    if hold.state is HoldState.VOIDED:
        return Verdict.PENDING_TRANSFER_ALREADY_VOIDED
    if hold.state is HoldState.EXPIRED or is_due(hold, now):
        return Verdict.PENDING_TRANSFER_EXPIRED
    return None


def _missing(book: Book, transfer: Transfer) -> Verdict:
    """Which account is missing, or belongs to the wrong sort of owner. Who there is comes before which currency."""
    debit_role = _owner_role(book, transfer.debit_account)
    credit_role = _owner_role(book, transfer.credit_account)
    if debit_role is None:
        return Verdict.DEBIT_OWNER_NOT_FOUND
    if transfer.credit_role not in (None, credit_role):
        return Verdict.CREDIT_OWNER_MUST_HAVE_THE_ROLE
    if credit_role is None:
        return Verdict.CREDIT_OWNER_NOT_FOUND
    if transfer.debit_account not in book.accounts:
        return Verdict.DEBIT_ACCOUNT_NOT_FOUND
    return Verdict.CREDIT_ACCOUNT_NOT_FOUND


def _owner_role(book: Book, account_id: str) -> str | None:
    account = book.accounts.get(account_id)
    if account is not None:
        return account.role
    owner = owner_of(account_id)
    return PLATFORM if owner in PLATFORM_OWNERS else book.roles.get(owner)


def record(book: Book, transfer: Transfer, now: int) -> Entry:
    """Apply a transfer that :func:`check` has let pass. After this point it must succeed."""
    book.taken_ids.add(transfer.id)
    debit, credit = book.accounts[transfer.debit_account], book.accounts[transfer.credit_account]
    posted, pending, expires_at = 0, 0, None
    match transfer.kind:
        case Kind.POSTED:
            posted = transfer.amount
        case Kind.PENDING:
            pending = transfer.amount
            if transfer.timeout_seconds is not None:
                expires_at = now + transfer.timeout_seconds * MICROSECONDS_PER_SECOND
            book.holds[transfer.id] = _new_hold(transfer, expires_at, now)
        case Kind.POST:
            posted, pending = transfer.amount, -_end_hold(book, transfer, HoldState.POSTED, now)
        case Kind.VOID:
            pending = -_end_hold(book, transfer, HoldState.VOIDED, now)
        case _:
            assert_never(transfer.kind)
    _change(debit, credit, posted=posted, pending=pending)
    return Entry(transfer, posted, pending, debit.balance, credit.balance, expires_at)


def _count(book: Book, entries: Sequence[Entry], spending: Spending, now: int) -> None:
    """Count what an applied group spends towards the limits of whoever spends it."""
    for account_id, amount in spending.items():
        count(book.accounts[account_id], amount, now)
    for entry in entries:
        if entry.transfer.kind is Kind.PENDING and entry.transfer.debit_account in spending:
            book.holds[entry.transfer.id].counted_on = day_of(now)


def _give_back(book: Book, entries: Sequence[Entry], spending: Spending) -> None:
    """Give back what an applied group releases of holds that have counted.

    What it takes out of the same account beside them and does not count, like the fee of a capture, is not released.
    """
    ended = [book.holds[entry.transfer.pending_id] for entry in entries if entry.transfer.pending_id is not None]
    taken = Counter[str]()
    for entry in entries if ended else ():
        if entry.transfer.kind is Kind.POST or entry.transfer.debit_account not in spending:
            taken[entry.transfer.debit_account] += entry.posted
    for hold in ended:
        if hold.counted_on is not None:
            kept = min(hold.amount, taken[hold.debit_account])
            taken[hold.debit_account] -= kept
            give_back(book.accounts[hold.debit_account], hold.amount - kept, hold.counted_on)


def is_due(hold: Hold, now: int) -> bool:
    """Whether a hold's time is over; it may not be posted any more, whether or not it was expired already."""
    return hold.expires_at is not None and hold.expires_at <= now


def expire(book: Book, hold: Hold, now: int) -> bool:
    """Release a hold whose time is over; False where it has ended otherwise, or its time is not over."""
    if hold.state is not HoldState.PENDING or not is_due(hold, now):
        return False
    hold.state, hold.updated_at = HoldState.EXPIRED, now
    debit, credit = book.accounts[hold.debit_account], book.accounts[hold.credit_account]
    _change(debit, credit, posted=0, pending=-hold.amount)
    if hold.counted_on is not None:
        give_back(debit, hold.amount, hold.counted_on)
    return True


def _new_hold(transfer: Transfer, expires_at: int | None, now: int) -> Hold:
    return Hold(
        transfer.id,
        transfer.debit_account,
        transfer.credit_account,
        transfer.amount,
        transfer.currency,
        HoldState.PENDING,
        expires_at,
        now,
    )


def _end_hold(book: Book, transfer: Transfer, state: HoldState, now: int) -> int:
    """End the hold that the transfer names; returns its whole amount, which is held no more."""
    hold = book.holds[transfer.pending_id or ""]
    hold.state, hold.updated_at = state, now
    return hold.amount


def _undo(book: Book, entry: Entry) -> None:
    """Take back the latest entry; entries are taken back in the reverse of their order."""
    transfer = entry.transfer
    book.taken_ids.discard(transfer.id)
    if transfer.kind is Kind.PENDING:
        del book.holds[transfer.id]
    elif transfer.pending_id is not None:
        book.holds[transfer.pending_id].state = HoldState.PENDING
    debit, credit = book.accounts[transfer.debit_account], book.accounts[transfer.credit_account]
    _change(debit, credit, posted=-entry.posted, pending=-entry.pending)


def _change(debit: Account, credit: Account, *, posted: int, pending: int) -> None:
    """The only place where balances change: both sides at once, by the same amounts."""
    debit.debits_posted += posted
    debit.debits_pending += pending
    credit.credits_posted += posted
    credit.credits_pending += pending


def sums(accounts: Iterable[Account]) -> dict[str, tuple[int, int]]:
    """Per currency: posted credits minus debits, and pending credits minus debits."""
    totals: dict[str, tuple[int, int]] = {}
    for account in accounts:
        posted, pending = totals.get(account.currency, (0, 0))
        totals[account.currency] = (
            posted + account.credits_posted - account.debits_posted,
            pending + account.credits_pending - account.debits_pending,
        )
    return totals


def require_sound(book: Book, sums_before: Mapping[str, tuple[int, int]]) -> None:
    """The last look before money is written: nothing was made or lost, and no wallet is below zero.

    InvariantBroken: the rules above are wrong; nothing may be written.
    """
    for currency, total in sums(book.accounts.values()).items():
        if total != sums_before.get(currency, (0, 0)):
            raise InvariantBroken(f"the accounts of {currency} changed from {sums_before.get(currency)} to {total}")
    for account in book.accounts.values():
        if account.debits_must_not_exceed_credits and account.available < 0:
            raise InvariantBroken(f"{account.id} is below zero: {account.available}")
        if account.debits_pending < 0 or account.credits_pending < 0:
            raise InvariantBroken(f"{account.id} holds less than nothing")
        if not 0 <= account.spent_today <= account.spent_this_month:
            raise InvariantBroken(f"{account.id} has spent {account.spent_today} of {account.spent_this_month}")
