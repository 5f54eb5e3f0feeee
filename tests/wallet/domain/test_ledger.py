"""The ledger's rules, as tables that read like a ledger (their words are explained in ``ledger_tables``)."""

import re
from dataclasses import replace

import pytest

from ewallet.kernel.errors import InvariantBroken
from ewallet.wallet.domain.ledger import apply, require_sound, sums
from ewallet.wallet.domain.nouns import LARGEST_SUM, Book, Entry, Hold, HoldState, Kind, Transfer, owner_of
from ewallet.wallet.domain.verdicts import Verdict
from tests.wallet.domain.ledger_tables import Table

TABLES = {
    "a transfer moves money and never more than there is": """
        account  A1 100
        account  A2 0
        transfer T1 A1 A2 60    => posted
        transfer T2 A1 A2 41    => exceeds_credits
        transfer T3 A1 A2 40    => posted
        transfer T4 A1 A2 1     => exceeds_credits
        balance  A1 0 held 0
        balance  A2 100 held 0
    """,
    "the platform's cash may go below zero": """
        account  cash 0 unlimited
        account  A1 0
        transfer T1 cash A1 100 => posted
        balance  cash -100 held 0
        balance  A1 100 held 0
    """,
    "a group is applied wholly": """
        account  A1 100
        account  M1 0 MERCHANT
        account  fees 0 unlimited
        group    T1 A1 M1 98 role=MERCHANT | T2 A1 fees 2 => posted
        balance  A1 0 held 0
        balance  M1 98 held 0
        balance  fees 2 held 0
    """,
    "a group is applied not at all, whichever of its transfers is refused": """
        account  A1 100
        account  M1 0 MERCHANT
        account  fees 0 unlimited
        group    T1 A1 M1 98 | T2 A1 fees 3 => exceeds_credits
        group    T1 A1 M1 101 | T2 A1 fees 2 => exceeds_credits
        balance  A1 100 held 0
        balance  M1 0 held 0
        group    T1 A1 M1 98 | T2 A1 fees 2 => posted
    """,
    "money that a group brings in may go on within it": """
        account  A1 100
        account  A2 0
        account  A3 0
        group    T1 A1 A2 100 | T2 A2 A3 100 => posted
        balance  A2 0 held 0
        balance  A3 100 held 0
    """,
    "an id is used once": """
        account  A1 100
        account  A2 0
        transfer T1 A1 A2 10 => posted
        transfer T1 A1 A2 10 => id_already_taken
        group    T2 A1 A2 10 | T2 A1 A2 10 => id_already_taken
        group    T3 A1 A2 10 | T4 A1 A2 999 => exceeds_credits
        transfer T3 A1 A2 10 => posted
    """,
    "held money cannot be spent, and the holder has not got it yet": """
        account  A1 100
        account  A2 0
        hold     H1 A1 A2 60 => posted
        balance  A1 100 held 60
        balance  A2 0 held 0
        transfer T1 A1 A2 41 => exceeds_credits
        hold     H2 A1 A2 41 => exceeds_credits
        transfer T2 A2 A1 1  => exceeds_credits
        transfer T3 A1 A2 40 => posted
    """,
    "a hold is posted in whole": """
        account  A1 100
        account  A2 0
        hold     H1 A1 A2 60 => posted
        post     T1 A1 A2 60 of=H1 => posted
        balance  A1 40 held 0
        balance  A2 60 held 0
    """,
    "a hold is posted in part, and the rest is released": """
        account  A1 100
        account  A2 0
        hold     H1 A1 A2 60 => posted
        post     T1 A1 A2 61 of=H1 => exceeds_pending_transfer_amount
        post     T2 A1 A2 25 of=H1 => posted
        balance  A1 75 held 0
        balance  A2 25 held 0
        post     T3 A1 A2 1 of=H1 => pending_transfer_already_posted
        void     T4 A1 A2 60 of=H1 => pending_transfer_already_posted
    """,
    "a hold is voided": """
        account  A1 100
        account  A2 0
        hold     H1 A1 A2 60 => posted
        void     T1 A1 A2 59 of=H1 => pending_transfer_has_different_amount
        void     T2 A1 A2 60 of=H1 => posted
        balance  A1 100 held 0
        post     T3 A1 A2 1 of=H1 => pending_transfer_already_voided
        void     T4 A1 A2 60 of=H1 => pending_transfer_already_voided
    """,
    "a hold expires by itself, and counts until it is expired": """
        account  A1 100
        account  A2 0
        hold     H1 A1 A2 60 timeout=10 => posted
        wait     9
        expire   H1 => False
        transfer T1 A1 A2 41 => exceeds_credits
        wait     1
        post     T2 A1 A2 60 of=H1 => pending_transfer_expired
        transfer T3 A1 A2 41 => exceeds_credits
        expire   H1 => True
        expire   H1 => False
        void     T4 A1 A2 60 of=H1 => pending_transfer_expired
        transfer T5 A1 A2 100 => posted
    """,
    "what was finished in time and lost can be finished again, until the hold is released": """
        account  A1 100
        account  A2 0
        hold     H1 A1 A2 60 timeout=10 => posted
        hold     H2 A1 A2 30 timeout=10 => posted
        wait     12
        post     T1 A1 A2 60 of=H1 ago=2 => pending_transfer_expired
        post     T1 A1 A2 60 of=H1 ago=3 => posted
        expire   H1 => False
        expire   H2 => True
        post     T2 A1 A2 30 of=H2 ago=3 => pending_transfer_expired
        balance  A1 40 held 0
    """,
    "a hold that was finished in time does not expire": """
        account  A1 100
        account  A2 0
        hold     H1 A1 A2 60 timeout=10 => posted
        post     T1 A1 A2 60 of=H1 => posted
        wait     99
        expire   H1 => False
        balance  A1 40 held 0
    """,
    "what a refused group has held is released": """
        account  A1 100
        account  A2 0
        group    hold H1 A1 A2 60 | T1 A1 A2 41 => exceeds_credits
        balance  A1 100 held 0
        post     T2 A1 A2 60 of=H1 => pending_transfer_not_found
        hold     H1 A1 A2 60 => posted
    """,
    "a hold that a refused group has ended is as it was": """
        account  A1 100
        account  A2 0
        hold     H1 A1 A2 60 => posted
        hold     H2 A1 A2 1 timeout=5 => posted
        group    void T9 A1 A2 1 of=H2 | T2 A1 A2 999 => exceeds_credits
        wait     5
        expire   H2 => True
        group    post T1 A1 A2 50 of=H1 | T2 A1 A2 51 => exceeds_credits
        balance  A1 100 held 60
        group    void T3 A1 A2 60 of=H1 | T4 A1 A2 101 => exceeds_credits
        balance  A1 100 held 60
        post     T5 A1 A2 60 of=H1 => posted
        balance  A1 40 held 0
    """,
    "what one transfer of a group releases the next one can spend": """
        account  A1 100
        account  A2 0
        hold     H1 A1 A2 60 => posted
        group    void T1 A1 A2 60 of=H1 | T2 A1 A2 100 => posted
        balance  A1 0 held 0
    """,
    "frozen money moves in no way; a hold on it can be released": """
        account  A1 100
        account  A2 50
        hold     H1 A1 A2 10 => posted
        hold     H2 A1 A2 10 timeout=5 => posted
        hold     H3 A1 A2 10 => posted
        freeze   A1
        transfer T1 A1 A2 10 => debit_account_frozen
        transfer T2 A2 A1 10 => credit_account_frozen
        hold     H4 A1 A2 10 => debit_account_frozen
        hold     H5 A2 A1 10 => credit_account_frozen
        post     T3 A1 A2 10 of=H1 => debit_account_frozen
        void     T4 A1 A2 10 of=H1 => posted
        wait     5
        expire   H2 => True
        unfreeze A1
        post     T5 A1 A2 10 of=H3 => posted
        transfer T6 A1 A2 90 => posted
    """,
    "a closed account takes and gives nothing": """
        account  A1 0
        account  A2 50
        close    A1
        transfer T1 A1 A2 10 => debit_account_closed
        transfer T2 A2 A1 10 => credit_account_closed
        hold     H1 A1 A2 10 => debit_account_closed
        hold     H2 A2 A1 10 => credit_account_closed
    """,
    "who must be a merchant is one": """
        account  A1 100
        account  A2 0
        account  M1 0 MERCHANT
        missing  M2 MERCHANT
        missing  N1 CUSTOMER
        transfer T1 A1 M1 10 role=MERCHANT => posted
        transfer T2 A1 A2 10 role=MERCHANT => credit_owner_must_have_the_role
        transfer T3 A1 N1 10 role=MERCHANT => credit_owner_must_have_the_role
        transfer T4 A1 Z9 10 role=MERCHANT => credit_owner_must_have_the_role
        transfer T5 A1 cash 10 role=MERCHANT => credit_owner_must_have_the_role
        transfer T6 A1 M2 10 role=MERCHANT => credit_account_not_found
        transfer T7 A1 A1 10 role=MERCHANT => accounts_must_be_different
    """,
    "who there is comes before which currency, and that before whether money may move": """
        account  A1 100
        account  A2 0
        missing  N1 CUSTOMER
        missing  M1 MERCHANT
        freeze   A1
        transfer T1 Z1 Z2 10 role=MERCHANT => debit_owner_not_found
        transfer T2 N1 Z2 10 role=MERCHANT => credit_owner_must_have_the_role
        transfer T3 N1 Z2 10               => credit_owner_not_found
        transfer T4 N1 M1 10 role=MERCHANT => debit_account_not_found
        transfer T5 A1 M1 10 role=MERCHANT => credit_account_not_found
        transfer T6 A1 A2 10 currency=EUR  => accounts_must_have_the_currency
        transfer T7 A1 A2 999              => debit_account_frozen
    """,
    "closed comes before frozen, frozen before funds": """
        account  A1 0
        account  A2 0
        freeze   A1
        close    A2
        transfer T1 A1 A2 999 => credit_account_closed
        transfer T2 A2 A1 999 => debit_account_closed
        close    A1
        transfer T3 A1 A2 999 => debit_account_closed
        freeze   A1
        freeze   A2
        transfer T4 A1 A2 999 => debit_account_frozen
        unfreeze A1
        transfer T5 A1 A2 999 => credit_account_frozen
        unfreeze A2
        transfer T6 A1 A2 999 => exceeds_credits
    """,
    "the order itself is looked at first, in the order of the verdicts": """
        transfer T1 Z1 Z1 0 of=H1 timeout=1             => accounts_must_be_different
        transfer T1 Z1 Z2 0 of=H1 timeout=1             => amount_out_of_range
        transfer T1 Z1 Z2 -1                            => amount_out_of_range
        transfer T1 Z1 Z2 1000000000000001              => amount_out_of_range
        post     T1 Z1 Z2 1 timeout=1                   => pending_id_must_be_given
        void     T1 Z1 Z2 1                             => pending_id_must_be_given
        transfer T1 Z1 Z2 1 of=H1 timeout=1             => pending_id_must_not_be_given
        hold     T1 Z1 Z2 1 of=H1                       => pending_id_must_not_be_given
        transfer T1 Z1 Z2 1 timeout=1                   => timeout_reserved_for_pending
        hold     T1 Z1 Z2 1 timeout=0                   => timeout_out_of_range
        hold     T1 Z1 Z2 1 timeout=31622401            => timeout_out_of_range
        transfer T1 Z1 Z2 1                             => debit_owner_not_found
    """,
    "the largest amount and the longest hold are allowed": """
        account  A1 2000000000000000
        account  A2 0
        transfer T1 A1 A2 1000000000000000  => posted
        hold     H1 A1 A2 1 timeout=31622400 => posted
    """,
    "the platform has an account in every currency, or will have one": """
        account  A1 10
        transfer T1 A1 fees 1 => credit_account_not_found
        transfer T2 cash A1 1 => debit_account_not_found
    """,
    "a hold is finished as it was made": """
        account  A1 100
        account  A2 0
        account  A3 0
        hold     H1 A1 A2 60 => posted
        post     T1 A1 A2 10 of=H9              => pending_transfer_not_found
        post     T1 A3 A2 10 of=H1              => pending_transfer_has_different_debit_account
        post     T1 A1 A3 10 of=H1              => pending_transfer_has_different_credit_account
        post     T1 A1 A2 10 of=H1 currency=EUR => pending_transfer_has_different_currency
        post     H1 A1 A2 10 of=H1              => id_already_taken
    """,
    "a payment is as large as its limit and no larger, its fee included": """
        account  A1 999
        account  M1 0 MERCHANT
        account  fees 0 unlimited
        limit    A1 payment=100
        group    T1 A1 M1 98 by=A1 | T2 A1 fees 3 => exceeds_limit_per_payment
        group    T1 A1 M1 98 by=A1 | T2 A1 fees 2 => posted
        hold     H1 A1 M1 101 by=A1 => exceeds_limit_per_payment
        hold     H1 A1 M1 100 by=A1 => posted
        spent    A1 200 today 200 this month
    """,
    "a day's limit is spent to the last unit, and a new day begins at midnight of UTC": """
        account  A1 999
        account  M1 0 MERCHANT
        limit    A1 day=100
        transfer T1 A1 M1 60 by=A1 => posted
        wait     86399
        transfer T2 A1 M1 41 by=A1 => exceeds_limit_per_day
        transfer T2 A1 M1 40 by=A1 => posted
        transfer T3 A1 M1 1  by=A1 => exceeds_limit_per_day
        spent    A1 100 today 100 this month
        wait     1
        spent    A1 0 today 100 this month
        transfer T3 A1 M1 100 by=A1 => posted
        spent    A1 100 today 200 this month
    """,
    "a month's limit holds to the calendar month's end": """
        account  A1 999
        account  M1 0 MERCHANT
        limit    A1 month=100
        transfer T1 A1 M1 60 by=A1 => posted
        wait     30d
        transfer T2 A1 M1 41 by=A1 => exceeds_limit_per_month
        transfer T2 A1 M1 40 by=A1 => posted
        spent    A1 40 today 100 this month
        wait     1d
        spent    A1 0 today 0 this month
        transfer T3 A1 M1 100 by=A1 => posted
        wait     365d
        transfer T4 A1 M1 100 by=A1 => posted
    """,
    "the narrowest limit speaks first": """
        account  A1 0
        account  M1 0 MERCHANT
        limit    A1 payment=1 day=1 month=1
        transfer T1 A1 M1 2 by=A1 => exceeds_limit_per_payment
        limit    A1 day=1 month=1
        transfer T1 A1 M1 2 by=A1 => exceeds_limit_per_day
        limit    A1 month=1
        transfer T1 A1 M1 2 by=A1 => exceeds_limit_per_month
        limit    A1
        transfer T1 A1 M1 2 by=A1 => exceeds_credits
    """,
    "whether money may move comes before limits, and they before funds": """
        account  A1 0
        account  M1 0 MERCHANT
        limit    A1 payment=0
        freeze   M1
        transfer T1 A1 M1 1 by=A1 => credit_account_frozen
        close    A1
        transfer T1 A1 M1 1 by=A1 => debit_account_closed
        transfer T1 A1 Z1 1 by=A1 => credit_owner_not_found
        freeze   A1
        transfer T1 A1 M1 1 by=A1 => debit_account_frozen
        unfreeze A1
        unfreeze M1
        transfer T1 A1 M1 1 by=A1 => exceeds_limit_per_payment
    """,
    "only what somebody spends counts, and only as the order says": """
        account  A1 100
        account  A2 100
        limit    A1 day=10
        transfer T1 A1 A2 11 => posted
        transfer T2 A2 A1 11 by=A1 => posted
        group    T3 A2 A1 50 by=A1 | T4 A1 A2 10 => posted
        spent    A1 10 today 10 this month
        spent    A2 0 today 0 this month
    """,
    "a limit that was lowered lets nothing more through, one that was raised the rest": """
        account  A1 100
        account  M1 0 MERCHANT
        transfer T1 A1 M1 60 by=A1 => posted
        limit    A1 day=50
        transfer T2 A1 M1 1 by=A1 => exceeds_limit_per_day
        limit    A1 day=70
        transfer T2 A1 M1 10 by=A1 => posted
    """,
    "a refused group counts nothing": """
        account  A1 100
        account  M1 0 MERCHANT
        limit    A1 day=100
        group    T1 A1 M1 50 by=A1 | T2 A1 Z1 50 => credit_owner_not_found
        group    hold H1 A1 M1 50 by=A1 | T2 A1 Z1 50 => credit_owner_not_found
        spent    A1 0 today 0 this month
    """,
    "a hold counts when it is made, and what it does not take is given back": """
        account  A1 999
        account  M1 0 MERCHANT
        limit    A1 day=100
        hold     H1 A1 M1 60 by=A1 => posted
        hold     H2 A1 M1 30 by=A1 timeout=5 => posted
        hold     H3 A1 M1 10 by=A1 => posted
        spent    A1 100 today 100 this month
        void     T1 A1 M1 60 of=H1 => posted
        spent    A1 40 today 40 this month
        wait     5
        expire   H2 => True
        spent    A1 10 today 10 this month
        post     T2 A1 M1 7 of=H3 => posted
        spent    A1 7 today 7 this month
        transfer T3 A1 M1 93 by=A1 => posted
    """,
    "the fee out of what a capture releases is taken too": """
        account  A1 999
        account  M1 0 MERCHANT
        account  fees 0 unlimited
        hold     H1 A1 M1 100 by=A1 => posted
        group    post T1 A1 M1 49 of=H1 | T2 A1 fees 1 => posted
        spent    A1 50 today 50 this month
        hold     H2 A1 M1 10 by=A1 => posted
        group    post T3 A1 M1 9 of=H2 | T4 A1 fees 2 => posted
        spent    A1 60 today 60 this month
        hold     H3 A1 M1 10 by=A1 => posted
        hold     H4 A1 M1 10 by=A1 => posted
        group    post T5 A1 M1 4 of=H3 | post T6 A1 M1 4 of=H4 | T7 A1 fees 2 => posted
        spent    A1 70 today 70 this month
    """,
    "what a group releases and spends anew counts once": """
        account  A1 100
        account  M1 0 MERCHANT
        hold     H1 A1 M1 60 by=A1 => posted
        hold     H2 A1 M1 40 by=A1 => posted
        group    void T1 A1 M1 60 of=H1 | T2 A1 M1 20 by=A1 => posted
        spent    A1 60 today 60 this month
        group    post T3 A1 M1 10 of=H2 | T4 A1 M1 20 by=A1 => posted
        spent    A1 50 today 50 this month
    """,
    "a hold gives back to the day and the month in which it counted, and to no other": """
        account  A1 999
        account  M1 0 MERCHANT
        wait     29d
        hold     H1 A1 M1 10 by=A1 => posted
        hold     H2 A1 M1 20 by=A1 => posted
        hold     H3 A1 M1 40 by=A1 => posted
        wait     1d
        transfer T1 A1 M1 5 by=A1 => posted
        void     T2 A1 M1 10 of=H1 => posted
        spent    A1 5 today 65 this month
        wait     1d
        void     T3 A1 M1 20 of=H2 => posted
        transfer T4 A1 M1 3 by=A1 => posted
        void     T5 A1 M1 40 of=H3 => posted
        spent    A1 3 today 3 this month
    """,
    "a hold that did not count gives nothing back": """
        account  A1 100
        account  M1 0 MERCHANT
        hold     H1 A1 M1 60 timeout=5 => posted
        hold     H2 A1 M1 10 => posted
        transfer T1 A1 M1 20 by=A1 => posted
        wait     5
        expire   H1 => True
        void     T2 A1 M1 10 of=H2 => posted
        spent    A1 20 today 20 this month
    """,
    "a sum that cannot be counted is refused": f"""
        account  B1 {LARGEST_SUM} unlimited
        account  A1 10
        account  cash 0 unlimited
        transfer T1 A1 B1 1 => overflows_credits
        transfer T2 B1 A1 5 => posted
        transfer T3 A1 B1 1 => overflows_credits
    """,
    "the largest sum that can be counted is no more than what is there and what is held": f"""
        account  B1 {LARGEST_SUM - 10} unlimited
        account  cash 0 unlimited
        hold     H1 cash B1 4 => posted
        transfer T1 cash B1 7 => overflows_credits
        transfer T2 cash B1 6 => posted
    """,
}


