"""What the data of a platform lie in, and how they are copied: SQLite files, or databases of a MariaDB."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Protocol

from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from ewallet.plumbing.settings import SERVICES
from tests.servers.mariadb import MariaDB


@dataclass(frozen=True)
class Data:
    """The folder of a platform, and the URL of each service's database."""

    folder: Path
    databases: Mapping[str, str]


class Store(Protocol):
    """Where platforms have their data."""

    def new(self) -> Data:
        """For a platform that has never been started."""
        ...

    def copy(self, data: Data) -> AbstractContextManager[Data]:
        """The data of a platform that does not run, once more; gone at the end."""
        ...


class FileStore:
    """SQLite files in each platform's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new(self) -> Data:
        return self._in(Path(mkdtemp(dir=self._folder)))

    @contextmanager
    def copy(self, data: Data) -> Iterator[Data]:
        with _copied(data.folder, self._folder) as folder:
            yield self._in(folder)

    def _in(self, folder: Path) -> Data:
        return Data(folder, {service: f"sqlite:///{folder / 'data' / service}.sqlite3" for service in SERVICES})


class ServerStore:
    """Databases of one server; what else a platform keeps is in its folder. ``port`` is of a proxy, if there is one."""

    def __init__(self, folder: Path, server: MariaDB, port: int) -> None:
        self._folder = folder
        self._server = server
        self._port = port or server.port

    def new(self) -> Data:
        databases = {service: self._server.new_database() for service in SERVICES}
        return self._reached(Path(mkdtemp(dir=self._folder)), databases)

    @contextmanager
    def copy(self, data: Data) -> Iterator[Data]:
        with _copied(data.folder, self._folder) as folder, ExitStack() as dropped:
            databases = {service: dropped.enter_context(self._server.database()) for service in SERVICES}
            for service, database in databases.items():
                self._server.copy_database(data.databases[service], database)
            yield self._reached(folder, databases)

    def _reached(self, folder: Path, databases: Mapping[str, str]) -> Data:
        urls = {service: make_url(url).set(port=self._port) for service, url in databases.items()}
        return Data(folder, {service: url.render_as_string(hide_password=False) for service, url in urls.items()})


@contextmanager
def reading(database: str) -> Iterator[Connection]:
    """A connection that sees with each statement what is committed then."""
    url = make_url(database)
    if url.get_backend_name() == "mysql":
        url = url.set(drivername="mysql+pymysql")
    with create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
        yield connection


@contextmanager
def _copied(folder: Path, parent: Path) -> Iterator[Path]:
    with TemporaryDirectory(dir=parent) as name:
        shutil.copytree(folder / "data", Path(name) / "data")
        yield Path(name)
