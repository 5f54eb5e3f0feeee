"""The platform as it runs at scale, all on this machine: ``python -m bench.apart``, which is ``make apart``.

A MariaDB of its own that syncs every commit, two processes of each service, HAProxy in front, on free ports and in a
folder that is gone at the end. Other settings are taken from the environment, as ever. With ``--galera``, which is
``make galera``, there is a cluster of three in the MariaDB's place, behind a HAProxy of its own.
"""

import argparse
import os
import secrets
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from ewallet.plumbing.settings import Settings
from tests.chaos.databases import ServerStore
from tests.servers.galera import Cluster, running_galera
from tests.servers.haproxy import behind_haproxy
from tests.servers.mariadb import DURABLE, MariaDB, running_mariadb
from tests.support.platform import Platform, platform

console = Console(highlight=False)

DEFAULTS = Settings()


def main() -> None:
    """Start everything, say where it is, and stop it at Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.apart", description=__doc__)
    parser.add_argument("--galera", action="store_true", help="on a cluster of three")
    on_cluster = parser.parse_args().galera
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs are born deaf to the first
        signal.signal(number, signal.default_int_handler)
    with (
        suppress(KeyboardInterrupt),  # before all of it has started
        tempfile.TemporaryDirectory(prefix="ewallet-apart-") as folder,
        (_on_galera if on_cluster else _on_mariadb)(Path(folder)),
        suppress(KeyboardInterrupt),
    ):
        while True:
            signal.pause()


@contextmanager
def _on_mariadb(folder: Path) -> Iterator[None]:
    with running_mariadb(folder / "mariadb", *DURABLE) as server:
        console.print("starting two processes of each service …")
        with apart(folder, server, server.port, _as_an_operator_would()) as running:
            _announce(running)
            yield


@contextmanager
def _on_galera(folder: Path) -> Iterator[None]:
    console.print("starting a cluster of three …")
    with running_galera(folder) as cluster:
        console.print("starting two processes of each service …")
        with apart(folder, cluster.nodes[0], cluster.port, _as_an_operator_would()) as running:
            _announce(running, _nodes(cluster))
            yield


@contextmanager
def apart(folder: Path, server: MariaDB, port: int, settings: Mapping[str, str]) -> Iterator[Platform]:
    """A running platform of two processes of each service on a database server at a port, at HAProxy's address."""
    databases = ServerStore(folder, server, port).new().databases
    with platform("doubled", databases, folder, **settings) as running:
        running.start()
        with behind_haproxy(running, folder) as reached:
            yield reached
        running.stop()


def _as_an_operator_would() -> dict[str, str]:
    """What tests set otherwise, and an administrator; or what the environment says."""
    given = {name: value for name, value in os.environ.items() if name.startswith("EWALLET_")}
    return {
        "EWALLET_ADMIN_EMAIL": "admin@example.com",
        "EWALLET_ADMIN_PASSWORD": secrets.token_urlsafe(16),
        "EWALLET_BCRYPT_COST": str(DEFAULTS.bcrypt_cost),
        "EWALLET_RATE_PER_USER": str(DEFAULTS.rate_per_user),
        "EWALLET_RATE_PER_ADDRESS": str(DEFAULTS.rate_per_address),
        **given,
    }


def _nodes(cluster: Cluster) -> list[str]:
    """Where the nodes are, and what to do to them."""
    lines = [
        f"         127.0.0.1:{node.port}  {node.name}, process {node.process_id}, {node.socket}"
        for node in cluster.nodes
    ]
    tries = "try      kill -STOP, -CONT or -KILL one of these processes while the demo runs"
    return [f"database 127.0.0.1:{cluster.port}  (HAProxy)", *lines, tries]


def _announce(running: Platform, below: Sequence[str] = ()) -> None:
    admin = " ".join(
        f"{name}={running.environment[name]}" for name in ("EWALLET_ADMIN_EMAIL", "EWALLET_ADMIN_PASSWORD")
    )
    console.print("\n[bold green]ewallet is running, two processes of each service[/]\n")
    console.print(f"API      {running.address}  (HAProxy)")
    for name, process in sorted(running.processes.items()):
        console.print(f"         {process.address}  {name}, process {process.id}, log {process.log}")
    for line in below:
        console.print(line, soft_wrap=True)
    console.print(f"demo     {admin} .venv/bin/ewallet demo --url {running.address}", soft_wrap=True)
    console.print("stop     Ctrl-C\n")


if __name__ == "__main__":
    main()
