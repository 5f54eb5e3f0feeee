"""A server that would lose what was acknowledged, or refuse what we write, is told about before it happens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ewallet.plumbing.servers import weaknesses
from tests.servers.galera import AS_DOCUMENTED, PROVIDER
from tests.servers.mariadb import DURABLE, MariaDB, running_mariadb
from tests.support.plumbing import opened
from tests.support.ports import free_port

CAREFUL = ("--log-bin", "--sync-binlog=1", "--binlog-format=ROW")
DEFAULTS = {"wsrep_on": "ON", "wsrep_dirty_reads": "OFF", "wsrep_osu_method": "TOI"}
CARELESS = {
    "innodb_flush_log_at_trx_commit": "2",
    "innodb_flush_method": "nosync",
    "innodb_doublewrite": "OFF",
    "max_allowed_packet": "4194304",
    "sync_binlog": "0",
    "binlog_format": "STATEMENT",
}


def advice_of(server: MariaDB) -> list[str]:
    with server.database() as url, opened(url) as database:
        return database.read(weaknesses)


def test_a_server_with_debians_settings_and_a_synced_binary_log_needs_no_advice(tmp_path: Path) -> None:
    with running_mariadb(tmp_path, *CAREFUL) as server:
        assert advice_of(server) == []


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in CARELESS.items()]
    with running_mariadb(tmp_path_factory.mktemp("careless"), "--log-bin", *options) as server:
        yield server


def test_each_careless_setting_is_named_with_what_to_set_it_to(careless: MariaDB) -> None:
    said = advice_of(careless)

    assert {advice.split()[0] for advice in said} == set(CARELESS)
    assert all("set it to" in advice for advice in said)


@pytest.mark.parametrize(("sync_wait", "advised"), [(0, True), (1, True), (7, False), (15, False)])
def test_a_galera_node_that_may_answer_before_it_has_caught_up_is_told_to_wait(
    sync_wait: int, advised: bool, galera_node: MariaDB
) -> None:
    """After a change to another node a read would show what was before the last payments."""
    galera_node.execute_as_root(f"SET GLOBAL wsrep_sync_wait = {sync_wait}")

    said = advice_of(galera_node)

    assert [advice.split()[0] for advice in said] == ["wsrep_sync_wait"] * advised


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("wsrep_on = OFF", "wsrep_on"),
        ("wsrep_dirty_reads = ON", "wsrep_dirty_reads"),
        ("wsrep_osu_method = RSU", "wsrep_osu_method"),
        ("wsrep_provider_options = 'pc.ignore_sb = true'", "pc.ignore_sb"),
        ("wsrep_provider_options = 'pc.ignore_quorum = true'", "pc.ignore_quorum"),
    ],
)
def test_each_setting_of_a_galera_node_that_can_lose_money_is_named(
    setting: str, named: str, galera_node: MariaDB
) -> None:
    """Two halves of a cluster that both take payments are the worst of it."""
    name, _, value = setting.partition(" = ")
    galera_node.execute_as_root("SET GLOBAL wsrep_sync_wait = 7")
    galera_node.execute_as_root(f"SET GLOBAL {setting}")

    said = advice_of(galera_node)
    galera_node.execute_as_root(f"SET GLOBAL {name} = {DEFAULTS.get(name, value.replace('true', 'false'))}")

    assert [advice.split()[0] for advice in said] == [named]
    assert advice_of(galera_node) == []


@pytest.fixture(scope="module")
def galera_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """Give a cluster of one."""
    port = free_port()
    with running_mariadb(
        tmp_path_factory.mktemp("galera"),
        *AS_DOCUMENTED,
        "--wsrep-cluster-address=gcomm://",
        "--wsrep-node-address=127.0.0.1",
        f"--wsrep-provider-options=gcache.size=8M;base_port={port};gmcast.listen_addr=tcp://127.0.0.1:{port}",
    ) as server:
        yield server


def test_a_galera_node_without_a_binary_log_is_told_to_have_one(tmp_path: Path) -> None:
    provider = f"--wsrep-provider={PROVIDER}"
    with running_mariadb(tmp_path, *DURABLE, provider, "--wsrep-sync-wait=7", "--binlog-format=ROW") as server:
        said = advice_of(server)

    assert [advice.split()[0] for advice in said] == ["log_bin", "wsrep_on"]
