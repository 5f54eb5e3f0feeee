"""The only door to the wallet for other services."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from ewallet.kernel.errors import OutcomeUnknown
from ewallet.plumbing.batching import Failed, Gatherer
from ewallet.plumbing.http.doors import Door, chunks
from ewallet.plumbing.reconciling import Compared
from ewallet.wallet.messages import (
    Compare,
    CreditOrder,
    CreditOutcome,
    FindOrders,
    FindOwners,
    GroupOrder,
    GroupOutcome,
    GroupUnknown,
    ListOrders,
    OpenWallet,
    StoredOrder,
    StoredOrders,
    WalletOpened,
)

GROUPS_PATH = "/internal/wallet/groups"
TRIES_PATH = "/internal/wallet/groups/try"
ABANDONS_PATH = "/internal/wallet/groups/abandon"
FIND_PATH = "/internal/wallet/groups/find"
LIST_PATH = "/internal/wallet/groups/list"
CREDITS_PATH = "/internal/wallet/credits"
LINKED_PATH = "/internal/wallet/groups/linked"

MAXIMUM_LINKED_BYTES = 4 * 1024 * 1024
"""Of groups that are posted together: what a thousand payments of a kilobyte take, with what the orders add to each."""

WALLETS_PATH = "/internal/wallet/wallets"
OWNERS_PATH = "/internal/wallet/wallets/missing"
EVENTS_PATH = "/internal/wallet/events/repeat"
MOVEMENTS_PATH = "/internal/wallet/movements/repeat"

RECONCILIATION = "reconciliation"
"""The request on whose behalf the books are looked through."""


class WalletClient(Protocol):
    """What other services may ask of the wallet.

    Every call may raise OutcomeUnknown (it may or may not have taken effect: repeat it with the same ids) or
    Overloaded (it was not begun).
    """

    async def open_wallet(self, order: OpenWallet) -> None:
        """Open a wallet and its balance; harmless when repeated."""

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        """Apply a group, or return the wallet's stored refusal: the same answer to the same id for ever."""

    async def post_linked(self, orders: Sequence[GroupOrder]) -> Sequence[GroupOutcome]:
        """Apply all of some groups or none, in their order; each outcome is that of its id for ever.

        The one that is refused has its own reason, the others ``bulk-refused``. Where some have an outcome already,
        they keep it; if one of these is a refusal, all others are refused.
        """

    async def try_group(self, order: GroupOrder) -> GroupOutcome:
        """What :meth:`post_group` would answer right now. Nothing is applied, nothing stored, nothing locked."""

    async def abandon_group(self, order: GroupOrder) -> GroupOutcome:
        """Give up a group whose outcome is unknown: the outcome that it has already, or that it was abandoned.

        What was abandoned is refused for ever, even where a late copy of the order still arrives.
        """

    async def book_credit(self, order: CreditOrder) -> CreditOutcome:
        """Book money that enters, or return the refusal; the answer is the first one for ever, by the reference."""


class WalletBooks(WalletClient, Protocol):
    """What reconciliation may ask beside that: what the wallet has decided so far, and what it should have."""

    async def find_orders(self, ids: Sequence[str]) -> Sequence[StoredOrder]:
        """Those of some orders that the wallet has decided, in no order."""

    async def orders_after(self, after: int) -> StoredOrders:
        """A page of the orders of other services, in the sequence in which they were decided."""

    async def without_wallet(self, owners: Sequence[str]) -> Sequence[str]:
        """Those of some users that have no wallet."""

    async def repeat_movements(self, after: int) -> Compared:
        """Compare a page of the direct credits and debits that notification was told of; book again what is missing."""

    async def repeat_events(self, after: int) -> Compared:
        """Compare a page of what the wallet has told with what notification knows; tell again what is missing."""


Orders = Gatherer[GroupOrder, GroupOutcome]
Groups = list[GroupOutcome | GroupUnknown]
Credits = list[CreditOutcome | GroupUnknown]
"""What comes back for many orders, each in its place."""


class HttpWallet:
    """The wallet in another process. Orders that come while a call of their sort is under way share the next one."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._posts: Orders = Gatherer(partial(self._send, GROUPS_PATH, Groups), name="wallet-door")
        self._tries: Orders = Gatherer(partial(self._send, TRIES_PATH, Groups), name="wallet-door-try")
        self._abandons: Orders = Gatherer(partial(self._send, ABANDONS_PATH, Groups), name="wallet-door-abandon")
        self._credits: Gatherer[CreditOrder, CreditOutcome] = Gatherer(
            partial(self._send, CREDITS_PATH, Credits), name="wallet-door-credit"
        )

    async def open_wallet(self, order: OpenWallet) -> None:
        """See :class:`WalletClient`."""
        await self._door.post(WALLETS_PATH, order, WalletOpened, request_id=order.request_id)

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        """See :class:`WalletClient`."""
        return await self._posts.submit(order)

    async def post_linked(self, orders: Sequence[GroupOrder]) -> Sequence[GroupOutcome]:
        """See :class:`WalletClient`."""
        return await self._door.post(LINKED_PATH, list(orders), list[GroupOutcome], request_id=orders[0].request_id)

    async def try_group(self, order: GroupOrder) -> GroupOutcome:
        """See :class:`WalletClient`."""
        return await self._tries.submit(order)

    async def abandon_group(self, order: GroupOrder) -> GroupOutcome:
        """See :class:`WalletClient`."""
        return await self._abandons.submit(order)

    async def book_credit(self, order: CreditOrder) -> CreditOutcome:
        """See :class:`WalletClient`."""
        return await self._credits.submit(order)

    async def find_orders(self, ids: Sequence[str]) -> Sequence[StoredOrder]:
        """See :class:`WalletClient`."""
        wanted = FindOrders(ids=list(ids))
        return await self._door.post(FIND_PATH, wanted, list[StoredOrder], request_id=RECONCILIATION)

    async def orders_after(self, after: int) -> StoredOrders:
        """See :class:`WalletClient`."""
        return await self._door.post(LIST_PATH, ListOrders(after=after), StoredOrders, request_id=RECONCILIATION)

    async def without_wallet(self, owners: Sequence[str]) -> Sequence[str]:
        """See :class:`WalletBooks`."""
        wanted = FindOwners(owners=list(owners))
        return await self._door.post(OWNERS_PATH, wanted, list[str], request_id=RECONCILIATION)

    async def repeat_movements(self, after: int) -> Compared:
        """See :class:`WalletBooks`."""
        return await self._door.post(MOVEMENTS_PATH, Compare(after=after), Compared, request_id=RECONCILIATION)

    async def repeat_events(self, after: int) -> Compared:
        """See :class:`WalletBooks`."""
        return await self._door.post(EVENTS_PATH, Compare(after=after), Compared, request_id=RECONCILIATION)

    async def _send(
        self, path: str, answer_type: type[list[Any]], orders: Sequence[GroupOrder | CreditOrder]
    ) -> Sequence[Any]:
        """The outcome of each order, of the sort that the answer has, or that it failed."""
        outcomes: list[Any] = []
        for chunk in chunks(orders):
            outcomes += await self._door.post(path, chunk, answer_type, request_id=orders[0].request_id)
        return [
            Failed(OutcomeUnknown(outcome.error)) if isinstance(outcome, GroupUnknown) else outcome
            for outcome in outcomes
        ]
