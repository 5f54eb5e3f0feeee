"""What happens to a real server, while people pay: it dies, is not reached, is locked, read-only, or out of room."""

import asyncio
import os
import random
import secrets
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pymysql
import pytest
from sqlalchemy.engine import make_url

from tests.chaos.orders import Order
from tests.chaos.storm import VOLLEY_SECONDS, volley
from tests.chaos.world import Tally, World, Worlds, worlds
from tests.servers.mariadb import DURABLE, MariaDB, running_mariadb
from tests.servers.proxy import Moment, proxy

SEED = int(os.environ.get("SEED", secrets.randbits(32)))
BACK_WITHIN_SECONDS = 5
"""After the server's return everything works again."""

PAYMENTS_AT_ONCE, ENOUGH_ROUNDS = 64, 100


@pytest.fixture(scope="module")
def server(scratch: Path) -> Iterator[MariaDB]:
    """Give a server that keeps what it has acknowledged, whatever is done to it."""
    with running_mariadb(scratch / "durable", *DURABLE) as made:
        yield made


@pytest.fixture(scope="module")
def chaos(scratch: Path, server: MariaDB) -> Iterator[Worlds]:
    """Give the maker of worlds on that server."""
    with tempfile.TemporaryDirectory(dir=scratch) as name, worlds(Path(name), server) as made:
        yield made


async def under_load(world: World, disturb: Callable[[], Awaitable[None]], *, times: int) -> Tally:
    """Disturb so many times while people order everything; what came of it."""
    dice = random.Random(SEED)
    asking: list[asyncio.Task[object]] = []
    for _ in range(times):
        asking += [asyncio.create_task(world.clients.carry_out(order)) for order in volley(world, dice)]
        await asyncio.sleep(dice.uniform(0, VOLLEY_SECONDS))
        await disturb()
    await asyncio.gather(*asking)
    return await world.tally(faults=times)


def is_clean(tally: Tally) -> None:
    assert not tally.wrong, "\n\n".join([f"SEED={SEED}", *tally.wrong])


async def is_back(world: World) -> None:
    """Ready again in time, without anybody's help."""
    async with asyncio.timeout(BACK_WITHIN_SECONDS):
        await world.victims.ready()


async def asked_once(world: World, order: Order) -> httpx2.Response:
    """The answer to an order, with its headers."""
    headers = {"Authorization": f"Bearer {order.by.token}", "Idempotency-Key": order.key}
    async with httpx2.AsyncClient(base_url=world.victims.wire.address, timeout=30, trust_env=False) as http:
        order.sent = True
        return await http.post(order.path, json=order.body, headers=headers)


def a_payment(world: World) -> Order:
    return world.pay(world.cast.customers[0], world.cast.merchants[0], 10_00)


async def test_a_server_that_is_killed_under_load_takes_nothing_with_it(chaos: Worlds, server: MariaDB) -> None:
    async with chaos.world("together") as world:

        async def kill() -> None:
            server.kill()
            server.start()  # by this thread, with which it would die
            await is_back(world)

        is_clean(await under_load(world, kill, times=4))


async def test_while_the_server_is_away_everybody_is_told_when_to_come_again(chaos: Worlds, server: MariaDB) -> None:
    async with chaos.world("together") as world:
        order = a_payment(world)
        server.kill()
        answers = [await asked_once(world, order) for _ in range(2)]
        server.start()  # by this thread, with which it would die
        await is_back(world)
        answer = await world.clients.carry_out(order)

        assert [answer.status_code for answer in answers] == [503, 503]
        assert {answer.json()["type"] for answer in answers} == {"/problems/service-unavailable"}
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
        assert answer is not None
        assert answer.status == 201
        is_clean(await world.tally(faults=1))


async def test_connections_that_are_cut_before_in_and_after_commits_leave_no_trace(
    scratch: Path, server: MariaDB
) -> None:
    with (
        proxy(server.port) as cutting,
        tempfile.TemporaryDirectory(dir=scratch) as name,
        worlds(Path(name), server, port=cutting.port) as made,
    ):
        async with made.world("together") as world:

            async def cut() -> None:
                cutting.cut_next()

            is_clean(await under_load(world, cut, times=30))

    assert set(cutting.cuts) == set(Moment)
    assert cutting.cuts.total() == 30


@contextmanager
def rival(url: str, quarrel: Callable[[pymysql.cursors.Cursor], None]) -> Iterator[None]:
    """Another client of a service's database, who does something again and again."""
    address, stopped = make_url(url), threading.Event()
    connection = pymysql.connect(
        host=address.host,
        port=address.port or 0,
        user=address.username,
        password=str(address.password),
        database=address.database,
    )

    def go_on() -> None:
        with connection.cursor() as cursor:
            while not stopped.is_set():
                with suppress(pymysql.OperationalError):  # it loses some of its deadlocks, too
                    quarrel(cursor)
                connection.rollback()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        connection.close()


