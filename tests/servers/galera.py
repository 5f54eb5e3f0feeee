"""A cluster of three MariaDB servers that Galera keeps alike, and HAProxy in front of it, all on this machine.

The nodes have the settings that docs/operations.md asks for, HAProxy the configuration in deploy/: it sends everything
to one node, and to another when that one is out of order.
"""

import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pymysql

from tests.house.tree import ROOT
from tests.servers.haproxy import running_haproxy
from tests.servers.mariadb import USER, MariaDB, command, initialise, prepare
from tests.support.platform import wait_until
from tests.support.ports import free_port

NODES = 3
PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")
IN_STEP_WITHIN_SECONDS = 60  # it takes a few; a busy machine may take many
AS_DOCUMENTED = (
    "--innodb-flush-log-at-trx-commit=1",
    "--log-bin=binlog",
    "--log-slave-updates",
    "--sync-binlog=1",
    "--wsrep-on=ON",
    f"--wsrep-provider={PROVIDER}",
    "--wsrep-cluster-name=ewallet",
    "--wsrep-sync-wait=7",
    "--wsrep-sst-method=mariabackup",
    "--wsrep-sst-auth=root:",
    "--binlog-format=ROW",
    "--log-bin-trust-function-creators=ON",
    "--innodb-autoinc-lock-mode=2",
)
SMALL = ("--innodb-log-file-size=16M",)
# A silent node is given up after a second instead of five, because tests wait for it. What a node may have missed is
# kept in a small file, because all this may lie in memory.
PROVIDER_OPTIONS = {
    "gcache.size": "32M",
    "evs.keepalive_period": "PT0.25S",
    "evs.inactive_check_period": "PT0.25S",
    "evs.suspect_timeout": "PT1S",
    "evs.inactive_timeout": "PT3S",
    "evs.install_timeout": "PT3S",
}
# What docs/operations.md advises against, and must do no harm: connections to all nodes at once.
SPREAD = """
listen spread
    bind 127.0.0.1:{port}
    balance roundrobin
{servers}
"""
CREATE_CHECKER = "CREATE USER IF NOT EXISTS checker@'127.0.0.1';\n"


class GaleraMissingError(RuntimeError):
    """The tests need these Debian packages; a run without them fails rather than skips."""

    def __init__(self) -> None:
        """Say how to get them."""
        super().__init__("Galera not found: install it with `sudo apt-get install galera-4 mariadb-backup`")


