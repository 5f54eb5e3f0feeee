"""A folder of a real process whose changes are written down, and whose disk can be made to fail: see disk.c."""

import errno
import mmap
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "disk.c"
FAULTS = struct.Struct("=ii")

NO_SPACE, READ_ONLY, BROKEN = errno.ENOSPC, errno.EROFS, errno.EIO


class CompilerMissingError(RuntimeError):
    """These tests need Debian's `gcc` and `libc6-dev`; a run without them fails rather than skips."""


def build(folder: Path) -> Path:
    """Compile the library into a folder; its file."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise CompilerMissingError("`gcc` not found: install it with `sudo apt-get install gcc libc6-dev`")
    library = folder / "disk.so"
    options = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-builtin")
    subprocess.run([compiler, *options, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Disk:
    """The disk of one process, in a folder of its own; ``data`` is where the process should keep its data."""

    library: Path
    folder: Path

    def __post_init__(self) -> None:
        self.root.mkdir()
        self._faults.write_bytes(FAULTS.pack(0, 0))

    @property
    def root(self) -> Path:
        """All that is recorded is in here."""
        return self.folder / "disk"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def log(self) -> Path:
        return self.folder / "disk.log"

    @property
    def _faults(self) -> Path:
        return self.folder / "disk.faults"

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be started with."""
        return {
            "LD_PRELOAD": str(self.library),
            "DISK_FOLDER": str(self.root),
            "DISK_LOG": str(self.log),
            "DISK_FAULTS": str(self._faults),
            "EWALLET_DATA": str(self.data),
        }

    def fail(self, *, writes: int = 0, syncs: int = 0) -> None:
        """Let writes and syncs fail with these errors from now on; with none, everything works again."""
        with self._faults.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            FAULTS.pack_into(memory, 0, writes, syncs)
