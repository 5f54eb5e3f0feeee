"""Background work of the wallet: ending holds whose time is over. The outbox's relay is plumbing's."""

from ewallet.wallet.service import WalletService

PAUSE_SECONDS = 5.0
"""How late a hold may be released. It cannot be posted any more from the moment on that its time is over."""


class HoldExpiry:
    """Releases what expired holds have set aside. Harmless in several processes: only one ends each hold."""

    def __init__(self, service: WalletService) -> None:
        self._service = service

    async def run_once(self) -> int:
        """End some expired holds; returns how many."""
        return await self._service.expire_holds()
