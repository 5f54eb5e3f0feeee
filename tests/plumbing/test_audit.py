"""Nothing can be changed, removed, reordered or inserted in an audit log without being found and named."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, MetaData, delete, insert, select, update

from ewallet.kernel.caller import Caller, Role
from ewallet.plumbing import verifying
from ewallet.plumbing.audit import AuditLog, AuditRecord, chained_hash
from ewallet.plumbing.database import Database
from tests.support.plumbing import make_tables, opened

NOW = 1_790_000_000_000_000
CALLER = Caller("usr_admin", Role.ADMIN, "req_1")

metadata = MetaData()
audit = AuditLog(metadata, "test")
records = audit.records


@pytest.fixture
def url(database_url: str) -> str:
    make_tables(database_url, metadata)
    with opened(database_url) as database:
        database.transact(audit.start_chain)
    return database_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with opened(url) as database:
        yield database


def record(number: int) -> AuditRecord:
    return AuditRecord.of(CALLER, "wallet.frozen", f"usr_{number}", reason=f"reason {number}", tries=number)


def append(database: Database, *numbers: int) -> None:
    database.transact(lambda tx: audit.append(tx, NOW, [record(number) for number in numbers]))


def fault(database: Database) -> str | None:
    return database.read(audit.first_fault)


@pytest.fixture
def log(database: Database) -> Database:
    """A database with six records, written one by one and together."""
    append(database, 1)
    append(database, 2, 3, 4, 5)
    append(database, 6)
    return database


def test_an_untouched_log_has_no_fault(log: Database) -> None:
    assert fault(log) is None


def test_an_empty_log_has_no_fault(database: Database) -> None:
    append(database)

    assert fault(database) is None


def test_a_log_longer_than_one_page_of_the_check_has_no_fault(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "AT_ONCE", 7)
    for length in (13, 1, 7):
        append(database, *range(length))
        assert fault(database) is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", NOW + 1),
        ("actor", "usr_somebody"),
        ("action", "wallet.closed"),
        ("subject", "usr_9"),
        ("request_id", "req_2"),
        ("result", "not-found"),
        ("detail", '{"reason":"another","tries":3}'),
        ("hash", "f" * 64),
    ],
)
def test_a_record_changed_in_any_column_is_named(log: Database, column: str, value: object) -> None:
    log.transact(lambda tx: tx.execute(update(records).where(records.c.sequence == 3).values({column: value})))

    assert "audit record 3 " in (fault(log) or "")


@pytest.mark.parametrize("removed", [1, 3, 6])
def test_a_record_removed_from_any_place_is_named(log: Database, removed: int) -> None:
    log.transact(lambda tx: tx.execute(delete(records).where(records.c.sequence == removed)))

    assert f"audit record {removed} is missing" in (fault(log) or "")


def test_a_log_that_lost_everything_is_found(log: Database) -> None:
    log.transact(lambda tx: tx.execute(delete(records)))

    assert "audit record 1 is missing" in (fault(log) or "")


def test_the_end_cut_off_with_its_head_moved_back_is_found(log: Database) -> None:
    """The head's own hash is the one thing that a thief would also have to know how to set; he does not bother here."""

    def cut(tx: Connection) -> None:
        tx.execute(delete(records).where(records.c.sequence > 4))
        tx.execute(update(audit.head).values(sequence=4))

    log.transact(cut)

    assert "head does not belong to record 4" in (fault(log) or "")


def test_two_records_that_changed_places_are_found(log: Database) -> None:
    def swap(tx: Connection) -> None:
        for old, new in ((2, 99), (3, 2), (99, 3)):
            tx.execute(update(records).where(records.c.sequence == old).values(sequence=new))

    log.transact(swap)

    assert "audit record 2 " in (fault(log) or "")


def copy_of(tx: Connection, sequence: int, *, to: int) -> None:
    row = tx.execute(select(records).where(records.c.sequence == sequence)).one()
    tx.execute(insert(records).values({**row._mapping, "sequence": to}))


