"""What auth does by itself: finish interrupted registrations, forget what has run out."""

from ewallet.auth.service import AuthService

RECOVERY_PAUSE_SECONDS = 2.0
"""How soon after its grace an interrupted registration is noticed."""

FORGETTING_PAUSE_SECONDS = 60.0
"""Nothing waits for rows to be forgotten; this only keeps each round small."""


class Recovery:
    """Opens wallets that registrations left out."""

    def __init__(self, service: AuthService) -> None:
        self._service = service

    async def run_once(self) -> int:
        """One round; returns how many wallets were opened."""
        return await self._service.finish_registrations()


class Forgetting:
    """Deletes expired tokens, sessions, keys and counts."""

    def __init__(self, service: AuthService) -> None:
        self._service = service

    async def run_once(self) -> int:
        """One round; returns how many rows were deleted."""
        return await self._service.forget_expired()
