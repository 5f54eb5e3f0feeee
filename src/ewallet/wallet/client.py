"""The only door to the wallet for other services."""

from collections.abc import Sequence
from typing import Protocol

from ewallet.kernel.errors import OutcomeUnknown
from ewallet.plumbing.batching import Failed, Gatherer
from ewallet.plumbing.http.doors import Door, chunks
from ewallet.wallet.messages import GroupOrder, GroupOutcome, GroupUnknown, OpenWallet, WalletOpened

GROUPS_PATH = "/internal/wallet/groups"
WALLETS_PATH = "/internal/wallet/wallets"


class WalletClient(Protocol):
    """What other services may ask of the wallet.

    Every call may raise OutcomeUnknown (it may or may not have taken effect: repeat it with the same ids) or
    Overloaded (it was not begun).
    """

    async def open_wallet(self, order: OpenWallet) -> None:
        """Open a wallet and its balance; harmless when repeated."""

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        """Apply a group, or return the wallet's stored refusal: the same answer to the same id for ever."""


class HttpWallet:
    """The wallet in another process. Orders that come while a call is under way share the next one."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._gatherer: Gatherer[GroupOrder, GroupOutcome] = Gatherer(self._post, name="wallet-door")

    async def open_wallet(self, order: OpenWallet) -> None:
        """See :class:`WalletClient`."""
        await self._door.post(WALLETS_PATH, order, WalletOpened, request_id=order.request_id)

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        """See :class:`WalletClient`."""
        return await self._gatherer.submit(order)

    async def _post(self, orders: Sequence[GroupOrder]) -> Sequence[GroupOutcome | Failed]:
        outcomes: list[GroupOutcome | GroupUnknown] = []
        for chunk in chunks(orders):
            outcomes += await self._door.post(
                GROUPS_PATH, chunk, list[GroupOutcome | GroupUnknown], request_id=orders[0].request_id
            )
        return [
            Failed(OutcomeUnknown(outcome.error)) if isinstance(outcome, GroupUnknown) else outcome
            for outcome in outcomes
        ]
