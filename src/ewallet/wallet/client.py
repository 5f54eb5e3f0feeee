"""The only door to the wallet for other services."""

from typing import Protocol

from ewallet.wallet.messages import GroupOrder, GroupOutcome, OpenWallet


class WalletClient(Protocol):
    """What other services may ask of the wallet.

    Every call may raise OutcomeUnknown (it may or may not have taken effect: repeat it with the same ids) or
    Overloaded (it was not begun).
    """

    async def open_wallet(self, order: OpenWallet) -> None:
        """Open a wallet and its balance; harmless when repeated."""

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        """Apply a group of transfers, or return the wallet's stored refusal: the same answer to the same id for ever."""
