"""The commands `backup` and `restore`: all of a platform's data in one folder, and back.

A backup holds one SQLite file for each service, all as they were at one moment, the generated secret, and a manifest
with the size and checksum of each, which is written last: a folder without one is no backup. A restored platform is
like one that was switched off at that moment: it finishes by itself what was under way.
"""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from rich.progress import Progress
from sqlalchemy.engine import make_url

from ewallet import __version__
from ewallet.cli.databases import UNFINISHED_RESTORE, quietly
from ewallet.cli.terminal import Stopped, standard_output
from ewallet.kernel.clock import rfc3339, system_clock
from ewallet.plumbing.files import make_folder, sync
from ewallet.plumbing.migrations import SchemaIsNewer, require_known
from ewallet.plumbing.schema import version_table
from ewallet.plumbing.secrets import FILE_NAME as SECRET
from ewallet.plumbing.settings import SERVICES, Settings, variable
from ewallet.plumbing.snapshots import copy, fault_of, snapshots

MANIFEST = "manifest.json"

_DATABASES = {f"{service}.sqlite3" for service in SERVICES}


class File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of a backup; ``schema`` is the version of a database's tables."""

    name: str
    bytes: int
    sha256: str
    schema: str | None = None


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What a backup holds, and which program took it when."""

    format: Literal[1] = 1
    ewallet: str
    taken_at: str
    files: list[File]


# --- backup -------------------------------------------------------------------------------------------------------


def back_up(settings: Settings, folder: Path) -> None:
    """The command `backup`. Stopped: why there is none, and nothing is left in the folder."""
    databases = {service: _file_of(settings, service) for service in SERVICES}
    with _filling(folder, "backup"):
        taken_at = rfc3339(system_clock())  # what happened before is in it
        with quietly(), snapshots(databases.values()) as opened, _progress() as show:
            files = [_copied(opened[databases[service]], service, folder, show) for service in SERVICES]
        files += _copied_secret(settings, folder)
        _write_manifest(folder, Manifest(ewallet=__version__, taken_at=taken_at, files=files))
    _report(settings, folder, files)


def _file_of(settings: Settings, service: str) -> Path:
    """The SQLite file of a service. Stopped: it has none."""
    url = make_url(settings.database_url(service))
    if url.get_backend_name() != "sqlite":
        raise Stopped(
            f"The {service} database is on a server ({variable(f'{service}_database_url')}), which has its own tools: "
            "use mariadb-backup, or mariadb-dump --single-transaction with all databases at once. See the README."
        )
    file = Path(url.database or "")
    if not file.exists():
        raise Stopped(f"There is no {service} database {file}: start the platform once, or correct EWALLET_DATA.")
    return file


Show = Callable[[str, int, int], None]
"""Told which service's copy is how many pages along, of how many."""


def _copied(snapshot: sqlite3.Connection, service: str, folder: Path, show: Show) -> File:
    file = folder / f"{service}.sqlite3"
    file.touch(mode=0o600)
    copy(snapshot, file, lambda done, pages: show(service, done, pages))
    if fault := fault_of(file):
        raise Stopped(f"The {service} database is damaged, and so would its backup be: {fault}.")
    (schema,) = snapshot.execute(f"SELECT version_num FROM {version_table(service)}").fetchone()  # noqa: S608  # a name of ours
    return _described(file, schema)


def _copied_secret(settings: Settings, folder: Path) -> list[File]:
    """The generated secret; a configured one is the operator's to keep."""
    secret = settings.data_folder / SECRET
    if settings.internal_secret or not secret.exists():
        return []
    return [_described(_copy(secret, folder / SECRET))]


def _described(file: Path, schema: str | None = None) -> File:
    """What the manifest says about a file that is complete, and safe from a power cut from now on."""
    sync(file)
    return File(name=file.name, bytes=file.stat().st_size, sha256=_sha256(file), schema=schema)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    """With a name from the moment on at which all else is safe."""
    sync(folder)
    draft = folder / f"{MANIFEST}.draft"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    sync(draft)
    draft.rename(folder / MANIFEST)
    sync(folder)


