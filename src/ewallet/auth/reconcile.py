"""Reconciliation: people whose wallet was opened once and is not there any more get it back."""

import structlog

from ewallet.auth import store
from ewallet.auth.domain import User
from ewallet.kernel.caller import Role, platform
from ewallet.plumbing.database import Database
from ewallet.plumbing.reconciling import AT_ONCE, Case
from ewallet.wallet.client import WalletBooks
from ewallet.wallet.messages import OpenWallet

log = structlog.get_logger()

_ACTOR = platform("reconciliation")


async def reopen_wallets(database: Database, wallet: WalletBooks) -> list[Case]:
    """Open every wallet that the wallet service has lost; what was in it comes back from others."""
    cases: list[Case] = []
    after = ""
    while users := await database.reading(lambda tx: store.users_after(tx, after, AT_ONCE)):  # noqa: B023  # awaited in the same round
        # A registration that is under way has not been told that its wallet is open.
        opened = {user.id: user for user in users if user.wallet_opened and user.role is not Role.ADMIN}
        cases += [await _reopened(opened[owner], wallet) for owner in await wallet.without_wallet(list(opened))]
        after = users[-1].id
    return cases


async def _reopened(user: User, wallet: WalletBooks) -> Case:
    order = OpenWallet(
        owner=user.id,
        role=user.role,
        currency=user.currency,
        actor=_ACTOR.subject,
        request_id=_ACTOR.request_id,
    )
    await wallet.open_wallet(order)
    log.warning("auth.reconciled", user=user.id, done="opened again")
    return Case(user.id, "registered, but the wallet had lost them", 0, "", "opened again", settled=True)
