"""One service's database: SQLite, MariaDB or MySQL behind SQLAlchemy Core.

Work is a function of a connection and runs whole in one transaction, in a worker thread: leaving it without an error
commits, any error rolls back. A transient error (deadlock, lock time-out, lost connection, busy file) redoes the whole
function, so it must find its own earlier effects by their ids. That also covers an error at or after COMMIT, when
nobody can know whether it took effect.

A disk that is full, broken or read-only is told at once and not waited for (:class:`StorageUnavailable`). Reading goes
on where the disk allows it, and the first write that succeeds again ends the matter.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from ssl import CERT_NONE, PROTOCOL_TLS_CLIENT, SSLContext
from typing import Any, NamedTuple, TypeVar

import stamina
from pymysql.connections import Connection as PymysqlConnection
from pymysql.constants import SERVER_STATUS
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import QueuePool

from ewallet.kernel.errors import OutcomeUnknown, Overloaded
from ewallet.plumbing import failpoints, statements
from ewallet.plumbing.files import make_folder
from ewallet.plumbing.schema import version_table
from ewallet.plumbing.telemetry import COMMIT_SECONDS, TRANSACTION_RETRIES

Result = TypeVar("Result")

READER_THREADS = 4

MAXIMUM_READS = 1024
"""That wait for a thread, or have one: a second's work or less. Who comes later is better told at once."""

MAXIMUM_ATTEMPTS = 10
MAXIMUM_SECONDS = 5.0
"""Redoing a transaction stops here; the request's own deadline is a little later."""

LOCK_WAIT_SECONDS = 3

STATEMENT_SECONDS = 10
"""A server that is silent for longer is taken for lost, although it may be at work."""

STORAGE_RETRY_AFTER_SECONDS = 5
"""Room on a disk is made by people, or by a job that cleans up: not within a second."""

_SQLITE_PRIMARY_CODE = 0xFF


class _Errors(NamedTuple):
    """Errors by the primary result codes of SQLite, and by the numbers of MySQL and MariaDB."""

    sqlite: frozenset[int]
    mysql: frozenset[int]

    def include(self, error: DBAPIError) -> bool:
        original = error.orig
        if isinstance(original, sqlite3.Error):
            return getattr(original, "sqlite_errorcode", 0) & _SQLITE_PRIMARY_CODE in self.sqlite
        return original is not None and bool(original.args) and original.args[0] in self.mysql


# 1213 deadlock, 1205 lock wait, 1206 no room for locks, 1020 row changed since it was read, 1637 too many transactions,
# 1180 error during COMMIT, 1317 and 1969 and 3024 statement interrupted.
_BUSY = _Errors(
    sqlite=frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}),
    mysql=frozenset({1020, 1180, 1205, 1206, 1213, 1317, 1637, 1969, 3024}),
)

# 2002 and 2003 cannot connect, 1040, 1203 and 1226 too many connections, 1047 node not ready (Galera), 1053 shutdown,
# 1158 to 1161 the network failed the server, 1927, 2006, 2013 and 2055 connection lost, 4031 disconnected when idle,
# 0 closed socket.
_AWAY = _Errors(
    sqlite=frozenset(),
    mysql=frozenset(
        {0, 1040, 1047, 1053, 1158, 1159, 1160, 1161, 1203, 1226, 1927, 2002, 2003, 2006, 2013, 2055, 4031}
    ),
)

# 1044 and 1045 and 1698 no access, 1049 no such database, 1129 and 1130 this host is not wanted. Trying again at once
# does not help, but somebody will: whoever changed the password, for instance.
_LOCKED_OUT = _Errors(sqlite=frozenset(), mysql=frozenset({1044, 1045, 1049, 1129, 1130, 1698}))

# 3 and 1026 error writing a file, 1021 disk full, 1030 the storage engine got an error, 1114 table or tablespace full.
_DISK_FAILS = _Errors(
    sqlite=frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}),
    mysql=frozenset({3, 1021, 1026, 1030, 1114}),
)

# 1290 and 1836 the server is read-only. Not among the errors of reading: there it is our own mistake to write at all.
_DISK_TAKES_NOTHING = _Errors(
    sqlite=_DISK_FAILS.sqlite | {sqlite3.SQLITE_READONLY}, mysql=_DISK_FAILS.mysql | {1290, 1836}
)

_open_transactions = threading.local()


class DatabaseUnavailable(OutcomeUnknown):
    """The database did not take or confirm the work in time; whether it took effect is unknown."""


class StorageUnavailable(DatabaseUnavailable):
    """The disk under the database is full, broken or read-only.

    As a rule nothing was written. But a COMMIT whose sync fails may still be found after a crash: it counts as unknown.
    """


class _Undone(Exception):
    """Rolls a transaction back."""


