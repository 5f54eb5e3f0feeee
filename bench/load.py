"""Load: one client in sequence, and wrk with many connections."""

import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx2

LUA = Path(__file__).with_name("payments.lua")


class Latency(NamedTuple):
    """Milliseconds."""

    p50: float
    p90: float
    p99: float
    maximum: float


class Load(NamedTuple):
    """What a run under load gave."""

    requests: int
    per_second: float
    latency: Latency


def in_sequence(base_url: str, pair: tuple[str, str], *, payments: int) -> Latency:
    """One client pays again and again over one connection."""
    token, merchant = pair
    body = {"merchantId": merchant, "amount": 1250, "currency": "USD", "reference": "bench"}
    milliseconds = []
    with httpx2.Client(base_url=base_url, headers={"Authorization": f"Bearer {token}"}, trust_env=False) as client:
        for _ in range(payments):
            started = time.perf_counter()
            response = client.post("/payment/initiate", json=body)
            milliseconds.append((time.perf_counter() - started) * 1000)
            response.raise_for_status()
    cuts = statistics.quantiles(milliseconds, n=100)
    return Latency(cuts[49], cuts[89], cuts[98], max(milliseconds))


def with_wrk(base_url: str, pairs: Sequence[tuple[str, str]], folder: Path, *, connections: int, seconds: int) -> Load:
    """``connections`` clients at once; refuses a run in which any request was not answered with success."""
    requests = folder / "requests.txt"
    requests.write_text("".join(f"{token} {merchant}\n" for token, merchant in pairs), encoding="ascii")
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s", "-s", str(LUA)]
    finished = subprocess.run([*command, base_url, "--", str(requests)], capture_output=True, text=True, check=True)
    line = next(line for line in finished.stdout.splitlines() if line.startswith("RESULT "))
    result = json.loads(line.removeprefix("RESULT "))
    if result["bad"]:
        raise SystemExit(f"{result['bad']} of {result['requests']} requests failed: this run counts for nothing")
    latency = Latency(*(result[name] / 1000 for name in ("p50", "p90", "p99", "max")))
    return Load(result["requests"], result["requests"] * 1_000_000 / result["microseconds"], latency)
