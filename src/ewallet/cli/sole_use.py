"""Each SQLite file is one process's to serve from: what a service promises on SQLite, it promises for one process."""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from sqlalchemy.engine import make_url

from ewallet.cli.terminal import Stopped
from ewallet.plumbing.files import make_folder
from ewallet.plumbing.settings import Settings, variable


@contextmanager
def sole_use(settings: Settings, services: Sequence[str]) -> Iterator[None]:
    """Keep other processes from serving these services from the same SQLite files. Stopped: one does so already.

    The lock goes with the process, however it ends. Commands such as `verify` and `backup` need none.
    """
    with ExitStack() as locks:
        for service in services:
            if (file := sqlite_file(settings, service)) is not None:
                locks.enter_context(_locked(file, service))
        yield


def require_server(settings: Settings, services: Sequence[str]) -> None:
    """Stopped: several processes cannot share these services' databases."""
    for service in services:
        if (file := sqlite_file(settings, service)) is not None:
            raise Stopped(
                f"The {service} database {file} is a SQLite file, which one process serves from: leave --workers out, "
                f"or use MariaDB or MySQL with {variable(f'{service}_database_url')}."
            )


def sqlite_file(settings: Settings, service: str) -> Path | None:
    """The file of a service's database, or None where it is on a server."""
    url = make_url(settings.database_url(service))
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


@contextmanager
def _locked(file: Path, service: str) -> Iterator[TextIO]:
    lock = file.with_name(f"{file.name}.{service}.lock")  # services may share a file
    try:
        make_folder(lock.parent)
        opened = lock.open("a")
    except OSError as error:
        raise Stopped(f"The {service} database {file} cannot be used: {lock}: {error.strerror}.") from error
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Stopped(
                f"Another process serves {service} from {file}: stop it first, choose another folder with "
                f"{variable('data')}, or use MariaDB or MySQL, which several processes can share."
            ) from error
        yield opened
