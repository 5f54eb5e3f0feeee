"""A platform with people on it, whose processes may be killed, and the accountant's record of what they order."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.chaos.accountant import Figures, Reader, Report, audit
from tests.chaos.databases import Data, FileStore, ServerStore, Store
from tests.chaos.orders import Clients, Kind, Order, Person
from tests.chaos.processes import Launcher, Victims, launcher, victims
from tests.chaos.wire import Wire
from tests.servers.mariadb import MariaDB
from tests.support.platform import ADMIN_EMAIL, ADMIN_PASSWORD, Way

CUSTOMERS = 16
MERCHANTS = 4
FUNDS = 1_000_000_00
PASSWORD = "a person of these tests"

SETTINGS = {"EWALLET_ACCESS_TOKEN_SECONDS": str(24 * 3600)}
"""Tokens are got once: to log in costs more than to pay."""

SETTLES_WITHIN_SECONDS = 10
"""Within so long after a restart everything has come to its end."""

ENDS_WITHIN_SECONDS = 60
"""So long after the last of many faults, at most, may anything still be on its way."""


@dataclass(frozen=True)
class Cast:
    """Who is there, the data of a platform that knows them, and what was ordered there already."""

    data: Data
    admin: Person
    customers: Sequence[Person]
    merchants: Sequence[Person]
    orders: Sequence[Order]

    @property
    def people(self) -> Sequence[Person]:
        return (*self.customers, *self.merchants)


@dataclass
class Tally:
    """What came of some faults, in figures, and a text for everything that is wrong."""

    figures: Figures = field(default_factory=Figures)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.figures += other.figures
        self.wrong += other.wrong


@dataclass
class World:
    """One running copy of that platform."""

    victims: Victims
    databases: Mapping[str, str]
    cast: Cast
    clients: Clients
    reader: Reader

    def pay(self, customer: Person, merchant: Person, amount: int) -> Order:
        return self.clients.order(Kind.PAY, by=customer, owner=customer, merchant=merchant, amount=amount)

    def hold(self, customer: Person, merchant: Person, amount: int) -> Order:
        return self.clients.order(Kind.HOLD, by=customer, owner=customer, merchant=merchant, amount=amount)

    def capture(self, hold: Order, amount: int) -> Order:
        return self._on(Kind.CAPTURE, hold, amount)

    def void(self, hold: Order) -> Order:
        return self._on(Kind.VOID, hold, hold.amount)

    def refund(self, payment: Order, amount: int) -> Order:
        return self._on(Kind.REFUND, payment, amount)

    def _on(self, kind: Kind, payment: Order, amount: int) -> Order:
        assert payment.merchant is not None
        return self.clients.order(kind, by=payment.merchant, owner=payment.owner, amount=amount, of=payment)

    def credit(self, owner: Person, amount: int) -> Order:
        return self.clients.order(Kind.CREDIT, by=self.cast.admin, owner=owner, amount=amount)

    def debit(self, owner: Person, amount: int) -> Order:
        return self.clients.order(Kind.DEBIT, by=self.cast.admin, owner=owner, amount=amount)

    async def audited(self, *, within_seconds: float = SETTLES_WITHIN_SECONDS) -> Report:
        """What the accountant says when all has come to its end, or the time is over.

        First somebody pays and somebody is credited: that must work as ever, and when these last two are told, then so
        is whatever waited in an outbox before them, for a second time perhaps.
        """
        customer, merchant = self.cast.customers[-1], self.cast.merchants[-1]
        last = (self.pay(customer, merchant, 1_00), self.credit(customer, 1_00))
        await asyncio.gather(*(self.clients.carry_out(order) for order in last))
        return await audit(self.reader, self.clients.orders, within_seconds=within_seconds)

    async def tally(self, *, faults: int) -> Tally:
        """What came of so many faults, by the accountant, and by the product's own look at its books."""
        report = await self.audited(within_seconds=ENDS_WITHIN_SECONDS)
        wrong = [str(report)] if report.findings else []
        well, printed = await asyncio.to_thread(self.victims.verify)
        if not well:
            wrong.append(f"`ewallet verify` says: {printed}")
        return Tally(report.figures(faults=faults, orders_before=len(self.cast.orders)), wrong)


class Worlds:
    """Makes worlds: the first platform is made by registering people, all others are copies of its data."""

    def __init__(self, launcher: Launcher, store: Store) -> None:
        self.launcher = launcher
        self.store = store
        self._cast: Cast | None = None

    @property
    def share_a_server(self) -> bool:
        return isinstance(self.store, ServerStore)

    async def cast(self) -> Cast:
        """The people, registered when they are first asked for."""
        if self._cast is None:
            self._cast = await self._registered()
        return self._cast

    @asynccontextmanager
    async def world(self, way: Way, *, mutant: str = "", **settings: str) -> AsyncIterator[World]:
        """A running copy, whose processes and data are gone afterwards."""
        cast = await self.cast()
        with self.store.copy(cast.data) as data:
            folder, databases = data.folder, data.databases
            with victims(self.launcher, way, folder, databases, mutant=mutant, **SETTINGS, **settings) as running:
                await running.start()
                clients = Clients(running.wire, [replace(order) for order in cast.orders])
                try:
                    yield World(running, databases, cast, clients, Reader(running.wire, cast.admin, cast.people))
                finally:
                    await running.wire.close()

    async def _registered(self) -> Cast:
        data = self.store.new()
        with victims(self.launcher, "together", data.folder, data.databases, **SETTINGS) as running:
            await running.start()
            wire = running.wire
            admin = Person("admin", "ADMIN", await _token(wire, ADMIN_EMAIL, ADMIN_PASSWORD))
            customers = await asyncio.gather(*(_register(wire, "CUSTOMER", n) for n in range(CUSTOMERS)))
            merchants = await asyncio.gather(*(_register(wire, "MERCHANT", n) for n in range(MERCHANTS)))
            clients = Clients(wire)
            for customer in customers:
                await clients.carry_out(clients.order(Kind.CREDIT, by=admin, owner=customer, amount=FUNDS))
            await wire.close()
            running.stop()  # whoever copies the data must not wait for leases of the dead
        return Cast(data, admin, customers, merchants, clients.orders)


@contextmanager
def worlds(folder: Path, server: MariaDB | None = None, *, port: int = 0) -> Iterator[Worlds]:
    """A maker of worlds on SQLite files in a folder, or on a server, which they may reach at another port."""
    with launcher(folder) as starting:
        yield Worlds(starting, ServerStore(folder, server, port) if server else FileStore(folder))


async def _register(wire: Wire, role: str, number: int) -> Person:
    email = f"{role.lower()}{number}@example.com"
    person = {"email": email, "password": PASSWORD, "fullName": f"{role.title()} {number}", "role": role}
    registered = await _done(wire, "/auth/register", person)
    return Person(registered["userId"], role, await _token(wire, email, PASSWORD))


async def _token(wire: Wire, email: str, password: str) -> str:
    token: str = (await _done(wire, "/auth/login", {"email": email, "password": password}))["accessToken"]
    return token


async def _done(wire: Wire, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await wire.call("POST", path, body)
    assert answer.status < 300, answer
    done: dict[str, Any] = answer.body
    return done