class Database:
    """A writer and a few readers on one database. Build with :func:`open_database`."""

    def __init__(self, name: str, writer: Engine, reader: Engine) -> None:
        self.name = name
        self._writer = writer
        self._reader = reader
        self._refused_work: Callable[[Connection], Any] | None = None
        self._away = False
        self._commit_seconds = COMMIT_SECONDS.labels(name)
        self._retries = TRANSACTION_RETRIES.labels(name)
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-writer")
        self._reads = 0
        self._reader_threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix=f"{name}-reader")

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``mysql``."""
        return self._writer.dialect.name

    def transact(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work`` in one write transaction, in this thread; redone whole after a transient error.

        DatabaseUnavailable: still failing transiently after the last attempt. StorageUnavailable: the disk took
        nothing. Other errors of ``work`` pass through.
        """

        def once() -> Result:
            with _marked_open(), self._writer.begin() as tx:
                result = work(tx)
                failpoints.reached("commit.before", self.name)
                worked = time.perf_counter()
            self._commit_seconds.observe(time.perf_counter() - worked)
            failpoints.reached("commit.after", self.name)
            return result

        try:
            return self._redone(once, _DISK_TAKES_NOTHING)
        except StorageUnavailable:
            self._refused_work = work
            raise

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work`` in one read transaction (a single snapshot on SQLite), in this thread."""

        def once() -> Result:
            with self._reader.begin() as tx:
                return work(tx)

        return self._redone(once, _DISK_FAILS)

    def _redone(self, once: Callable[[], Result], of_storage: _Errors) -> Result:
        """The result of ``once``, redone after transient errors. A server that stays away is not waited for twice."""
        try:
            result = _repeated(once, patient=not self._away, count=self._retries.inc)
        except DBAPIError as error:
            if of_storage.include(error):
                raise StorageUnavailable(f"the disk of the {self.name} database fails: {error.orig}") from error
            self._away = _is_away(error)
            if is_transient(error) or _LOCKED_OUT.include(error):
                raise DatabaseUnavailable(f"the {self.name} database does not answer") from error
            raise
        self._away = False
        return result

    def snapshot(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work`` in this thread on the data as they are at one moment, however long it reads and others write."""

        def on_one_moment(tx: Connection) -> Result:
            if self.dialect != "sqlite":
                # The session reads what is committed at each statement; both of these are for one transaction only.
                tx.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                tx.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            return work(tx)

        return self.read(on_one_moment)

    async def writing(self, work: Callable[[Connection], Result]) -> Result:
        """:meth:`transact` in the writer thread: for writes too rare to be gathered into batches."""
        return await asyncio.get_running_loop().run_in_executor(self._writer_thread, self.transact, work)

    async def reading(self, work: Callable[[Connection], Result]) -> Result:
        """:meth:`read` in a reader thread. Overloaded: too many wait for one already."""
        if self._reads >= MAXIMUM_READS:
            raise Overloaded(f"too many wait to read the {self.name} database")
        self._reads += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader_threads, self.read, work)
        finally:
            self._reads -= 1

    async def in_writer_thread(self, call: Callable[[], Result]) -> Result:
        """Run a call that itself calls :meth:`transact`, in the writer thread."""
        return await asyncio.get_running_loop().run_in_executor(self._writer_thread, call)

    async def ping(self) -> None:
        """Return when the database answers; DatabaseUnavailable when it does not.

        When its disk has refused a write (StorageUnavailable), every ping tries that again: smaller ones may pass.
        """
        if (work := self._refused_work) is not None:
            await self.in_writer_thread(lambda: self._try_to_write(work))
        await self.reading(lambda tx: tx.exec_driver_sql("SELECT 1").scalar())

    def _try_to_write(self, work: Callable[[Connection], Any]) -> None:
        """Find out whether what was refused would be taken now, and write nothing new.

        The files of a server grow with the statements, each table's by itself: so the same work is done, and undone.
        SQLite's grow with the COMMIT: so one is made.
        """

        def undone() -> None:
            with suppress(_Undone), _marked_open(), self._writer.begin() as tx:
                with suppress(IntegrityError):  # somebody has done it meanwhile
                    work(tx)
                raise _Undone

        self._redone(undone, _DISK_TAKES_NOTHING)
        self.transact(self._write_nothing_new)
        self._refused_work = None

    def _write_nothing_new(self, tx: Connection) -> None:
        """Write the one row that every service has, as it is."""
        statements.run(tx, f"UPDATE {version_table(self.name)} SET version_num = version_num")  # noqa: S608  # a name of ours

    def close(self) -> None:
        """Finish what is under way, then close every connection."""
        self._writer_thread.shutdown()
        self._reader_threads.shutdown()
        self._reader.dispose()
        self._writer.dispose()


