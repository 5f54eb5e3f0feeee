"""Books of every service in which every sort of thing has happened, for tests that change them by hand."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import MetaData, Table

import ewallet.payment.store
import ewallet.payment.verify
import ewallet.wallet.store
import ewallet.wallet.verify
from ewallet.kernel.caller import Role
from ewallet.kernel.errors import InvariantBroken, Reason, unwrap
from ewallet.payment.messages import PaymentInBulk
from ewallet.wallet.domain.wallets import Change
from ewallet.wallet.messages import GroupOrder, GroupOutcome, MoveMoney, SetLimits, TransferKind
from ewallet.wallet.service import WalletService
from tests.support import payment as payments
from tests.support.plumbing import ManualClock
from tests.support.tampering import Faults
from tests.support.wallet import (
    ADMIN,
    ALICE,
    BACK_END,
    BOB,
    CAROL,
    NOW,
    group,
    open_wallet,
    payment,
    running_wallet,
    transfer,
)


@dataclass(frozen=True)
class Books:
    """What a service keeps, how to fill it, and what finds faults in it.

    ``passing`` are the tables of what is on its way and of leases, which nobody keeps; ``names`` the columns by which
    a person knows the rows of tables that have no id, and ``removed`` those of rows that are gone.
    """

    service: str
    metadata: MetaData
    faults: Faults
    fill: Callable[[str], Awaitable[None]]
    names: dict[str, str]
    removed: dict[str, str]

    @property
    def tables(self) -> list[Table]:
        passing = {f"{self.service}_{name}" for name in ("outbox", "outbox_dead", "leases")}
        return [table for table in self.metadata.sorted_tables if table.name not in passing]

    def name_of(self, table: Table, row: dict[str, Any]) -> str:
        """What a person knows a row by."""
        match table.name.removeprefix(f"{self.service}_"):
            case "audit":
                return f"record {row['sequence']}"
            case "audit_head":
                return "audit"
            case name:
                return str(row[self.names.get(name, "id")])

    def name_of_removed(self, table: Table, row: dict[str, Any]) -> str:
        """What is said of a row that is gone."""
        name = self.removed.get(table.name.removeprefix(f"{self.service}_"))
        return str(row[name]) if name else self.name_of(table, row)


# --- the wallet ---------------------------------------------------------------------------------------------------


async def fill_wallet(url: str) -> None:
    """Wallets of all sorts, credits and debits, payments, holds with every end, limits, refusals of each."""
    clock = ManualClock(NOW)
    async with running_wallet(url, clock=clock) as wallet:
        await open_wallet(wallet, ALICE, amount=10_000)
        await open_wallet(wallet, ALICE, currency="EUR", amount=500)
        await open_wallet(wallet, BOB, role=Role.MERCHANT)
        await open_wallet(wallet, CAROL)
        for reference, amount in (("r1", 100), ("r2", 200), ("r3", 999_999)):
            order = MoveMoney(customer_id=ALICE, amount=amount, currency="USD", reference=reference, description="d")
            await wallet.debit(BACK_END, order, f"key-{reference}")
            await wallet.debit(BACK_END, order, f"another-key-{reference}")
        await wallet.post_group(payment(ALICE, BOB, 1250, 25))
        await wallet.post_group(payment(ALICE, BOB, 999_999, 25))
        await wallet.abandon_group(payment(ALICE, BOB, 77, 7))
        await _hold_and_end(wallet)
        for owner, per_day in ((ALICE, 1000), (ALICE, 2000), (BOB, 3000)):
            limits = SetLimits(per_payment=100, per_day=per_day, per_month=None)
            unwrap(await wallet.change_limits(ADMIN, owner, "USD", limits))
        clock.pass_seconds(60)
        assert await wallet.expire_holds() == 1
        changes = ((BOB, Change.FREEZE), (BOB, Change.UNFREEZE), (CAROL, Change.CLOSE), (BOB, Change.FREEZE))
        for owner, change in changes:
            unwrap(await wallet.change_status(ADMIN, owner, change, "because"))


async def _hold_and_end(wallet: WalletService) -> None:
    """Four holds: one taken in part, one released, one about to expire, one that stays."""
    orders = [
        transfer(ALICE, BOB, 100 + n, kind=TransferKind.PENDING, timeout_seconds=60 if n == 2 else None)
        for n in range(4)
    ]
    for order in orders:
        await wallet.post_group(group(order))
    await wallet.post_group(group(transfer(ALICE, BOB, 40, kind=TransferKind.POST, pending_id=orders[0].id)))
    await wallet.post_group(group(transfer(ALICE, BOB, 101, kind=TransferKind.VOID, pending_id=orders[1].id)))


# --- payment ------------------------------------------------------------------------------------------------------


async def fill_payment(url: str) -> None:
    """Payments and operations in every state, refused ones too, and one payment whose outcome is unknown."""
    clock = payments.HandClock()
    wallet = payments.MemoryWallet(clock=clock)
    wallet.credit(payments.CUSTOMER, 10_000)
    with payments.payment_database(url) as database:
        service = payments.payment_service(database, wallet, clock=clock)
        order = payments.order(reference="order-1", description="tea", metadata={"table": "7"})
        paid = (await payments.paid(service, order, "key-1")).transaction_id
        await payments.refund(service, paid, "key-2", amount=100, reason="cold")
        await payments.refund(service, paid, amount=880)
        await payments.refund(service, paid, amount=880)
        await payments.pay(service, payments.order(amount=99_999))
        for end in (payments.capture, payments.void, None):
            held = await payments.authorized(service)
            if end is not None:
                await end(service, held, "key-3")
                await end(service, held)
        for number, amount in enumerate((10, 999_999)):
            orders = [
                PaymentInBulk(
                    idempotency_key=f"bulk-{number}-{place}",
                    merchant_id=payments.MERCHANT,
                    amount=amount,
                    currency="USD",
                )
                for place in range(3)
            ]
            await service.initiate_all(payments.caller(), orders)
        wallet.faults.append(payments.refusing("debit_account_frozen", Reason.WALLET_FROZEN))
        await payments.capture(service, held, amount=10)
        wallet.always = _mad
        for begun in (
            service.initiate(payments.caller(), payments.order(), "key-4"),
            payments.refund(service, paid, amount=1),
        ):
            with suppress(InvariantBroken):
                await begun


def _mad(_wallet: payments.MemoryWallet, _order: GroupOrder) -> GroupOutcome:
    """No verdict, and no use in waiting for one."""
    raise InvariantBroken("the wallet contradicts itself")


BOOKS = (
    Books(
        "wallet",
        ewallet.wallet.store.metadata,
        ewallet.wallet.verify.faults,
        fill_wallet,
        names={"wallets": "owner", "limits": "account"},
        removed={"transfers": "group_id"},
    ),
    Books(
        "payment",
        ewallet.payment.store.metadata,
        ewallet.payment.verify.faults,
        fill_payment,
        names={"history": "payment_id", "bulk_members": "bulk_id"},
        removed={},
    ),
)
