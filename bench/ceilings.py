"""What a payment could cost at best on this machine, measured: an answer alone, and the batches alone."""

import json
import subprocess
import sys
from pathlib import Path

from bench.load import Load, with_wrk
from bench.people import payment_to
from bench.platform import free_port, running


def echo(folder: Path, *, connections: int, seconds: int) -> Load:
    """A bare ASGI application that answers, behind the same server."""
    port = free_port()
    server = ["-m", "uvicorn", "bench.echo:app", "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
    quiet = ["--no-access-log", "--log-level", "error", "--lifespan", "off"]
    request = payment_to("usr_01jd8x00000000000000000000", token="x" * 400)
    with running([sys.executable, *server, *quiet], {}, port, "/"):
        return with_wrk(f"http://127.0.0.1:{port}", [request], folder, connections=connections, seconds=seconds)


def store(folder: Path, *, customers: int, seconds: int) -> float:
    """The same batches without HTTP, a second."""
    command = [sys.executable, "-m", "bench.store", str(folder / "store"), str(customers), str(seconds)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(finished.stdout)["per_second"])


def limit(echo_per_second: float, store_per_second: float) -> float:
    """Payments per second of a platform that does nothing but answer and store its batches, in one thread."""
    return 1 / (1 / echo_per_second + 1 / store_per_second)