def open_database(url: str, name: str, *, statement_seconds: int = STATEMENT_SECONDS) -> Database:
    """A database by the URL of the settings: ``sqlite:///path`` or ``mysql://user:password@host:port/database``.

    ``statement_seconds`` is how long a server may take for one statement.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return Database(name, _sqlite_engine(parsed, writer=True), _sqlite_engine(parsed, writer=False))
    engine = _mysql_engine(parsed, statement_seconds)
    return Database(name, engine, engine)


def transaction_open() -> bool:
    """Whether this thread is inside a write transaction, where no call may leave the process."""
    return getattr(_open_transactions, "depth", 0) > 0


def is_transient(error: Exception) -> bool:
    """Whether doing the same transaction again may succeed."""
    return isinstance(error, DBAPIError) and (_is_away(error) or _BUSY.include(error))


def _is_away(error: DBAPIError) -> bool:
    """Whether there is no server at the other end, or none that would talk to us now."""
    return error.connection_invalidated or _AWAY.include(error)


def _repeated(once: Callable[[], Result], *, patient: bool, count: Callable[[], None]) -> Result:
    """The result of ``once``, repeated after transient errors; the usual first success pays nothing for that.

    Without patience it is repeated once, because the connection may be an old one, whose server is back. ``count`` is
    called for each repetition.
    """
    try:
        return once()
    except DBAPIError as error:
        if not is_transient(error):
            raise
    if not patient:
        count()
        return once()
    for attempt in _further_attempts():
        with attempt:
            count()
            return once()
    raise DatabaseUnavailable("no attempt was made")  # pragma: no cover


def _further_attempts() -> Iterator[stamina.Attempt]:
    """Attempts with growing pauses between them.

    The first pause is enough for the winner of a deadlock to commit, the last for a server to come back. The jitter
    keeps two losers from meeting again.
    """
    yield from stamina.retry_context(
        on=is_transient,
        attempts=MAXIMUM_ATTEMPTS - 1,
        timeout=MAXIMUM_SECONDS,
        wait_initial=0.005,
        wait_jitter=0.02,
        wait_max=1.0,
    )


@contextmanager
def _marked_open() -> Iterator[None]:
    _open_transactions.depth = getattr(_open_transactions, "depth", 0) + 1
    try:
        yield
    finally:
        _open_transactions.depth -= 1


def _sqlite_engine(url: URL, *, writer: bool) -> Engine:
    """WAL with one writing connection, which alone checkpoints; readers never wait for it."""
    make_folder(Path(url.database or "").parent)
    engine = create_engine(
        url,
        hide_parameters=True,  # they would be in every error that is logged, and private keys are among them
        poolclass=QueuePool,
        pool_size=1 if writer else READER_THREADS,
        max_overflow=0,
        connect_args={"check_same_thread": False, "isolation_level": None, "cached_statements": 512},
    )
    pragmas = [
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={LOCK_WAIT_SECONDS * 1000}",
        "foreign_keys=ON",
    ]
    # 16 MB each, so that four full caches keep the whole platform below 200 MB; half of it was no slower.
    # A checkpoint every 16 MB of log instead of every 4: with 1000 pages nearly every full batch paid for one.
    pragmas += ["cache_size=-16000", "wal_autocheckpoint=4000"] if writer else ["query_only=ON", "wal_autocheckpoint=0"]

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, _record: Any) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock at once: a transaction that reads first and writes later could not be upgraded.
        statements.run(connection, "BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine


class _ServerConnection(PymysqlConnection):
    """A connection that uses TLS where the server offers it, as the driver's own does.

    Where the URL names no certificates, none is checked. The driver loads all those of the system nevertheless, 35 ms
    of processor time for each connection.
    """

    def _create_ssl_ctx(self, options: dict[str, Any]) -> SSLContext:
        if not options:
            return _without_certificates()
        made: SSLContext = super()._create_ssl_ctx(options)  # type: ignore[misc]  # the stubs leave it out
        return made


@cache
def _without_certificates() -> SSLContext:
    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    return context


def _mysql_engine(url: URL, statement_seconds: int) -> Engine:
    engine = create_engine(
        url.set(drivername="mysql+pymysql").update_query_dict({"charset": "utf8mb4"}),
        hide_parameters=True,
        pool_size=READER_THREADS + 1,
        max_overflow=0,
        pool_recycle=1800,
        pool_reset_on_return=None,  # every transaction of ours ends by itself, but see below: one round trip less
        connect_args={"connect_timeout": 3, "read_timeout": statement_seconds, "write_timeout": 10},
    )

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        return _ServerConnection(*arguments, **options)

    @event.listens_for(engine, "connect")
    def set_session(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ONLY_FULL_GROUP_BY'")
            cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}")

    @event.listens_for(engine, "reset")
    def end_transaction(connection: Any, _record: Any, _state: Any) -> None:
        # A COMMIT that has failed can leave its transaction open: whoever comes next would commit it with his own.
        if connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS:
            connection.rollback()

    return engine