@pytest.mark.parametrize("promise", TABLES)
def test_ledger_table(promise: str) -> None:
    Table().run(TABLES[promise])


def test_debits_that_cannot_be_counted_are_refused() -> None:
    table = Table()
    table.run("account B1 0 unlimited\naccount A1 0")
    table.book.accounts["B1:USD"].debits_posted = LARGEST_SUM - 10

    table.run("""
        hold     H1 B1 A1 4 => posted
        transfer T1 B1 A1 7 => overflows_debits
        transfer T1 B1 A1 6 => posted
    """)


def test_an_entry_says_what_was_moved_and_what_was_left_and_a_hold_what_it_holds() -> None:
    """They are what statements show and what the database keeps."""
    table = Table()
    table.run("account A1 100\naccount A2 5\nwait 3")
    transfers = [Transfer(f"H{n}", Kind.PENDING, "A1:USD", "A2:USD", 20, "USD", timeout_seconds=7) for n in (1, 2)]

    first, second = applied(table, transfers)
    hold = table.book.holds["H1"]

    assert first == Entry(transfers[0], 0, 20, 100, 5, expires_at=10_000_000)
    assert (second.debit_balance_after, second.credit_balance_after) == (100, 5)
    assert hold == Hold("H1", "A1:USD", "A2:USD", 20, "USD", HoldState.PENDING, 10_000_000, updated_at=3_000_000)

    table.run("wait 1")
    post = Transfer("T1", Kind.POST, "A1:USD", "A2:USD", 15, "USD", pending_id="H1")
    void = Transfer("T2", Kind.VOID, "A1:USD", "A2:USD", 20, "USD", pending_id="H2")
    assert applied(table, [post, void]) == [Entry(post, 15, -20, 85, 20, None), Entry(void, 0, -20, 85, 20, None)]
    ended = [(table.book.holds[name].state, table.book.holds[name].updated_at) for name in ("H1", "H2")]
    assert ended == [(HoldState.POSTED, 4_000_000), (HoldState.VOIDED, 4_000_000)]


