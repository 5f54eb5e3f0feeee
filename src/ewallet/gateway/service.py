"""What the gateway does: let a request in or not, ask how the services are, and describe them all in one document."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial

from ewallet import __version__
from ewallet.gateway.client import Backend
from ewallet.gateway.domain import (
    BYTES_OF_A_REQUEST,
    GATEWAY,
    SERVICES,
    Document,
    RateLimit,
    Route,
    address_group,
    merged,
    too_many,
)
from ewallet.gateway.messages import Readiness
from ewallet.kernel.clock import Clock
from ewallet.kernel.errors import Overloaded, Refusal
from ewallet.plumbing.database import StorageUnavailable
from ewallet.plumbing.http.application import OPENAPI_PATH
from ewallet.plumbing.http.contract import INVALID_TOKEN, bearer_token
from ewallet.plumbing.http.operations import State, state_of
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import Verifier


def monotonic_clock() -> int:
    """Microseconds of a clock that never goes back: a limit must not lock anybody out when the time is corrected."""
    return time.monotonic_ns() // 1000


class GatewayService:
    """The gateway's use cases. The limits live in this process and protect it; nothing about money or logins does."""

    def __init__(
        self, settings: Settings, *, verifier: Verifier, backends: Mapping[str, Backend], clock: Clock = monotonic_clock
    ) -> None:
        self._verifier = verifier
        self._backends = backends
        self._clock = clock
        self._public_url = settings.public_url or "/"
        self._per_address = RateLimit(settings.rate_per_address)
        self._per_user = RateLimit(settings.rate_per_user)
        self._document: Document | None = None

    async def admit(
        self, route: Route, *, address: str, authorization: Sequence[str], body_bytes: int = 0
    ) -> Refusal | None:
        """Whether a request may go on to its service. The cheapest check comes first: it meets the most abuse.

        ``body_bytes`` is the size of its body, where the route takes large ones: then it counts as several.

        Refusals: too-many-requests, invalid-token. Overloaded, OutcomeUnknown: the keys to check a token with cannot
        be had.
        """
        now = self._clock()
        requests = max(1, -(-body_bytes // BYTES_OF_A_REQUEST))
        if route.limited and (seconds := self._per_address.take(address_group(address), now, requests)):
            return too_many("your network address", seconds)
        if route.public:
            return None
        token = bearer_token(authorization)
        principal = await self._verifier.verify(token) if token else None
        if principal is None:
            return INVALID_TOKEN
        if seconds := self._per_user.take(principal.subject, now, requests):
            return too_many("you", seconds)
        return None

    async def readiness(self, *, stopping: bool = False) -> Readiness:
        """Ask every service, all at once; the gateway itself is not ready where it is about to stop."""
        states = await asyncio.gather(*(state_of(partial(self._ask, name)) for name in SERVICES))
        services: dict[str, State] = dict(zip(SERVICES, states, strict=True))
        ready = not stopping and all(state == "ready" for state in states)
        return Readiness(status="ready" if ready else "unavailable", services=services)

    async def document(self) -> Document:
        """The OpenAPI document of the whole platform. Overloaded: a service does not tell its part just now."""
        if self._document is None:
            parts = [(name, await self._part(name)) for name in (*SERVICES, GATEWAY)]
            self._document = merged(parts, self._head())
        return self._document

    async def _ask(self, name: str) -> None:
        status, answer = await self._backends[name].get("/health/ready")
        if answer == {"status": "storage-unavailable"}:
            raise StorageUnavailable(f"{name} says that its storage takes nothing")
        if status != 200:
            raise Overloaded(f"{name} says that it is not ready")

    async def _part(self, name: str) -> Document:
        try:
            status, document = await self._backends[name].get(f"{OPENAPI_PATH}/openapi.json")
        except Exception as error:
            raise Overloaded(f"{name} cannot be asked for its OpenAPI document") from error
        if status != 200:
            raise Overloaded(f"{name} answers {status} when asked for its OpenAPI document")
        part: Document = document
        return part

    def _head(self) -> Document:
        """All of the document that is not about single calls."""
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "ewallet",
                "version": __version__,
                "summary": "Wallets and payments: customers pay merchants, and the ledger always balances.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": self._public_url}],
            "tags": [{"name": name} for name in (*SERVICES, GATEWAY)],
        }
