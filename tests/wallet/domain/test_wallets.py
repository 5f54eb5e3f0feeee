"""What an administrator may do to a wallet in which state."""

import pytest

from ewallet.kernel.errors import Reason, Refusal
from ewallet.wallet.domain.nouns import Account
from ewallet.wallet.domain.wallets import Change, Status, Wallet, set_status, status_after


def account(*, balance: int = 0, held: int = 0, expected: int = 0) -> Account:
    opened = Account("usr_a:USD", "usr_a", "CUSTOMER", "USD", debits_must_not_exceed_credits=True)
    opened.credits_posted, opened.debits_pending, opened.credits_pending = balance, held, expected
    return opened


@pytest.mark.parametrize(
    ("status", "change", "result"),
    [
        ("ACTIVE", "freeze", "FROZEN"),
        ("ACTIVE", "unfreeze", "ACTIVE"),
        ("ACTIVE", "close", "CLOSED"),
        ("FROZEN", "freeze", "FROZEN"),
        ("FROZEN", "unfreeze", "ACTIVE"),
        ("FROZEN", "close", "CLOSED"),
        ("CLOSED", "freeze", "wallet-closed"),
        ("CLOSED", "unfreeze", "wallet-closed"),
        ("CLOSED", "close", "CLOSED"),
    ],
)
def test_an_empty_wallet_changes_its_status(status: str, change: str, result: str) -> None:
    answer = status_after(Change(change), Status(status), [account()])

    assert (answer.reason.value if isinstance(answer, Refusal) else answer.value) == result


@pytest.mark.parametrize(
    "full", [account(balance=1), account(balance=1, held=1), account(expected=1)], ids=["balance", "held", "expected"]
)
def test_only_an_empty_wallet_closes(full: Account) -> None:
    answer = status_after(Change.CLOSE, Status.ACTIVE, [account(), full])

    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.INVALID_STATE


@pytest.mark.parametrize("status", Status)
def test_accounts_carry_the_status_of_their_wallet(status: Status) -> None:
    wallet, own = Wallet("usr_a", "CUSTOMER", Status.ACTIVE, 0, 0), account()

    set_status(wallet, [own], status, now=7)

    assert (wallet.status, wallet.updated_at, own.updated_at) == (status, 7, 7)
    assert (own.frozen, own.closed) == (status is Status.FROZEN, status is Status.CLOSED)
