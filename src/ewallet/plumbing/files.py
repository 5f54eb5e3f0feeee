"""Files and folders that are still there after a power cut.

What a file holds is safe when the file is synced, but its name is an entry in a folder, and safe when that is synced.
"""

import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a folder that only we may enter, and what is missing above it; nothing where it is there.

    OSError: it cannot be made, or something else has its name.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Return when what a file holds, or the names in a folder, would be there after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
