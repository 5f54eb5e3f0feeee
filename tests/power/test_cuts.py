"""The simulated disk keeps what was synced, and of the rest whatever a real one might."""

import random
from itertools import count
from pathlib import Path, PurePath

import pytest

from tests.power.cuts import SECTOR_BYTES, Change, Disk, Kept

ROOT = Path("/disk")
FILE = ROOT / "file"
OLD, NEW = b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES

_ends = count(1)


def change(kind: str, path: PurePath = FILE, *, other: PurePath = ROOT, at: int = 0, written: bytes = b"") -> Change:
    return Change(kind, path, other, at, memoryview(written), next(_ends))


def disk(*changes: Change) -> Disk:
    made = Disk(ROOT)
    for each in changes:
        made.apply(each)
    return made


def images(made: Disk, *, kept: Kept | None = None) -> set[bytes | None]:
    """What the file holds after many cuts; None where it is not there."""
    return {made.after_cut(random.Random(seed), kept=kept).get(PurePath("file")) for seed in range(200)}


SYNCED = (change("C"), change("S", ROOT), change("W", written=OLD * 2), change("S"))


def test_what_was_synced_is_there() -> None:
    assert images(disk(*SYNCED)) == {OLD * 2}


def test_what_was_written_since_is_there_or_not_sector_by_sector() -> None:
    rewritten = disk(*SYNCED, change("W", written=NEW * 2))

    assert images(rewritten) == {OLD * 2, NEW * 2, OLD + NEW, NEW + OLD}
    assert images(rewritten, kept=Kept.NOTHING) == {OLD * 2}
    assert images(rewritten, kept=Kept.BEGINNING) == {OLD * 2, NEW * 2}


def test_a_later_write_may_arrive_without_an_earlier_one() -> None:
    reordered = disk(*SYNCED, change("W", written=NEW), change("W", at=SECTOR_BYTES, written=NEW))

    assert OLD + NEW in images(reordered)


def test_a_sector_is_old_or_new_and_no_mixture() -> None:
    twice = disk(*SYNCED, change("W", written=b"1"), change("W", at=1, written=b"2"))

    assert {image[:2] for image in images(twice) if image} == {b"oo", b"1o", b"12"}


def test_what_a_lost_write_would_have_filled_is_zero() -> None:
    hole = disk(change("C"), change("S", ROOT), change("W", written=NEW), change("W", at=SECTOR_BYTES, written=NEW))

    assert bytes(SECTOR_BYTES) + NEW in images(hole)


def test_a_file_that_was_cut_off_may_still_be_long() -> None:
    assert images(disk(*SYNCED, change("T", at=3))) == {OLD * 2, b"ooo"}


@pytest.mark.parametrize("synced", [True, False])
def test_a_name_is_sure_when_its_folder_was_synced(*, synced: bool) -> None:
    made = disk(change("C"), change("S"), *([change("S", ROOT)] if synced else []))

    assert (None in images(made)) is not synced


def test_names_come_and_go_in_their_order() -> None:
    other = ROOT / "other"
    renamed = disk(*SYNCED, change("R", other=other), change("C"))

    listings = {frozenset(map(str, renamed.after_cut(random.Random(seed)))) for seed in range(50)}

    assert listings == {frozenset({"file"}), frozenset({"other"}), frozenset({"file", "other"})}


def test_what_is_in_a_folder_is_lost_with_it() -> None:
    folder = ROOT / "folder"
    made = disk(change("M", folder), change("C", folder / "file"), change("S", folder))

    assert {frozenset(map(str, made.after_cut(random.Random(seed)))) for seed in range(50)} == {
        frozenset(),
        frozenset({"folder", "folder/file"}),
    }
