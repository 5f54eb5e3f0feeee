"""Fixtures for every test: fresh, empty, real databases of both kinds, in memory where there is room."""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias

import hypothesis
import pytest

from tests.servers.mariadb import MariaDB, running_mariadb
from tests.support.differences import DIFFERENCES

Backend: TypeAlias = Literal["sqlite", "mariadb"]

SERVICES = ("auth", "wallet", "payment", "notification")
SCRATCH_PREFIX = "ewallet-tests-"
SCRATCH_BYTES = 1024**3  # a run of all tests needs about a quarter of it; a container may offer only 64 MB

# Speed is what the bench measures: on a busy machine a deadline per example fails tests that are right.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the tests in the list of differences to fail, and fail where one does not: so the list stays true."""
    for item in items:
        if reason := DIFFERENCES.get(item.name):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """Give a folder for this run, in memory if possible: no test is about disks."""
    memory = Path("/dev/shm")  # noqa: S108  # only a folder of our own, with a random name, is made in it
    parent = memory if _has_room(memory) else Path(tempfile.gettempdir())
    _remove_leftovers(parent)
    with _in_use(parent / f"{SCRATCH_PREFIX}{secrets.token_hex(8)}") as folder:
        yield folder


@pytest.fixture(scope="session")
def mariadb(scratch: Path) -> Iterator[MariaDB]:
    """Start the run's one MariaDB, when the first test asks for it."""
    with running_mariadb(scratch / "mariadb") as server:
        yield server


@pytest.fixture
def fresh_database(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Callable[[Backend], str]]:
    """Give a function that makes an empty database and returns its URL; all are gone after the test."""
    with ExitStack() as cleanup:

        def make(backend: Backend) -> str:
            if backend == "sqlite":
                folder = cleanup.enter_context(tempfile.TemporaryDirectory(dir=scratch))
                return f"sqlite:///{folder}/database"
            server: MariaDB = request.getfixturevalue("mariadb")
            return cleanup.enter_context(server.database())

        yield make


@pytest.fixture
def fresh_databases(fresh_database: Callable[[Backend], str]) -> Callable[[Backend], dict[str, str]]:
    """Give a function that makes one empty database for each service: `{"auth": url, "wallet": url, ...}`."""

    def make(backend: Backend) -> dict[str, str]:
        return {service: fresh_database(backend) for service in SERVICES}

    return make


@pytest.fixture
def sqlite_url(fresh_database: Callable[[Backend], str]) -> str:
    """Give the URL of an empty SQLite database: `sqlite:///<file>`."""
    return fresh_database("sqlite")


@pytest.fixture
def mariadb_url(fresh_database: Callable[[Backend], str]) -> str:
    """Give the URL of an empty MariaDB database: `mysql://user:password@127.0.0.1:port/database`."""
    return fresh_database("mariadb")


@pytest.fixture(params=["sqlite", "mariadb"])
def database_url(request: pytest.FixtureRequest, fresh_database: Callable[[Backend], str]) -> str:
    """Run the test twice: on an empty SQLite database and on an empty MariaDB database."""
    return fresh_database(request.param)


def _has_room(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= SCRATCH_BYTES


@contextmanager
def _in_use(folder: Path) -> Iterator[Path]:
    """A new folder that is gone at the end; the lock beside it, which is there first, says that somebody uses it."""
    lock_file = _lock_of(folder)
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock_file.unlink()


def _remove_leftovers(parent: Path) -> None:
    """Remove folders of runs that were killed: memory is too dear to keep them."""
    for folder in filter(Path.is_dir, parent.glob(f"{SCRATCH_PREFIX}*")):
        with suppress(OSError), _lock_of(folder).open() as lock:
            # A process id would say nothing here: runs may have namespaces of their own.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            _lock_of(folder).unlink()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
