"""Auth as its tests meet it: real databases, a clock that stands still, and wallets that can be out of order."""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import httpx2

from ewallet.auth.app import create_app
from ewallet.auth.domain import Visitor
from ewallet.auth.messages import Login, Registration, Tokens, UserView
from ewallet.auth.service import AuthService
from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, system_clock
from ewallet.kernel.errors import OutcomeUnknown, Refusal, unwrap
from ewallet.plumbing.database import Database, open_database, transaction_open
from ewallet.plumbing.http.edge import Edge
from ewallet.plumbing.migrations import migrate
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import PublicKeys, Verifier
from ewallet.wallet.messages import OpenWallet

INTERNAL_SECRET = "a secret that only the services of this test know"
PASSWORD = "four words that rhyme"
ADMIN = Caller("usr_admin", Role.ADMIN, "req_admin")
HERE = Visitor(address="192.0.2.1", request_id="req_test")

_numbers = count(1)


class SteppedClock:
    """The present, moved by the test alone. Tokens carry real times, so it starts at the real present."""

    def __init__(self) -> None:
        self.now = system_clock()

    def __call__(self) -> int:
        return self.now

    def step(self, seconds: int) -> None:
        self.now += seconds * MICROSECONDS_PER_SECOND


@dataclass
class Wallets:
    """A wallet service that remembers what it opened, and can lose every answer."""

    opened: list[OpenWallet] = field(default_factory=list)
    out_of_order: bool = False

    async def open_wallet(self, order: OpenWallet) -> None:
        assert not transaction_open()
        if self.out_of_order:
            raise OutcomeUnknown("no answer")
        self.opened.append(order)

    async def post_group(self, _order: object) -> "None":
        raise AssertionError("auth moves no money")


@dataclass
class Auth:
    """A running auth service and what surrounds it."""

    service: AuthService
    http: httpx2.AsyncClient
    wallets: Wallets
    clock: SteppedClock
    database: Database
    verifier: Verifier

    async def person(self, *, email: str = "", role: Role = Role.CUSTOMER) -> UserView:
        """Somebody registered with ``PASSWORD``."""
        return unwrap(await self.service.register(HERE, registration(email=email, role=role)))

    async def login(self, email: str, password: str = PASSWORD, *, visitor: Visitor = HERE) -> Tokens | Refusal:
        return await self.service.login(visitor, Login(email=email, password=password))

    async def logged_in(self) -> Tokens:
        """The tokens of somebody new."""
        return unwrap(await self.login((await self.person()).email))


def registration(
    *, email: str = "", password: str = PASSWORD, role: Role = Role.CUSTOMER, currency: str = "USD"
) -> Registration:
    email = email or f"person-{next(_numbers)}@example.com"
    return Registration(email=email, password=password, full_name="Ada Byron", role=role.value, currency=currency)


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


def bearer(access_token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {access_token}"}


@asynccontextmanager
async def running(
    database_url: str, *, settings: Callable[[Settings], Settings] = lambda settings: settings, migrated: bool = False
) -> AsyncIterator[Auth]:
    """Auth on a database, without its background work; ``settings`` changes the cheap ones that tests have."""
    if not migrated:
        migrate("auth", database_url)
    clock, wallets = SteppedClock(), Wallets()

    async def fetch_keys() -> PublicKeys:
        return await house.service.public_keys()

    verifier = Verifier(fetch_keys, clock)
    house = create_app(
        settings(Settings(auth_database_url=database_url, bcrypt_cost=4)),
        verifier=verifier,
        internal_secret=INTERNAL_SECRET,
        wallet=wallets,
        clock=clock,
    )
    transport = httpx2.ASGITransport(app=Edge(house.application, service="auth", clock=clock))
    database = open_database(database_url, "auth-test")
    try:
        async with house.application.lifespan(), httpx2.AsyncClient(transport=transport, base_url="http://auth") as http:
            yield Auth(house.service, http, wallets, clock, database, verifier)
    finally:
        database.close()
