"""People pay while the nodes of a Galera cluster are killed, paused and cut off.

Meanwhile somebody reads the ledger on each node. What a node answers, whatever has happened to it, must be the books as
they are: all accounts come to zero, and everything that was acknowledged before the question is there. An error is no
answer.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

import pymysql
from sqlalchemy.engine import make_url

from tests.chaos.accountant import Figures
from tests.chaos.storm import volley
from tests.chaos.world import Tally, World, Worlds
from tests.servers.galera import Cluster, Node
from tests.support.platform import Way

VOLLEY_EVERY_SECONDS = 0.25
"""An outage lasts for seconds, in which everybody waits: what has waited must not take minutes afterwards."""

LOOK_EVERY_SECONDS = 0.2
PATIENCE_SECONDS = 3
"""Who has no answer of a node by then asks again."""

PEACE_SECONDS = 1.0
"""Between two outages, in which everybody pays."""


class Outage(NamedTuple):
    """How it begins and how it ends for one node; at its end the node has caught up with the others."""

    begin: Callable[[Node], None]
    end: Callable[[Node], None]


OUTAGES = {
    "killed": Outage(Node.kill, Node.join),
    "paused": Outage(Node.pause, Node.go_on),
    "cut off": Outage(Node.cut_off, Node.reconnect),
}


class Look(NamedTuple):
    """What somebody has read on a node."""

    posted: int
    pending: int
    groups: int


LOOK = """
    SELECT
        (SELECT SUM(credits_posted) - SUM(debits_posted) FROM wallet_accounts),
        (SELECT SUM(credits_pending) - SUM(debits_pending) FROM wallet_accounts),
        (SELECT COUNT(*) FROM wallet_groups WHERE outcome = 'posted')
"""


async def outages(worlds: Worlds, cluster: Cluster, way: Way, kinds: Sequence[str], *, seed: int) -> Tally:
    """The node that is written to goes out of order in each of these ways, under load; what came of it."""

    def all_of_them() -> None:
        for kind in kinds:
            interrupt(cluster, OUTAGES[kind])

    return await _under_load(worlds, cluster, way, all_of_them, faults=len(kinds), seed=seed)


async def all_killed(worlds: Worlds, cluster: Cluster, way: Way, *, times: int, seed: int) -> Tally:
    """All nodes at once are killed and started again so many times, under load; what came of it."""

    def all_the_times() -> None:
        for _ in range(times):
            for node in cluster.nodes:
                node.kill()
            cluster.restart()
            time.sleep(PEACE_SECONDS)

    return await _under_load(worlds, cluster, way, all_the_times, faults=times * len(cluster.nodes), seed=seed)


def interrupt(cluster: Cluster, outage: Outage) -> None:
    """Put the active node out of order until another one has taken over."""
    time.sleep(PEACE_SECONDS)
    node = cluster.active()
    assert node is not None, "no node is active"
    outage.begin(node)
    try:
        cluster.await_another(node)
    finally:
        outage.end(node)


async def _under_load(
    worlds: Worlds, cluster: Cluster, way: Way, disturb: Callable[[], None], *, faults: int, seed: int
) -> Tally:
    over = asyncio.Event()
    async with worlds.world(way) as world:
        async with asyncio.TaskGroup() as working:
            working.create_task(_order(world, random.Random(seed), over))
            looking = [working.create_task(_look_on(world, node, over)) for node in cluster.nodes]
            await asyncio.get_running_loop().run_in_executor(cluster.threads, disturb)
            over.set()
        tally = await world.tally(faults=faults)
        wrong = [sentence for each in looking for sentence in each.result()]
        wrong += await asyncio.to_thread(_unlike, world, cluster)
        agree, printed = await asyncio.to_thread(world.victims.reconcile)
        wrong += [] if agree and "agree" in printed else [f"`ewallet reconcile` says: {printed}"]
        tally.add(Tally(Figures(otherwise_wrong=len(wrong)), wrong))
        return tally


async def _order(world: World, dice: random.Random, over: asyncio.Event) -> None:
    """Order until it is over, and wait for all answers."""
    asking = []
    while not over.is_set():
        asking += [asyncio.create_task(world.clients.carry_out(order)) for order in volley(world, dice)]
        await asyncio.sleep(VOLLEY_EVERY_SECONDS)
    await asyncio.gather(*asking)


async def _look_on(world: World, node: Node, over: asyncio.Event) -> list[str]:
    """Read on one node until it is over; what was wrong."""
    wrong, seen = [], 0
    while not over.is_set():
        acknowledged = sum(order.acknowledged is not None for order in world.clients.orders)
        try:
            look = await asyncio.to_thread(_read, node, world.databases["wallet"])
        except pymysql.Error:
            look = None
        if look is not None:
            seen += 1
            if (look.posted, look.pending) != (0, 0) or look.groups < acknowledged:
                wrong.append(f"{node.name} shows {look}, when {acknowledged} orders were acknowledged")
        await asyncio.sleep(LOOK_EVERY_SECONDS)
    return wrong if seen else [f"nobody could ever read on {node.name}"]


def _read(node: Node, database: str) -> Look:
    """Read at one moment; pymysql.Error where the node does not answer."""
    with closing(_connected(node, database)) as connection, connection.cursor() as cursor:
        cursor.execute(LOOK)
        (row,) = cursor.fetchall()
        return Look(*map(int, row))


def _connected(node: Node, database: str) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
    url = make_url(database)
    return pymysql.connect(
        host="127.0.0.1",
        port=node.port,
        user=url.username,
        password=str(url.password),
        database=url.database,
        connect_timeout=PATIENCE_SECONDS,
        read_timeout=PATIENCE_SECONDS,
    )


def _unlike(world: World, cluster: Cluster) -> list[str]:
    """The tables that are not the same on all nodes, when nobody orders anything."""
    wrong = []
    for database in world.databases.values():
        sums = [_checksums(node, database) for node in cluster.nodes]
        for name, others in zip(sums[0], zip(*(each.items() for each in sums), strict=True), strict=True):
            if len(set(others)) > 1:
                wrong.append(f"{name} is not the same on all nodes: {others}")
    return wrong


def _checksums(node: Node, database: str) -> dict[str, int]:
    with closing(_connected(node, database)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        tables = sorted(name for (name,) in cursor.fetchall())
        cursor.execute(f"CHECKSUM TABLE {', '.join(tables)}")
        return dict(cursor.fetchall())
