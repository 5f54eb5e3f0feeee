"""What a disk may hold after a power cut, made from the log of everything that was done to it (see disk.c).

Sure is only what was synced: what a file holds when the file is, names when their folder is. Of everything later a disk
keeps what it likes: nothing, all, the beginning, or each sector of 512 bytes as it was at any moment since the last
sync, so writes are lost, torn and reordered. A sector is old or new, never a mixture: that much SQLite relies on
(sqlite.org/psow.html). Names come and go in their order, as the journals of file systems keep it.
"""

import random
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from pathlib import Path, PurePath
from typing import TypeAlias

SECTOR_BYTES = 512
HEAD = struct.Struct("=IIIIQQ")


@dataclass(frozen=True, slots=True)
class Change:
    """One record of the log; ``end`` is how long the log was with it. The fields are those of disk.c."""

    kind: str
    path: PurePath
    other: PurePath
    offset: int
    written: memoryview
    end: int


def changes(log: Path) -> Iterator[Change]:
    """The records of a log, in order; one that is being written at its end is left out."""
    whole, start = memoryview(log.read_bytes()), 0
    while start + HEAD.size <= len(whole):
        kind, path_length, other_length, _, offset, length = HEAD.unpack_from(whole, start)
        path_start = start + HEAD.size
        other_start = path_start + path_length
        bytes_start = other_start + other_length
        end = bytes_start + (length if chr(kind) == "W" else 0)
        if end > len(whole):
            return
        path, other = bytes(whole[path_start:other_start]), bytes(whole[other_start:bytes_start])
        yield Change(chr(kind), PurePath(path.decode()), PurePath(other.decode()), offset, whole[bytes_start:end], end)
        start = end


AgeOf: TypeAlias = Callable[[int], int]
"""As it was after how many of its file's changes since the last sync a sector, by its number, is found."""

LENGTH = -1
"""In place of a sector's number: the length of a file that was cut off."""


class Kept(Enum):
    """What a disk keeps of a file's writes since its last sync."""

    NOTHING = auto()
    EVERYTHING = auto()
    BEGINNING = auto()
    ANY_SECTORS = auto()


@dataclass(slots=True)
class File:
    """What is synced, and the changes since."""

    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.unsynced:
            if change.kind == "T":
                _resize(self.synced, change.offset)
            else:
                _put(self.synced, change.offset, change.written)
        self.unsynced = []

    def after_cut(self, chance: random.Random, kept: Kept) -> bytes:
        count = len(self.unsynced)
        match kept:
            case Kept.NOTHING:
                return bytes(self.synced)
            case Kept.EVERYTHING:
                return self._aged(lambda _sector: count)
            case Kept.BEGINNING:
                last = chance.randint(0, count)
                return self._aged(lambda _sector: last)
            case Kept.ANY_SECTORS:
                return self._aged(cache(lambda _sector: chance.randint(0, count)))

    def _aged(self, age_of: AgeOf) -> bytes:
        """What is found where every sector has its own age."""
        found = bytearray(self.synced)
        for number, change in enumerate(self.unsynced):
            if change.kind == "T":
                if number < age_of(LENGTH):
                    _resize(found, change.offset)
            else:
                for sector, start, piece in _pieces(change):
                    if number < age_of(sector):
                        _put(found, start, piece)
        return bytes(found)


Names: TypeAlias = dict[PurePath, File | None]
"""Files by their paths; None is a folder."""


class Disk:
    """The disk while its log is read: the names that processes see, and those that would be there after a cut."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: Names = {root: None}
        self._sure: Names = {root: None}
        self._unsure: list[tuple[Change, File | None]] = []

    def apply(self, change: Change) -> None:
        """The next change; one of a file that has lost its name is nobody's business."""
        if change.kind in "WTS" and change.path not in self._seen:
            return
        if change.kind in "WT":
            self._file(change.path).unsynced.append(change)
        elif change.kind == "S":
            self._sync(change.path)
        else:
            new = {"C": File(), "M": None}
            item = new[change.kind] if change.kind in new else self._seen[change.path]
            self._unsure.append((change, item))
            _rename(self._seen, change, item)

    def after_cut(self, chance: random.Random, *, kept: Kept | None = None) -> dict[PurePath, bytes | None]:
        """What is in the root when the power is back: files, and folders (None), by their path.

        For every file chance decides what is kept, where that is not given; with EVERYTHING that goes for names, too.
        """
        count = len(self._unsure) if kept is Kept.EVERYTHING else chance.randint(0, len(self._unsure))
        names = dict(self._sure)
        for change, item in self._unsure[:count]:
            _rename(names, change, item)
        return {
            path.relative_to(self._root): item.after_cut(chance, kept or chance.choice(list(Kept))) if item else None
            for path, item in sorted(names.items())
            if path != self._root and path.parent in names
        }

    def _file(self, path: PurePath) -> File:
        file = self._seen[path]
        assert file is not None, f"{path} is a folder"
        return file

    def _sync(self, path: PurePath) -> None:
        if self._seen[path] is not None:
            self._file(path).sync()
            return
        for change, item in self._unsure:
            if change.path.parent == path:
                _rename(self._sure, change, item)
        self._unsure = [(change, item) for change, item in self._unsure if change.path.parent != path]


def _rename(names: Names, change: Change, item: File | None) -> None:
    """Give or take a name; both names of a rename or link are in one folder."""
    if change.kind in "UR":
        names.pop(change.path, None)
    if change.kind in "RL":
        names[change.other] = item
    if change.kind in "CM":
        names[change.path] = item


def _pieces(change: Change) -> Iterator[tuple[int, int, memoryview]]:
    """What was written, cut at the borders of sectors: each piece with its sector and its place in the file."""
    start, end = change.offset, change.offset + len(change.written)
    while start < end:
        sector = start // SECTOR_BYTES
        stop = min(end, (sector + 1) * SECTOR_BYTES)
        yield sector, start, change.written[start - change.offset : stop - change.offset]
        start = stop


def _put(content: bytearray, start: int, piece: memoryview) -> None:
    """Write, over zeros where that is behind the end."""
    _resize(content, max(len(content), start))
    content[start : start + len(piece)] = piece


def _resize(content: bytearray, length: int) -> None:
    """Cut off, or fill up with zeros."""
    del content[length:]
    content.extend(bytes(length - len(content)))


def write(image: Mapping[PurePath, bytes | None], folder: Path) -> None:
    """Put an image into an empty folder."""
    for path, content in image.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