def _report(settings: Settings, folder: Path, files: list[File]) -> None:
    output = standard_output()
    for file in files:
        output.print(f"{file.name:<21} {file.bytes:>14,} bytes", soft_wrap=True)
    output.print(
        f"Backed up to {folder}, as of one moment. It holds password hashes and the keys that sign tokens: guard it.",
        soft_wrap=True,
        markup=False,
    )
    if settings.internal_secret:
        output.print("EWALLET_INTERNAL_SECRET and your other settings are not in it.", soft_wrap=True)


# --- restore ------------------------------------------------------------------------------------------------------


def restore(settings: Settings, folder: Path) -> None:
    """The command `restore`. Stopped: why not, and the data folder is as empty as it was."""
    manifest = _manifest(folder)
    for service in SERVICES:
        _refuse_other_place(settings, service)
    data = settings.data_folder
    with _filling(data, "restore"):
        (data / UNFINISHED_RESTORE).touch()
        sync(data)
        for file in manifest.files:
            _restore(file, folder, data)
        sync(data)
        (data / UNFINISHED_RESTORE).unlink()
        sync(data)
    standard_output().print(
        f"Restored into {data} what was there at {manifest.taken_at}. Start the platform, then run `ewallet verify`.",
        soft_wrap=True,
        markup=False,
    )


def _manifest(folder: Path) -> Manifest:
    """The manifest of a backup that this program can restore. Stopped: it is none."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise Stopped(f"{folder} is no finished backup: there is no {MANIFEST} in it.") from error
    except (OSError, msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Stopped(f"{folder / MANIFEST} cannot be read: {error}.") from error
    names = {file.name for file in manifest.files}
    if not _DATABASES <= names <= _DATABASES | {SECRET}:
        raise Stopped(f"{folder} is no backup of an ewallet: {MANIFEST} names {', '.join(sorted(names))}.")
    try:
        for file in manifest.files:
            if file.schema is not None:
                require_known(Path(file.name).stem, {file.schema})
    except SchemaIsNewer as error:
        raise Stopped(str(error)) from error
    return manifest


def _refuse_other_place(settings: Settings, service: str) -> None:
    name = f"{service}_database_url"
    if getattr(settings, name):
        raise Stopped(
            f"A backup is restored into the data folder, but {variable(name)} says that the {service} database is "
            "elsewhere: unset it."
        )


def _restore(file: File, folder: Path, data: Path) -> None:
    """Copy one file and look at the copy. Stopped: it is not what was backed up."""
    try:
        restored = _copy(folder / file.name, data / file.name)
    except FileNotFoundError as error:
        raise Stopped(f"The backup is not complete: {file.name} is missing.") from error
    if (restored.stat().st_size, _sha256(restored)) != (file.bytes, file.sha256):
        raise Stopped(f"The backup is damaged: {file.name} is not what was written.")
    sync(restored)


# --- files --------------------------------------------------------------------------------------------------------


@contextmanager
def _filling(folder: Path, what: str) -> Iterator[None]:
    """Fill an empty folder, which is empty again when that fails. Stopped: it is not empty, or it fails."""
    try:
        make_folder(folder)
        if any(folder.iterdir()):
            raise Stopped(f"{folder} is not empty: a {what} goes into an empty folder only.")
        try:
            yield
        except BaseException:
            _empty(folder)
            raise
    except (OSError, sqlite3.Error) as error:
        raise Stopped(f"The {what} failed, and has left nothing in {folder}: {error}.") from error


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _copy(file: Path, to: Path) -> Path:
    """A copy that only we can read."""
    to.touch(mode=0o600)
    shutil.copyfile(file, to)
    return to


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def _progress() -> Iterator[Show]:
    """A bar on a terminal, nothing in a pipe."""
    output = standard_output()
    with Progress(console=output, transient=True, disable=not output.is_terminal) as progress:
        bars = {service: progress.add_task(service, total=None) for service in SERVICES}
        yield lambda service, done, pages: progress.update(bars[service], completed=done, total=pages)
