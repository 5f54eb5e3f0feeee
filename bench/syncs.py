"""How often the platform asks the disk to keep what it wrote."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.platform import free_port, platform

CALLS = "fsync,fdatasync,msync,sync_file_range"


@contextmanager
def synced(folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """A platform under strace, which writes down those calls only: its address, and the number of calls so far."""
    trace, port = folder / "trace", free_port()
    strace = ("strace", "--follow-forks", "--seccomp-bpf", f"--trace={CALLS}", f"--output={trace}", "-qqq")
    with platform(folder / "synced", port, {}, under=strace) as strace_id:
        try:
            yield f"http://127.0.0.1:{port}", lambda: trace.read_bytes().count(b" = 0\n")
        finally:
            os.kill(_child_of(strace_id), signal.SIGINT)


def _child_of(process_id: int) -> int:
    """The one program that a tracer has started."""
    return int(Path(f"/proc/{process_id}/task/{process_id}/children").read_text(encoding="ascii").split()[0])
