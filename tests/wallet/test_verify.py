"""What ``verify`` finds in the wallet's books beside what ``tests/cli/test_tampering.py`` changes."""

import asyncio
from functools import partial

import pytest
from sqlalchemy import Connection, text

from ewallet.wallet import store
from ewallet.wallet.messages import TransferKind
from ewallet.wallet.verify import faults
from tests.support.books import fill_wallet
from tests.support.tampering import found
from tests.support.wallet import ALICE, BOB, group, open_wallet, opened_database, running_wallet, transfer


def test_an_older_row_that_was_put_back_is_named(database_url: str) -> None:
    """Its own seal is whole: what others say of it gives it away. Here of a hold that is as if it had never ended."""

    async def scenario() -> None:
        async with running_wallet(database_url) as wallet:
            await open_wallet(wallet, ALICE, amount=100)
            await open_wallet(wallet, BOB)
            hold = transfer(ALICE, BOB, 10, kind=TransferKind.PENDING)
            await wallet.post_group(group(hold))
            before = wallet._database.read(lambda tx: tx.execute(store.holds.select()).one())
            await wallet.post_group(group(transfer(ALICE, BOB, 10, kind=TransferKind.POST, pending_id=hold.id)))
            values = dict(before._mapping)
            wallet._database.transact(lambda tx: tx.execute(store.holds.update().values(**values)))
            assert f"hold {hold.id} is PENDING" in found(wallet._database, faults)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE wallet_transfers SET description = 'y' WHERE kind = 'POST'", "is not what audit record"),
        ("UPDATE wallet_groups SET request_id = 'x'", "is not what audit record"),
        ("DELETE FROM wallet_transfers WHERE amount = 25", "is missing"),
        ("UPDATE wallet_accounts SET version = version + 1 WHERE owner = 'cash'", "account cash:USD"),
        ("UPDATE wallet_wallets SET status = 'ACTIVE'", f"wallet {BOB}"),
        ("DELETE FROM wallet_holds WHERE state = 'EXPIRED'", "is missing"),
        ("UPDATE wallet_keys SET idempotency_key = 'x'", "is not what audit record"),
        ("DELETE FROM wallet_keys", "idempotency key"),
    ],
)
def test_mariadb_is_verified_in_the_same_way(mariadb_url: str, change: str, fault: str) -> None:
    asyncio.run(fill_wallet(mariadb_url))
    with opened_database(mariadb_url) as database:
        assert found(database, faults) == ""
        triggers = [f"wallet_{table}_no_{verb}" for table in ("transfers", "groups") for verb in ("update", "delete")]
        for statement in (*(f"DROP TRIGGER {trigger}" for trigger in triggers), change):
            database.transact(partial(Connection.execute, statement=text(statement)))

        assert fault in found(database, faults)
