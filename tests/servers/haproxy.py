"""A real HAProxy with the configuration that the product writes, on a port of its own."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ewallet.gateway.haproxy import Surroundings, configuration
from ewallet.plumbing.settings import Settings
from tests.support.platform import Platform
from tests.support.ports import free_port

START_TIMEOUT_SECONDS = 30  # it takes a tenth of one; a busy machine may take many


class HAProxyMissingError(RuntimeError):
    """The tests need Debian's `haproxy`; a run without it fails rather than skips."""


def program() -> str:
    """Return HAProxy's path; it lives in sbin, which is not on an ordinary user's path."""
    path = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise HAProxyMissingError("`haproxy` not found: install it with `sudo apt-get install haproxy`")
    return path


def written(
    folder: Path, settings: Settings, servers: Mapping[str, Sequence[str]], keys: Mapping[str, EllipticCurvePublicKey]
) -> Path:
    """Write a configuration with its keys into `folder`; the file's path."""
    files = {key_id: folder / f"{key_id}.pem" for key_id in keys}
    for key_id, key in keys.items():
        files[key_id].write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    file = folder / "haproxy.cfg"
    file.write_text(configuration(settings, Surroundings(servers, files)))
    return file


@contextmanager
def running_haproxy(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start HAProxy in the foreground; stop it at the end.

    As a service manager does: a master, which takes signals, and a worker.

    Raises:
        HAProxyMissingError: Debian's `haproxy` is not installed.
        RuntimeError: it did not start; the message carries its log.
    """
    log = file.with_suffix(".log")
    with log.open("ab") as output:
        process = subprocess.Popen([program(), "-W", "-f", file], stdout=output, stderr=output)
    try:
        _wait_until_started(process, log)
        yield process
    finally:
        process.terminate()  # at once, and the worker with it
        process.wait()


@contextmanager
def behind_haproxy(platform: Platform, folder: Path) -> Iterator[Platform]:
    """A running platform as it is reached through HAProxy, with the configuration that it prints itself."""
    file, reached = configured(platform, folder)
    with running_haproxy(file):
        yield reached


def configured(platform: Platform, folder: Path) -> tuple[Path, Platform]:
    """The file of that configuration, and the platform as it is reached when HAProxy runs with it."""
    port = {"EWALLET_PORT": str(free_port()), "EWALLET_TRUSTED_PROXIES": ""}
    printed = platform.run("haproxy-config", "--pages", platform.address, "--keys", str(folder / "keys"), **port)
    assert printed.returncode == 0, printed.stderr
    file = folder / "haproxy.cfg"
    file.write_text(printed.stdout)
    address = f"http://127.0.0.1:{port['EWALLET_PORT']}"
    return file, replace(platform, address=address, environment={**platform.environment, **port})


def reload(process: subprocess.Popen[bytes], file: Path) -> None:
    """Have a new worker take over from the old one, and wait until it has."""
    log = file.with_suffix(".log")
    before = log.read_text().count("Loading success")
    process.send_signal(signal.SIGUSR2)
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while log.read_text().count("Loading success") == before:
        if time.monotonic() > deadline:
            raise RuntimeError(f"HAProxy did not reload:\n{log.read_text()}")
        time.sleep(0.01)


def _wait_until_started(process: subprocess.Popen[bytes], log: Path) -> None:
    """The worker listens, and the master takes signals: those that came before it does are lost."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while "Loading success" not in log.read_text() or not _takes_reloads(process):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"HAProxy did not start:\n{log.read_text()}")
        time.sleep(0.01)


def _takes_reloads(process: subprocess.Popen[bytes]) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGUSR2 - 1) & 1)
