"""How a MySQL or MariaDB server must be set up, so that what was acknowledged survives a power cut.

Not looked at is the time zone: all times are stored as numbers, and no statement asks the server what time it is.
"""

from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Connection

_MINIMUM_PACKET = 16 * 1024 * 1024
"""MariaDB's default; statements are kept below half of it."""

_LOSS = "a power cut can take back what was acknowledged"


class _Rule(NamedTuple):
    """What a variable of the server, in capitals, must be like; and if it is not, what to set it to, and why.

    A variable that a server does not have is no weakness of it.
    """

    name: str
    holds: Callable[[str], bool]
    advice: str


_RULES = (
    _Rule("innodb_flush_log_at_trx_commit", "1".__eq__, f"set it to 1: {_LOSS}"),
    _Rule(
        "innodb_flush_method",
        lambda value: value not in {"NOSYNC", "LITTLESYNC"},
        f"set it to O_DIRECT: {_LOSS}",
    ),
    _Rule(
        "innodb_doublewrite",
        lambda value: value not in {"OFF", "0"},
        "set it to ON, unless the file system writes whole pages or none: a power cut can tear a page in two",
    ),
    _Rule(
        "max_allowed_packet",
        lambda value: int(value) >= _MINIMUM_PACKET,
        f"set it to {_MINIMUM_PACKET} or more: the server refuses large batches",
    ),
    _Rule(
        "sql_mode",
        lambda value: "STRICT_ALL_TABLES" in value,
        "something between us and the server swallows `SET SESSION`: values that do not fit may be cut off",
    ),
    *(
        _Rule(
            name,
            "READ-COMMITTED".__eq__,
            "something between us and the server swallows `SET SESSION`: decisions may be taken on old values",
        )
        for name in ("transaction_isolation", "tx_isolation")  # MySQL 8 knows the first, MariaDB before 11.1 the second
    ),
)

_RULES_OF_BINARY_LOG = (
    _Rule("sync_binlog", "1".__eq__, f"set it to 1: {_LOSS} from replicas"),
    _Rule(
        "binlog_format",
        lambda value: value != "STATEMENT",
        "set it to ROW: the server refuses every write of a READ COMMITTED transaction",
    ),
)

# Of reading, 1, updating and deleting, 2, and inserting, 4: whatever a transaction of ours begins with.
_EVERYTHING_WAITS = 7

_SPLIT = "set it to false: two parts of a cluster that is split would both take payments, and one part's would be lost"

_RULES_OF_GALERA = (
    # Seen with MariaDB 10.11 and Galera 26.4: see docs/decisions/0030.
    _Rule(
        "log_bin",
        "ON".__eq__,
        "set it, and log_slave_updates: what is committed here can be missing elsewhere",
    ),
    _Rule("wsrep_on", "ON".__eq__, "set it to ON: what is written to this node is nowhere else"),
    _Rule(
        "wsrep_sync_wait",
        lambda value: int(value) & _EVERYTHING_WAITS == _EVERYTHING_WAITS,
        f"set it to {_EVERYTHING_WAITS}: after a change to another node, decisions may be taken on old values",
    ),
    _Rule("wsrep_dirty_reads", "OFF".__eq__, "set it to OFF: a node without a majority would show old balances"),
    _Rule("wsrep_osu_method", "TOI".__eq__, "set it to TOI: a migration would change the tables of this node only"),
    _Rule("pc.ignore_sb", "FALSE".__eq__, _SPLIT),
    _Rule("pc.ignore_quorum", "FALSE".__eq__, _SPLIT),
)
"""The last two are among the options of the provider."""

_NO_PROVIDER = {"", "NONE"}

_NAMES = (
    "log_bin",
    "wsrep_provider",
    "wsrep_provider_options",
    *(rule.name for rule in (*_RULES, *_RULES_OF_BINARY_LOG, *_RULES_OF_GALERA)),
)


def weaknesses(tx: Connection) -> list[str]:
    """What is wrong with the server's settings: name, value, and what to do, for each."""
    if tx.dialect.name == "sqlite":
        return []
    rows = tx.exec_driver_sql(f"SHOW VARIABLES WHERE variable_name IN ({', '.join(map(repr, _NAMES))})").all()
    found = {str(name).lower(): str(value).upper() for name, value in rows}
    rules = (
        *_RULES,
        *(_RULES_OF_BINARY_LOG if found["log_bin"] == "ON" else ()),
        *(_RULES_OF_GALERA if found.get("wsrep_provider", "") not in _NO_PROVIDER else ()),
    )
    found |= _provider_options(found.get("wsrep_provider_options", ""))
    return [
        f"{rule.name} is {found[rule.name]}; {rule.advice}"
        for rule in rules
        if rule.name in found and not rule.holds(found[rule.name])
    ]


def _provider_options(value: str) -> dict[str, str]:
    """The options of Galera's provider, each by its name: ``PC.WEIGHT = 1; PC.IGNORE_SB = FALSE; `` and so on."""
    pairs = (option.partition("=") for option in value.split(";") if option.strip())
    return {name.strip().lower(): setting.strip() for name, _, setting in pairs}