@pytest.mark.parametrize("place", [0, -1])
def test_a_record_inserted_before_the_first_is_named(log: Database, place: int) -> None:
    log.transact(lambda tx: copy_of(tx, 1, to=place))

    assert f"audit record {place} was inserted" in (fault(log) or "")


def test_a_record_inserted_in_the_middle_is_found(log: Database) -> None:
    def squeeze_in(tx: Connection) -> None:
        for sequence in (6, 5, 4):
            tx.execute(update(records).where(records.c.sequence == sequence).values(sequence=sequence + 1))
        copy_of(tx, 3, to=4)

    log.transact(squeeze_in)

    assert "audit record 4 " in (fault(log) or "")


def test_a_record_inserted_at_the_end_is_named_even_with_the_right_hash(log: Database) -> None:
    """Whoever knows the algorithm can continue the chain; the head does not know of it."""

    def continue_chain(tx: Connection) -> None:
        last = tx.execute(select(records).where(records.c.sequence == 6)).one()
        fields = (7, *tuple(last)[1:-1])
        tx.execute(insert(records).values((*fields, chained_hash(last.hash, fields))))

    log.transact(continue_chain)

    assert "audit record 7 was inserted" in (fault(log) or "")


@pytest.mark.parametrize("remove_head", [False, True])
def test_a_head_that_was_tampered_with_is_found(log: Database, remove_head: bool) -> None:
    log.transact(lambda tx: tx.execute(delete(audit.head) if remove_head else update(audit.head).values(hash="0" * 64)))

    assert "head" in (fault(log) or "")


def test_a_transaction_that_is_rolled_back_leaves_no_record_and_no_gap(log: Database) -> None:
    def fail(tx: Connection) -> None:
        audit.append(tx, NOW, [record(7)])
        raise KeyError

    with pytest.raises(KeyError):
        log.transact(fail)
    append(log, 7)

    assert fault(log) is None
    assert log.read(lambda tx: audit.find(tx, subject=None, request_id=None, before=None, limit=1))[0].sequence == 7


def test_two_processes_write_one_chain(url: str) -> None:
    with opened(url) as one, opened(url) as other, ThreadPoolExecutor(2) as threads:

        def write(database: Database) -> None:
            for number in range(50):
                append(database, number, number)

        for done in [threads.submit(write, database) for database in (one, other)]:
            done.result()

        assert fault(one) is None
        assert one.read(lambda tx: tx.execute(select(audit.head.c.sequence)).scalar()) == 200


def test_a_log_that_grows_while_it_is_checked_has_no_fault(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` runs beside the live platform."""
    with opened(url) as one, opened(url) as other:
        append(one, 1, 2, 3)
        page: Callable[..., object] = AuditLog.following

        growth = [4, 5, 6]

        def page_and_grow(log: AuditLog, tx: Connection, after: int, limit: int) -> object:
            found = page(log, tx, after, limit)
            if not found and growth:
                append(other, growth.pop(0))
            return found

        monkeypatch.setattr(AuditLog, "following", page_and_grow)

        assert fault(one) is None


def test_records_are_found_by_subject_and_by_request_newest_first(log: Database) -> None:
    def find(
        *, subject: str | None = None, request_id: str | None = None, before: int | None = None, limit: int = 10
    ) -> list[int]:
        found = log.read(lambda tx: audit.find(tx, subject=subject, request_id=request_id, before=before, limit=limit))
        return [row.sequence for row in found]

    assert find() == [6, 5, 4, 3, 2, 1]
    assert find(subject="usr_4") == [4]
    assert find(request_id="req_1", limit=2) == [6, 5]
    assert find(request_id="req_1", before=5, limit=2) == [4, 3]
    assert find(request_id="req_2") == []


def test_a_record_says_who_did_what_to_what_in_which_request_with_what_result(log: Database) -> None:
    [row] = log.read(lambda tx: audit.find(tx, subject="usr_4", request_id=None, before=None, limit=1))

    assert tuple(row)[1:-1] == (
        NOW,
        "usr_admin",
        "wallet.frozen",
        "usr_4",
        "req_1",
        "ok",
        '{"reason":"reason 4","tries":4}',
    )
