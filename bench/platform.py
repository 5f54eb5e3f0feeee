"""The product as a process of its own, on a private data folder and a free port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

ADMIN_EMAIL = "bench@example.test"
ADMIN_PASSWORD = "bench-only-password"
START_SECONDS = 30

SETTINGS = {
    "EWALLET_BCRYPT_COST": "4",
    "EWALLET_RATE_PER_USER": "0",
    "EWALLET_RATE_PER_ADDRESS": "0",
    "EWALLET_ACCESS_TOKEN_SECONDS": "3600",
    "EWALLET_ADMIN_EMAIL": ADMIN_EMAIL,
    "EWALLET_ADMIN_PASSWORD": ADMIN_PASSWORD,
}
"""Cheap passwords, no limits on rates, and an administrator."""


@contextmanager
def running(arguments: list[str], environment: dict[str, str], port: int, ready_path: str) -> Iterator[int]:
    """Run a server until the block ends; yields its process id."""
    process = subprocess.Popen(
        arguments, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}{ready_path}")
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


@contextmanager
def platform(data: Path, port: int, environment: dict[str, str], *, under: Sequence[str] = ()) -> Iterator[int]:
    """``ewallet up`` with our settings, perhaps ``under`` another program; yields its process id."""
    settings = {"EWALLET_DATA": str(data), "EWALLET_PORT": str(port), **SETTINGS, **environment}
    with running([*under, ewallet(), "up"], settings, port, "/health/ready") as process_id:
        yield process_id


def ewallet() -> str:
    """The program that stands beside this interpreter."""
    return str(Path(sys.executable).parent / "ewallet")


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def resident_megabytes(process_id: int) -> float:
    """The resident memory of a process (``VmRSS``), in MiB."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def processor_seconds(process_id: int) -> float:
    """Processor time that a process has used so far, in user and system mode."""
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with status {process.returncode} before it was ready")
        try:
            if httpx2.get(url, timeout=1, trust_env=False).is_success:
                return
        except httpx2.HTTPError:
            time.sleep(0.05)
    raise SystemExit(f"{url} was not ready within {START_SECONDS} seconds")
