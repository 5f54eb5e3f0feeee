"""A backup is complete or is none, and is put back as it was or not at all."""

import json
import stat
from pathlib import Path

import pytest
from sqlalchemy import text

from ewallet.plumbing.database import open_database
from ewallet.plumbing.settings import SERVICES
from tests.cli.conftest import Run

COPIES = {"manifest.json", "internal.secret", *(f"{service}.sqlite3" for service in SERVICES)}


@pytest.fixture
def data(run: Run, tmp_path: Path) -> Path:
    """Give the data folder of a platform that has been started before."""
    folder = tmp_path / "data"
    assert run("migrate").status == 0
    (folder / "internal.secret").write_text("a secret of more than thirty-two characters")
    write(folder, "CREATE TABLE notes (text TEXT)", "INSERT INTO notes VALUES ('kept')")
    return folder


@pytest.fixture
def taken(run: Run, data: Path, tmp_path: Path) -> Path:
    """Give a backup of it."""
    assert data.exists()
    folder = tmp_path / "backup"
    assert run("backup", str(folder)).status == 0
    return folder


def write(data: Path, *statements: str) -> None:
    database = open_database(f"sqlite:///{data / 'wallet.sqlite3'}", "wallet")
    database.transact(lambda tx: [tx.execute(text(statement)) for statement in statements])
    database.close()


def notes(data: Path) -> list[str]:
    database = open_database(f"sqlite:///{data / 'wallet.sqlite3'}", "wallet")
    found = database.read(lambda tx: list(tx.scalars(text("SELECT text FROM notes"))))
    database.close()
    return found


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_what_is_restored_is_what_was_backed_up(run: Run, data: Path, taken: Path, tmp_path: Path) -> None:
    write(data, "INSERT INTO notes VALUES ('too late')")

    ended = run("restore", str(taken), DATA=str(tmp_path / "new"))

    assert ended.status == 0, ended.err
    assert names(tmp_path / "new") == COPIES - {"manifest.json"}
    assert (tmp_path / "new/internal.secret").read_text() == (data / "internal.secret").read_text()
    assert notes(tmp_path / "new") == ["kept"]
    assert notes(data) == ["kept", "too late"]
    assert run("verify", DATA=str(tmp_path / "new")).status == 0


def test_a_backup_is_for_its_owners_eyes_and_says_what_is_in_it(run: Run, data: Path, tmp_path: Path) -> None:
    ended = run("backup", str(tmp_path / "backup"), DATA=str(data))

    assert names(tmp_path / "backup") == COPIES
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o700
    for name in COPIES - {"manifest.json"}:
        assert stat.S_IMODE((tmp_path / "backup" / name).stat().st_mode) == 0o600
    assert "keys that sign tokens" in ended.out
    assert "wallet.sqlite3" in ended.out


def test_a_secret_of_the_settings_is_not_in_a_backup_which_says_so(run: Run, data: Path, tmp_path: Path) -> None:
    assert data.exists()

    ended = run("backup", str(tmp_path / "backup"), INTERNAL_SECRET="s" * 32)

    assert names(tmp_path / "backup") == COPIES - {"internal.secret"}
    assert "EWALLET_INTERNAL_SECRET" in ended.out


def test_services_that_share_a_file_are_backed_up_too(run: Run, tmp_path: Path) -> None:
    shared = {f"{service.upper()}_DATABASE_URL": f"sqlite:///{tmp_path / 'all'}" for service in SERVICES}
    run("migrate", **shared)

    assert run("backup", str(tmp_path / "backup"), **shared).status == 0
    assert run("restore", str(tmp_path / "backup")).status == 0
    assert run("verify").status == 0


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_folder_that_holds_anything_is_not_touched(run: Run, taken: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter").write_text("dear Ada")

    arguments = [str(tmp_path / "full")] if command == "backup" else [str(taken)]
    ended = run(command, *arguments, **({} if command == "backup" else {"DATA": str(tmp_path / "full")}))

    assert ended.status == 1
    assert "not empty" in ended.err
    assert names(tmp_path / "full") == {"letter"}


def test_a_backup_of_a_damaged_database_is_none(run: Run, data: Path, tmp_path: Path) -> None:
    file = data / "payment.sqlite3"
    whole = bytearray(file.read_bytes())
    whole[4096 * 3 : 4096 * 4] = b"\x05" * 4096
    file.write_bytes(whole)

    ended = run("backup", str(tmp_path / "backup"))

    assert ended.status == 1
    assert "payment" in ended.err
    assert names(tmp_path / "backup") == set()


def test_a_backup_of_what_was_never_started_says_so(run: Run, tmp_path: Path) -> None:
    ended = run("backup", str(tmp_path / "backup"))

    assert "start the platform once" in ended.err
    assert not (tmp_path / "backup").exists()


def test_databases_on_a_server_are_left_to_the_servers_own_tools(run: Run, tmp_path: Path) -> None:
    ended = run("backup", str(tmp_path / "backup"), AUTH_DATABASE_URL="mysql://user:hush@127.0.0.1/auth")

    assert "mariadb-dump --single-transaction" in ended.err
    assert "hush" not in ended.err


def test_a_restore_to_somewhere_else_than_the_data_folder_is_refused(run: Run, taken: Path, tmp_path: Path) -> None:
    elsewhere = {"AUTH_DATABASE_URL": f"sqlite:///{tmp_path / 'auth'}", "DATA": str(tmp_path / "new")}

    ended = run("restore", str(taken), **elsewhere)

    assert "EWALLET_AUTH_DATABASE_URL" in ended.err
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_no_backup_is_told(run: Run, tmp_path: Path) -> None:
    assert "manifest.json" in run("restore", str(tmp_path)).err


@pytest.mark.parametrize("damage", ["a byte is another", "the end is missing", "the file is missing"])
def test_a_damaged_backup_is_not_restored_by_half(run: Run, taken: Path, tmp_path: Path, damage: str) -> None:
    file = taken / "payment.sqlite3"
    whole = file.read_bytes()
    if damage == "a byte is another":
        file.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    elif damage == "the end is missing":
        file.write_bytes(whole[:-512])
    else:
        file.unlink()

    ended = run("restore", str(taken), DATA=str(tmp_path / "new"))

    assert ended.status == 1
    assert "payment.sqlite3" in ended.err
    assert names(tmp_path / "new") == set()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"auth_0001"', '"auth_9999"', "start the newer version"),
        ('"format": 1', '"format": 2', "cannot be read"),
        ('"auth.sqlite3"', '"../auth.sqlite3"', "no backup of an ewallet"),
        ("{", "", "cannot be read"),
    ],
)
def test_a_manifest_that_cannot_be_ours_is_told(
    *, run: Run, taken: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    manifest = taken / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, new, 1))

    ended = run("restore", str(taken), DATA=str(tmp_path / "new"))

    assert said in ended.err
    assert not (tmp_path / "new").exists()


def test_the_manifest_says_when_and_by_which_program_it_was_taken(taken: Path) -> None:
    manifest = json.loads((taken / "manifest.json").read_text())

    assert manifest["takenAt"].endswith("Z")
    assert {file["name"] for file in manifest["files"]} == COPIES - {"manifest.json"}
    assert manifest["ewallet"]


@pytest.mark.parametrize("command", ["migrate", "verify"])
def test_nothing_starts_on_a_restore_that_was_not_finished(run: Run, data: Path, command: str) -> None:
    """Some services' data would be there and others' would be made anew, empty."""
    (data / "restore.unfinished").touch()

    ended = run(command)

    assert ended.status == 1
    assert "not finished" in ended.err
