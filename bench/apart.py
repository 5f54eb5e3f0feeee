"""The platform as it runs at scale, all on this machine: ``python -m bench.apart``, which is ``make apart``.

A MariaDB of its own that syncs every commit, two processes of each service, HAProxy in front, on free ports and in a
folder that is gone at the end. Other settings are taken from the environment, as ever.
"""

import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from ewallet.plumbing.settings import SERVICES, Settings
from tests.servers.haproxy import behind_haproxy
from tests.servers.mariadb import DURABLE, running_mariadb
from tests.support.platform import Platform, platform

console = Console(highlight=False)

DEFAULTS = Settings()


def main() -> None:
    """Start everything, say where it is, and stop it at Ctrl-C or SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs are born deaf to the first
        signal.signal(number, signal.default_int_handler)
    given = {name: value for name, value in os.environ.items() if name.startswith("EWALLET_")}
    settings = _as_an_operator_would() | given
    with (
        suppress(KeyboardInterrupt),  # before all of it has started
        tempfile.TemporaryDirectory(prefix="ewallet-apart-") as folder,
        apart(Path(folder), **settings) as running,
    ):
        _announce(running)
        with suppress(KeyboardInterrupt):
            while True:
                signal.pause()


@contextmanager
def apart(folder: Path, **settings: str) -> Iterator[Platform]:
    """A running platform of two processes of each service on a MariaDB, at HAProxy's address."""
    with running_mariadb(folder / "mariadb", *DURABLE) as server:
        databases = {service: server.new_database() for service in SERVICES}
        with platform("doubled", databases, folder, **settings) as running:
            console.print("starting two processes of each service …")
            running.start()
            with behind_haproxy(running, folder) as reached:
                yield reached
            running.stop()


def _as_an_operator_would() -> dict[str, str]:
    """What tests set otherwise, and an administrator."""
    return {
        "EWALLET_ADMIN_EMAIL": "admin@example.com",
        "EWALLET_ADMIN_PASSWORD": secrets.token_urlsafe(16),
        "EWALLET_BCRYPT_COST": str(DEFAULTS.bcrypt_cost),
        "EWALLET_RATE_PER_USER": str(DEFAULTS.rate_per_user),
        "EWALLET_RATE_PER_ADDRESS": str(DEFAULTS.rate_per_address),
    }


def _announce(running: Platform) -> None:
    admin = " ".join(
        f"{name}={running.environment[name]}" for name in ("EWALLET_ADMIN_EMAIL", "EWALLET_ADMIN_PASSWORD")
    )
    console.print("\n[bold green]ewallet is running, two processes of each service[/]\n")
    console.print(f"API      {running.address}  (HAProxy)")
    for name, process in sorted(running.processes.items()):
        console.print(f"         {process.address}  {name}, process {process.id}, log {process.log}")
    console.print(f"demo     {admin} .venv/bin/ewallet demo --url {running.address}", soft_wrap=True)
    console.print("stop     Ctrl-C\n")


if __name__ == "__main__":
    main()
