"""A node of a cluster goes out of order while people pay; `make chaos` does more of it."""

import os
import random
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.chaos.outages import OF_ONE_NODE, under_outages
from tests.chaos.world import Worlds, worlds
from tests.servers.galera import Cluster, Node, running_galera
from tests.support.platform import clean_environment, run_command

SEED = int(os.environ.get("SEED", secrets.randbits(32)))


@pytest.fixture(scope="module")
def cluster(scratch: Path) -> Iterator[Cluster]:
    """Give a cluster of three."""
    with running_galera(scratch / "galera") as made:
        yield made


@pytest.fixture(scope="module")
def chaos(scratch: Path, cluster: Cluster) -> Iterator[Worlds]:
    """Give the maker of worlds on that cluster."""
    with (
        tempfile.TemporaryDirectory(dir=scratch) as name,
        worlds(Path(name), cluster.nodes[0], port=cluster.port) as made,
    ):
        yield made


async def test_a_node_that_goes_out_of_order_takes_nothing_with_it(chaos: Worlds, cluster: Cluster) -> None:
    """Killed, paused or cut off. Nobody reads a wrong total meanwhile, and in the end all nodes are alike."""
    outage = random.Random(SEED).choice(OF_ONE_NODE)

    tally = await under_outages(chaos, cluster, "together", [outage], seed=SEED)

    assert not tally.wrong, "\n\n".join([f"SEED={SEED}", *tally.wrong])


def test_several_who_migrate_through_different_nodes_make_one_schema(cluster: Cluster, tmp_path: Path) -> None:
    """They have no lock in common: who is overtaken begins again."""
    url = make_url(cluster.nodes[0].new_database())
    cluster.await_step()

    def migrate_through(node: Node) -> subprocess.CompletedProcess[str]:
        through = url.set(port=node.port).render_as_string(hide_password=False)
        environment = clean_environment(EWALLET_DATA=str(tmp_path), EWALLET_WALLET_DATABASE_URL=through)
        return run_command("migrate", "wallet", environment=environment)

    with ThreadPoolExecutor(len(cluster.nodes)) as threads:
        ended = list(threads.map(migrate_through, cluster.nodes))
    again = migrate_through(cluster.nodes[0])

    assert [each.returncode for each in (*ended, again)] == [0, 0, 0, 0], [each.stderr for each in ended]
    assert "was up to date" in again.stdout


def test_only_a_node_that_is_told_to_wait_shows_what_another_one_has_committed(cluster: Cluster) -> None:
    """Why `wsrep_sync_wait` is asked for: a node that is behind answers with what was."""
    first, second, _ = cluster.nodes
    database = make_url(first.new_database()).database
    first.execute_as_root(f"CREATE TABLE {database}.numbers (number INT PRIMARY KEY)")

    def read(*, waiting: bool) -> int:
        with second.connected_as_root() as connection, connection.cursor() as cursor:
            cursor.execute(f"SET SESSION wsrep_sync_wait = {7 * waiting}")
            return cursor.execute(f"SELECT number FROM {database}.numbers")  # noqa: S608  # a name of ours

    read(waiting=True)
    with second.connected_as_root() as holding, ThreadPoolExecutor(1) as thread:
        with holding.cursor() as cursor:
            cursor.execute("FLUSH TABLES WITH READ LOCK")  # it applies nothing meanwhile
            first.execute_as_root(f"INSERT INTO {database}.numbers VALUES (1)")  # noqa: S608  # a name of ours
            found_at_once, found = read(waiting=False), thread.submit(read, waiting=True)
            cursor.execute("UNLOCK TABLES")

        assert (found_at_once, found.result()) == (0, 1)