def lock_backwards(cursor: pymysql.cursors.Cursor) -> None:
    """Lock accounts in the order in which the wallet does not."""
    cursor.execute("SELECT id FROM wallet_accounts ORDER BY id DESC")
    for (account,) in cursor.fetchall():
        cursor.execute("SELECT id FROM wallet_accounts WHERE id = %s FOR UPDATE", (account,))
    time.sleep(0.01)  # so that the others have their turn now and then


def lock_for_long(cursor: pymysql.cursors.Cursor) -> None:
    """Hold what every payment needs for longer than the wallet waits for it."""
    cursor.execute("SELECT id FROM wallet_accounts FOR UPDATE")
    time.sleep(4)
    cursor.connection.rollback()
    time.sleep(1)


def deadlocks(server: MariaDB) -> int:
    ((_, found),) = server.execute_as_root("SHOW GLOBAL STATUS LIKE 'innodb_deadlocks'")
    return int(found)


async def test_deadlocks_with_somebody_elses_transactions_are_survived(chaos: Worlds, server: MariaDB) -> None:
    before = deadlocks(server)
    async with chaos.world("together") as world:
        with rival(world.databases["wallet"], lock_backwards):
            is_clean(await under_load(world, lambda: asyncio.sleep(0.1), times=10))

    assert deadlocks(server) > before


async def test_locks_that_are_held_for_too_long_delay_and_spoil_nothing(chaos: Worlds) -> None:
    async with chaos.world("together") as world:
        with rival(world.databases["wallet"], lock_for_long):
            await asyncio.gather(*(world.clients.carry_out(order) for order in volley(world, random.Random(SEED))))
        is_clean(await world.tally(faults=1))


async def refuses_and_recovers(world: World, *, refuse: Callable[[], object], allow: Callable[[], object]) -> None:
    """While storage takes nothing: told as such, shown by readiness, reads go on; afterwards all works by itself."""
    await world.clients.carry_out(a_payment(world))
    await asyncio.to_thread(refuse)
    order, answer = await refused_payment(world)
    assert int(answer.headers["Retry-After"]) > 0
    health = await world.victims.wire.call("GET", "/health/ready")
    assert (health.status, "storage-unavailable" in health.body["services"].values()) == (503, True), health
    assert await world.reader.get(f"/wallet/{order.owner.id}", order.by)
    await asyncio.to_thread(allow)
    await is_back(world)
    unsettled = [each for each in world.clients.orders if not each.settled]
    answers = await asyncio.gather(*(world.clients.carry_out(each) for each in unsettled))
    assert {answer and answer.status for answer in answers} == {201}
    is_clean(await world.tally(faults=1))


async def refused_payment(world: World) -> tuple[Order, httpx2.Response]:
    """The first payment that is refused for want of storage: what room there is within its files, a server uses up."""
    for _ in range(ENOUGH_ROUNDS):
        orders = [a_payment(world) for _ in range(PAYMENTS_AT_ONCE)]
        answers = await asyncio.gather(*(asked_once(world, each) for each in orders))
        for order, answer in zip(orders, answers, strict=True):
            if answer.status_code == 503 and answer.json()["type"] == "/problems/storage-unavailable":
                return order, answer
    raise AssertionError("everything was stored")


def fill(ballast: Path) -> None:
    """Write until nothing more goes in, not even a byte."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


async def test_a_read_only_server_refuses_writes_shows_what_is_there_and_is_noticed_when_it_is_not(
    chaos: Worlds, server: MariaDB
) -> None:
    def read_only(*, on: bool) -> None:
        server.execute_as_root(f"SET GLOBAL read_only = {on}")

    async with chaos.world("together") as world:
        await refuses_and_recovers(world, refuse=lambda: read_only(on=True), allow=lambda: read_only(on=False))


async def test_a_server_whose_disk_is_full_refuses_writes_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """Nothing simulated: a small file system that somebody else fills, in a name space that the server takes along."""
    folder = tmp_path / "server"
    (folder / "small").mkdir(parents=True)
    mount = 'mount -t tmpfs -o size=192m tmpfs small && cp -a data/. small && mount --bind small data && exec "$@"'
    # In a name space of users, too, everybody may mount.
    launcher = ("unshare", "--map-root-user", "--mount", "sh", "-c", f"cd {folder} && {mount}", "sh")
    server_options = (*DURABLE, "--user=root")  # as which it then runs
    with running_mariadb(folder, *server_options, launcher=launcher) as server, worlds(tmp_path, server) as made:
        ballast = Path(f"/proc/{server.process_id}/root{folder}/data/ballast")
        async with made.world("together") as world:
            await refuses_and_recovers(world, refuse=lambda: fill(ballast), allow=ballast.unlink)
