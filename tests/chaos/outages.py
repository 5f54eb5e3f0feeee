"""People pay while the nodes of a Galera cluster are killed, paused and cut off, one, two or all of them.

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

VOLLEY_EVERY_SECONDS = 0.5
"""An outage lasts for seconds, in which everybody waits: what has waited must not take minutes afterwards."""

LOOK_EVERY_SECONDS = 0.2
PATIENCE_SECONDS = 3
"""Who has no answer of a node by then asks again."""

PEACE_SECONDS = 1.0
"""Between two outages, in which everybody pays."""

EXPECTED_ANSWERS = {200, 201, 402, 409, 422, 503, 504}
"""Done, refused by the rules, or not now. Anything else, 500 above all, would be our mistake."""


Outage = Callable[[Cluster], None]
"""Puts nodes out of order; at its end they have caught up."""


def active_node_killed(cluster: Cluster) -> None:
    _interrupt(cluster, Node.kill, Node.join)


def active_node_paused(cluster: Cluster) -> None:
    _interrupt(cluster, Node.pause, Node.go_on)


def active_node_cut_off(cluster: Cluster) -> None:
    _interrupt(cluster, Node.cut_off, Node.reconnect)


def majority_cut_off(cluster: Cluster) -> None:
    """Nobody has a majority any more, so nobody may write, or read."""
    two = cluster.nodes[1:]
    for node in two:
        node.cut_off()
    try:
        cluster.await_none()
    finally:
        for node in two:
            node.isolate(on=False)
    cluster.await_step()


def all_killed(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.kill()
    cluster.restart()


OF_ONE_NODE: tuple[Outage, ...] = (active_node_killed, active_node_paused, active_node_cut_off)
OUTAGES: tuple[Outage, ...] = (*OF_ONE_NODE, majority_cut_off, all_killed)


def _interrupt(cluster: Cluster, begin: Callable[[Node], None], end: Callable[[Node], None]) -> None:
    """Put the active node out of order until another one has taken over."""
    node = cluster.await_active()
    begin(node)
    try:
        cluster.await_active(other_than=node)
    finally:
        end(node)


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


async def under_outages(worlds: Worlds, cluster: Cluster, way: Way, wanted: Sequence[Outage], *, seed: int) -> Tally:
    """One outage after the other, under load; what came of it."""

    def disturb() -> None:
        for outage in wanted:
            time.sleep(PEACE_SECONDS)
            outage(cluster)

    over = asyncio.Event()
    async with worlds.world(way) as world:
        async with asyncio.TaskGroup() as working:
            working.create_task(_order(world, random.Random(seed), over))
            looking = [working.create_task(_look_on(world, node, over)) for node in cluster.nodes]
            await asyncio.get_running_loop().run_in_executor(cluster.threads, disturb)
            over.set()
        tally = await world.tally(faults=len(wanted))
        wrong = [sentence for each in looking for sentence in each.result()]
        wrong += await _wrong_at_the_end(world, cluster)
        tally.add(Tally(Figures(otherwise_wrong=len(wrong)), wrong))
        return tally


async def _wrong_at_the_end(world: World, cluster: Cluster) -> list[str]:
    """What is not as it should be when nobody orders anything any more."""
    answers = {answer.status for order in world.clients.orders for answer in order.answers}
    wrong = [f"somebody was answered {status}" for status in answers - EXPECTED_ANSWERS]
    wrong += await asyncio.to_thread(_unlike, world, cluster)
    agree, printed = await asyncio.to_thread(world.victims.reconcile)
    return wrong if agree and "agree" in printed else [*wrong, f"`ewallet reconcile` says: {printed}"]


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