class Node(MariaDB):
    """One server of a cluster."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def in_step(self) -> bool:
        """Whether it has everything that the cluster has, and takes part in it."""
        with suppress(pymysql.Error):
            ((_, state),) = self.execute_as_root("SHOW STATUS LIKE 'wsrep_local_state_comment'")
            return bool(state == "Synced")
        return False

    def found_cluster(self, *options: str) -> None:
        """Start it as the first one of a cluster, which has what this node has."""
        self.start("--wsrep-new-cluster", *options)
        self.await_step()

    def join(self) -> None:
        """Start it after it was killed, and wait until it has caught up with the cluster.

        As Debian's service does it: who says where it was gets what it has missed, and not everything.
        """
        self.start(f"--wsrep-start-position={self.position()}")
        self.await_step()

    def stop(self) -> None:
        """Have it end in order, so that its data say where it was."""
        self._signal(signal.SIGTERM)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        """Stop it in whatever it does, without its knowledge."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo :meth:`pause`, and wait until it has caught up."""
        self._signal(signal.SIGCONT)
        self.await_step()

    def cut_off(self) -> None:
        """Let it hear and be heard by no other node; clients go on reaching it."""
        self.isolate(on=True)

    def reconnect(self) -> None:
        """Undo :meth:`cut_off`, and wait until it has caught up."""
        self.isolate(on=False)
        self.await_step()

    def await_step(self) -> None:
        """AssertionError: it is not in step for too long; with its log."""
        wait_until(lambda: self.in_step, IN_STEP_WITHIN_SECONDS, self.log)

    def position(self) -> str:
        """The last transaction in its data, and of which cluster: ``uuid:number``; while it does not run."""
        ended = subprocess.run([*command(self), "--wsrep-recover"], stderr=subprocess.PIPE, check=True, text=True)
        *_, found = re.finditer(r"Recovered position: (\S+)", ended.stderr)
        return found[1]

    def log(self) -> str:
        return f"{self.name} is not in step\n{(self.folder / 'log').read_text(errors='replace')[-20_000:]}"

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def isolate(self, *, on: bool) -> None:
        """Have it hear nobody, or everybody again."""
        self.execute_as_root(f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={on:d}'")


@dataclass(frozen=True)
class Cluster:
    """Three nodes, and the ports at which HAProxy passes on to one of them, or to all in turn."""

    nodes: Sequence[Node]
    port: int
    spread_port: int
    threads: ThreadPoolExecutor
    """In which nodes are started again: with the thread that has started it, a node would die."""

    def restart(self) -> None:
        """Start all of them after all were killed: they find each other, as each has noted who belongs together."""
        joining = [self.threads.submit(node.join) for node in self.nodes]
        for each in joining:
            each.result()

    def active(self) -> Node | None:
        """The node to which HAProxy passes on; None while there is none."""
        with suppress(pymysql.Error), self._connected() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT @@port")
            ((port,),) = cursor.fetchall()
            return next(node for node in self.nodes if node.port == port)
        return None

    def await_active(self, other_than: Node | None = None) -> Node:
        """Wait until a node is the active one, another than this one; which it is."""

        def found() -> Node | None:
            active = self.active()
            return active if active is not other_than else None

        node = wait_until(found, IN_STEP_WITHIN_SECONDS, self.nodes[0].log)
        assert node is not None
        return node

    def await_none(self) -> None:
        """Wait until no node is in order."""
        wait_until(lambda: self.active() is None, IN_STEP_WITHIN_SECONDS, self.nodes[0].log)

    def await_step(self) -> None:
        """Wait until all are in step."""
        for node in self.nodes:
            node.await_step()

    def _connected(self) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
        password = self.nodes[0].password
        return pymysql.connect(host="127.0.0.1", port=self.port, user=USER, password=password, read_timeout=2)


@contextmanager
def running_galera(folder: Path) -> Iterator[Cluster]:
    """Start a cluster whose files all live in `folder`, and HAProxy in front; kill all of it at the end.

    Raises:
        MariaDBMissingError, GaleraMissingError, HAProxyMissingError: a Debian package is not installed.
        RuntimeError, AssertionError: one of the servers did not start; the message carries its log.
    """
    if not PROVIDER.exists() or not shutil.which("mariabackup"):
        raise GaleraMissingError
    nodes = _nodes(folder)
    with ExitStack() as ended:
        threads = ended.enter_context(ThreadPoolExecutor(1 + NODES))
        for node in nodes:
            ended.callback(node.kill)  # its files are thrown away, so there is nothing to shut down in order
        _fill(nodes)
        nodes[0].found_cluster()
        for node in nodes[1:]:
            node.join()
        cluster = Cluster(nodes, free_port(), free_port(), threads)
        with running_haproxy(_haproxy(folder, cluster)):
            cluster.await_active()
            yield cluster


def _nodes(folder: Path) -> list[Node]:
    """Three servers that have not been started yet."""
    password = secrets.token_urlsafe(16)
    ports = [free_port() for _ in range(NODES)]  # among themselves
    nodes = []
    for number, port in enumerate(ports, start=1):
        own = folder / f"node{number}"
        own.mkdir(parents=True)
        node = Node(own, (*AS_DOCUMENTED, *SMALL, *_addresses(own.name, port, ports)), password=password)
        prepare(node)
        with (own / "init.sql").open("a") as file:
            file.write(CREATE_CHECKER)
        nodes.append(node)
    return nodes


def _fill(nodes: Sequence[Node]) -> None:
    """Give all of them the data of a cluster of one that has ended.

    A node that joins without data gets them from another one, by a script that sleeps for ten seconds.
    """
    first, *others = nodes
    initialise(first)
    first.found_cluster()
    first.stop()
    for other in others:
        shutil.copytree(first.folder / "data", other.folder / "data")


def _addresses(name: str, port: int, ports: Sequence[int]) -> list[str]:
    """Where a node is, and where the others are. Each needs three ports of its own: here all have one address."""
    provider_options = {
        "base_host": "127.0.0.1",
        "base_port": port,
        "gmcast.listen_addr": f"tcp://127.0.0.1:{port}",
        "ist.recv_addr": f"127.0.0.1:{free_port()}",
        **PROVIDER_OPTIONS,
    }
    return [
        f"--wsrep-cluster-address=gcomm://{','.join(f'127.0.0.1:{each}' for each in ports)}",
        f"--wsrep-node-name={name}",
        f"--wsrep-node-address=127.0.0.1:{port}",
        f"--wsrep-sst-receive-address=127.0.0.1:{free_port()}",
        f"--wsrep-provider-options={';'.join(f'{key}={value}' for key, value in provider_options.items())}",
    ]


def _haproxy(folder: Path, cluster: Cluster) -> Path:
    """The configuration in deploy/, with these ports, and one that spreads."""
    text = (ROOT / "deploy" / "haproxy" / "galera.cfg").read_text()
    text = text.replace("127.0.0.1:3306", f"127.0.0.1:{cluster.port}")
    text = text.replace("127.0.0.1:10306", f"127.0.0.1:{free_port()}")
    for number, node in enumerate(cluster.nodes, start=1):
        text = text.replace(f"10.0.0.2{number}:3306", f"127.0.0.1:{node.port}")
    servers = "\n".join(f"    server {node.name} 127.0.0.1:{node.port}" for node in cluster.nodes)
    file = folder / "haproxy.cfg"
    file.write_text(text + SPREAD.format(port=cluster.spread_port, servers=servers))
    return file
