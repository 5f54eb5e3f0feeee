"""What is made in a folder is there after a power cut, too; tests/power shows that with real processes."""

import os
from pathlib import Path

import pytest

from ewallet.plumbing.files import make_folder, sync


def test_a_folder_is_made_with_all_above_it_for_us_alone(tmp_path: Path) -> None:
    make_folder(tmp_path / "outer" / "inner")

    assert [oct(folder.stat().st_mode)[-3:] for folder in (tmp_path / "outer", tmp_path / "outer/inner")] == ["700"] * 2


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    make_folder(tmp_path)

    assert oct(tmp_path.stat().st_mode)[-3:] == "755"


def test_a_file_in_the_place_of_a_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(FileExistsError, match=str(file)):
        make_folder(file)


def test_each_new_folder_is_written_down_in_the_one_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))

    make_folder(tmp_path / "outer" / "inner")
    sync(tmp_path / "outer")

    assert synced == [tmp_path, tmp_path / "outer", tmp_path / "outer"]
