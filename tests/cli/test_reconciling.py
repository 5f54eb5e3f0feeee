"""`ewallet reconcile` shows every disagreement, and its exit status says whether any is left."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from sqlalchemy import update

from ewallet.cli.databases import migrate_all
from ewallet.cli.reconciling import reconcile
from ewallet.cli.terminal import Stopped
from ewallet.kernel.caller import Role
from ewallet.kernel.clock import system_clock
from ewallet.payment.store import payments
from ewallet.plumbing.database import open_database
from ewallet.plumbing.settings import SERVICES, Settings, load_settings, variable
from ewallet.wallet.service import WalletService
from tests.conftest import Backend
from tests.support.payment import CUSTOMER, MERCHANT, MemoryWallet, order, paid, payment_service
from tests.support.ports import free_port
from tests.support.wallet import open_wallet


@pytest.fixture(params=["sqlite", "mariadb"])
def settings(request: pytest.FixtureRequest, fresh_databases: Callable[[Backend], dict[str, str]]) -> Settings:
    """Give the settings of a platform whose wallet has never heard of the one payment that was made."""
    urls = fresh_databases(request.param)
    made = load_settings({variable(f"{service}_database_url"): url for service, url in urls.items()})
    migrate_all(made, SERVICES)
    asyncio.run(_pay(made))
    return made


async def _pay(settings: Settings) -> None:
    wallet_database = open_database(settings.database_url("wallet"), "wallet")
    wallet = WalletService(wallet_database, clock=system_clock)
    await open_wallet(wallet, CUSTOMER, amount=1000)
    await open_wallet(wallet, MERCHANT, role=Role.MERCHANT)
    wallet_database.close()
    another_wallet = MemoryWallet()
    another_wallet.credit(CUSTOMER, 1000)
    database = open_database(settings.database_url("payment"), "payment")
    await paid(payment_service(database, another_wallet), order(amount=1000))
    database.close()


def test_what_was_put_right_is_shown_once(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    reconcile(settings)
    shown = capsys.readouterr().out
    assert "10.00 USD" in shown
    assert "posted again" in shown

    reconcile(settings)
    assert capsys.readouterr().out == "✓ payments, postings and events agree\n"


def test_what_is_left_ends_in_a_sentence(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    reconcile(settings)
    database = open_database(settings.database_url("payment"), "payment")
    database.transact(lambda tx: tx.execute(update(payments).values(status="FAILED")))
    database.close()

    with pytest.raises(Stopped, match="1 of 1 disagreements are left"):
        reconcile(settings)

    assert "the wallet has posted it" in capsys.readouterr().out


def test_a_wallet_that_is_away_is_a_sentence(settings: Settings) -> None:
    """Where the wallet has an address it is asked there, never past it on its database."""
    apart = msgspec.structs.replace(
        settings, wallet_url=f"http://127.0.0.1:{free_port()}", internal_secret="a secret of at least 32 characters"
    )

    with pytest.raises(Stopped, match="The comparison broke off"):
        reconcile(apart)
