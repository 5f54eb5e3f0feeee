"""What ``verify`` finds in payment's books beside what ``tests/cli/test_tampering.py`` changes."""

import asyncio

import pytest
from sqlalchemy import Connection, text

from ewallet.payment import store
from ewallet.payment.domain.payments import refunded
from ewallet.payment.verify import faults
from tests.support.books import fill_payment
from tests.support.payment import (
    CUSTOMER,
    MERCHANT,
    NOW,
    MemoryWallet,
    order,
    paid,
    payment_database,
    payment_service,
    refund,
)
from tests.support.tampering import found


async def test_an_older_row_that_was_put_back_is_named(database_url: str) -> None:
    """What it says was true once; its history says that it is no longer."""
    wallet = MemoryWallet()
    wallet.credit(CUSTOMER, 1000)
    wallet.credit(MERCHANT, 1000)
    with payment_database(database_url) as database:
        service = payment_service(database, wallet)
        payment = await paid(service, order())
        before = dict(database.read(lambda tx: tx.execute(store.payments.select()).mappings().one()))
        await refund(service, payment.transaction_id, amount=10)
        assert found(database, faults) == ""

        database.transact(lambda tx: tx.execute(store.payments.update().values(**before)))

        assert f"payment {payment.transaction_id} has version 2" in found(database, faults)


async def test_a_move_that_nobody_made_is_named(database_url: str) -> None:
    """Payment and history agree with each other: only the audit knows better."""
    wallet = MemoryWallet()
    wallet.credit(CUSTOMER, 1000)
    with payment_database(database_url) as database:
        payment_id = (await paid(payment_service(database, wallet), order())).transaction_id

        def forge(tx: Connection) -> None:
            moved = refunded(store.find(tx, [payment_id])[0], 10, NOW)
            store.conclude(tx, [moved], [])
            store.add_history(tx, [(moved, MERCHANT, None)])

        database.transact(forge)

        assert found(database, faults) == (
            f"line 3 of the history of payment {payment_id} was inserted: the audit does not tell of it"
        )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE payment_payments SET description = 'coffee' WHERE status <> 'PENDING'", "its history tells of it"),
        ("UPDATE payment_payments SET request_id = 'x' WHERE status = 'PENDING'", "its history tells of it"),
        ("UPDATE payment_operations SET reason = 'x'", "is not what was written"),
        ("DELETE FROM payment_operations WHERE kind = 'EXPIRY'", "must have an end"),
        ("DELETE FROM payment_operations WHERE kind = 'REFUND' AND status = 'PENDING'", "is missing: audit record"),
        ("DELETE FROM payment_payments WHERE status = 'VOIDED'", "its history is there"),
    ],
)
def test_mariadb_is_verified_in_the_same_way(mariadb_url: str, change: str, fault: str) -> None:
    asyncio.run(fill_payment(mariadb_url))
    with payment_database(mariadb_url) as database:
        assert found(database, faults) == ""

        database.transact(lambda tx: tx.execute(text(change)))

        assert fault in found(database, faults)