def applied(table: Table, transfers: list[Transfer]) -> list[Entry]:
    entries = apply(table.book, transfers, table.now)
    assert isinstance(entries, list), entries
    return entries


def test_the_owner_of_an_account_is_all_of_its_id_but_the_currency() -> None:
    assert (owner_of("usr_1:USD"), owner_of("x:y:USD")) == ("usr_1", "x:y")


def test_a_group_without_transfers_is_refused() -> None:
    assert Table()._apply([], {}) is Verdict.GROUP_MUST_NOT_BE_EMPTY


def test_every_verdict_of_the_ledger_stands_in_a_table() -> None:
    """A guard that no table reaches is a guard that nobody has seen work."""
    shown = set(re.findall(r"=> (\w+)", "".join(TABLES.values())))
    shown |= {Verdict.GROUP_MUST_NOT_BE_EMPTY, Verdict.OVERFLOWS_DEBITS}
    shown |= {Verdict.GROUP_WAS_ABANDONED, Verdict.LINKED_GROUP_WAS_REFUSED}  # the ledger is not asked

    assert set(Verdict) - shown == set()


def test_a_book_that_made_money_is_not_written() -> None:
    table = Table()
    table.run("account A1 100")

    with pytest.raises(InvariantBroken, match=r"USD changed from \(99, 0\) to \(100, 0\)"):
        require_sound(table.book, {"USD": (99, 0)})
    with pytest.raises(InvariantBroken, match="EUR changed"):
        require_sound(Book({"A1:EUR": replace(table.book.accounts["A1:USD"], currency="EUR")}), {})


def test_accounts_of_a_currency_that_was_not_there_before_begin_with_nothing() -> None:
    table = Table()
    table.run("account A1 0")

    require_sound(table.book, {})


@pytest.mark.parametrize("side", ["debits_pending", "credits_pending"])
def test_less_than_nothing_held_is_not_written(side: str) -> None:
    table = Table()
    table.run("account A1 100")
    setattr(table.book.accounts["A1:USD"], side, -1)

    with pytest.raises(InvariantBroken, match="A1:USD holds less than nothing"):
        require_sound(table.book, sums(table.book.accounts.values()))


def test_more_spent_in_a_day_than_in_its_month_is_not_written() -> None:
    table = Table()
    table.run("account A1 0")
    table.book.accounts["A1:USD"].spent_today = 1

    with pytest.raises(InvariantBroken, match="A1:USD has spent 1 of 0"):
        require_sound(table.book, {"USD": (0, 0)})


def test_a_wallet_below_zero_is_not_written() -> None:
    table = Table()
    table.run("account A1 100")
    account = table.book.accounts["A1:USD"]
    account.debits_posted = 101

    with pytest.raises(InvariantBroken, match="A1:USD is below zero"):
        require_sound(table.book, {"USD": (-1, 0)})
