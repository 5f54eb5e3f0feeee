"""Auth as its tests meet it: real databases, a clock that the test moves, and wallets that can be out of order."""

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import httpx2
from litestar.types import ASGIApp

from ewallet.auth.api import routes
from ewallet.auth.domain import Visitor
from ewallet.auth.messages import Login, Registration, Tokens, UserView
from ewallet.auth.service import AuthService
from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import OutcomeUnknown, Refusal, unwrap
from ewallet.plumbing.database import Database, open_database, transaction_open
from ewallet.plumbing.http.application import service_application
from ewallet.plumbing.http.edge import Edge
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import PublicKeys, Verifier
from ewallet.wallet.messages import CreditOrder, CreditOutcome, GroupOrder, GroupOutcome, OpenWallet
from tests.support.migrated import migrate
from tests.support.plumbing import ManualClock

INTERNAL_SECRET = "a secret that only the services of this test know"
PASSWORD = "four words that rhyme"
ADMIN = Caller("usr_admin", Role.ADMIN, "req_admin")
HERE = Visitor(address="192.0.2.1", request_id="req_test")

PersonRole = Literal["CUSTOMER", "MERCHANT"]

_numbers = count(1)


@dataclass
class Wallets:
    """A wallet service that remembers what it opened, and loses every answer, or those about ``stuck`` alone."""

    opened: list[OpenWallet] = field(default_factory=list)
    out_of_order: bool = False
    stuck: str = ""

    async def open_wallet(self, order: OpenWallet) -> None:
        assert not transaction_open()
        if self.out_of_order or order.owner == self.stuck:
            raise OutcomeUnknown("no answer")
        self.opened.append(order)

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        raise AssertionError(f"auth moves no money: {order}")

    try_group = abandon_group = post_group

    async def post_linked(self, orders: Sequence[GroupOrder]) -> Sequence[GroupOutcome]:
        raise AssertionError(f"auth moves no money: {orders}")

    async def book_credit(self, order: CreditOrder) -> CreditOutcome:
        raise AssertionError(f"auth credits nobody: {order}")


@dataclass
class Auth:
    """A running auth service and what surrounds it."""

    service: AuthService
    http: httpx2.AsyncClient
    wallets: Wallets
    clock: ManualClock
    database: Database
    verifier: Verifier

    async def person(self, *, email: str = "", role: PersonRole = "CUSTOMER") -> UserView:
        """Somebody registered with ``PASSWORD``."""
        return unwrap(await self.service.register(HERE, registration(email=email, role=role)))

    async def login(self, email: str, password: str = PASSWORD, *, visitor: Visitor = HERE) -> Tokens | Refusal:
        return await self.service.login(visitor, Login(email=email, password=password))

    async def logged_in(self) -> Tokens:
        """The tokens of somebody new."""
        return unwrap(await self.login((await self.person()).email))


def registration(
    *, email: str = "", password: str = PASSWORD, role: PersonRole = "CUSTOMER", currency: str = "USD"
) -> Registration:
    email = email or f"person-{next(_numbers)}@example.com"
    return Registration(email=email, password=password, full_name="Ada Byron", role=role, currency=currency)


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


def bearer(access_token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {access_token}"}


@asynccontextmanager
async def running(
    database_url: str, *, clock: ManualClock | None = None, wallets: Wallets | None = None, **settings: Any
) -> AsyncIterator[Auth]:
    """Auth on a database, without its background work; two on one database share it as two processes do.

    The clock stands still at the present, because tokens are checked against the real one.
    """
    migrate("auth", database_url)
    clock, wallets = clock or ManualClock(system_clock()), wallets or Wallets()
    database = open_database(database_url, "auth")

    async def fetch_keys() -> PublicKeys:
        return await service.public_keys()

    verifier = Verifier(fetch_keys, clock)
    service = AuthService(
        database, settings=Settings(**{"bcrypt_cost": 4, **settings}), wallet=wallets, verifier=verifier, clock=clock
    )
    application = service_application(
        name="auth", routes=routes(service), verifier=verifier, internal_secret=INTERNAL_SECRET
    )
    try:
        await service.make_first_key()
        async with http_client(application) as http:
            yield Auth(service, http, wallets, clock, database, verifier)
    finally:
        service.close()
        database.close()


def http_client(application: ASGIApp) -> httpx2.AsyncClient:
    """Calls an application behind its edge, without a socket."""
    edge: Any = Edge(application, service="auth", clock=system_clock)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=edge), base_url="http://auth")
