"""`ewallet serve SERVICE --workers N`: several processes on one port, and the one that looks after them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.cli.conftest import Run
from tests.support.platform import PRODUCT, START_SECONDS, Process, clean_environment, run_command, wait_until
from tests.support.ports import free_port, neighbouring_ports

SERVICES = ("auth", "wallet", "payment", "notification")
NOBODY = "http://127.0.0.1:9"  # the discard port


def settings(folder: Path, **more: str) -> dict[str, str]:
    """A gateway of which only its own pages work, which is all that these tests need."""
    urls = {f"EWALLET_{service.upper()}_URL": NOBODY for service in SERVICES}
    return clean_environment(EWALLET_DATA=str(folder), EWALLET_PORT=str(free_port()), **urls, **more)


ANSWERED = r'ewallet_requests_total{method="GET",route="/problems/{slug}",service="gateway",status="200"} (\S+)'


def metrics_at(port: int) -> str:
    """A page of metrics, if there is one."""
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    except httpx2.ConnectError:
        return ""


class Gateway:
    """A gateway with two workers."""

    def __init__(self, folder: Path, *, launcher: Sequence[str] = PRODUCT, **more: str) -> None:
        environment = settings(folder, EWALLET_DRAIN_SECONDS="1", **more)
        self.address = f"http://127.0.0.1:{environment['EWALLET_PORT']}"
        self.process = Process(("serve", "gateway", "--workers", "2"), environment, folder / "log", launcher)
        self.process.start()
        wait_until(lambda: len(self.workers) == 2, START_SECONDS, self.process.log.read_text)

    @property
    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.id}/task/{self.process.id}/children").read_text()
        return {int(process_id) for process_id in children.split()}

    def live(self) -> httpx2.Response:
        return httpx2.get(f"{self.address}/health/live", trust_env=False)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.process.kill()


def gone(process_id: int) -> bool:
    return not Path(f"/proc/{process_id}").exists()


def test_a_worker_that_is_killed_is_replaced_and_the_port_answers_all_the_while(gateway: Gateway) -> None:
    before = gateway.workers
    os.kill(min(before), signal.SIGKILL)

    assert gateway.live().is_success
    wait_until(lambda: len(gateway.workers - before) == 1, START_SECONDS, gateway.process.log.read_text)
    assert "worker.replaced" in gateway.process.log.read_text()


def test_the_end_of_a_child_that_is_no_worker_harms_nobody(tmp_path: Path) -> None:
    """What a script has started before it became us is our child; so are all orphans of a container."""
    gateway = Gateway(tmp_path, launcher=("sh", "-c", 'true & exec "$@"', "sh", *PRODUCT))
    try:
        assert gateway.live().is_success
        gateway.process.signal(signal.SIGTERM)
        assert gateway.process.exit_status() == 0, gateway.process.log.read_text()
    finally:
        gateway.process.kill()


def test_a_first_worker_that_is_killed_before_it_serves_is_an_error() -> None:
    """Whoever started us finds out; the others would not have been started either."""
    killed = (
        "import os, signal; from ewallet.cli.workers import Workers; "
        "Workers(lambda *_: os.kill(os.getpid(), signal.SIGKILL), announce=lambda: print('started')).run(3)"
    )
    ended = subprocess.run([sys.executable, "-c", killed], capture_output=True, text=True, timeout=30, check=False)

    assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr


def test_what_the_workers_count_adds_up(tmp_path: Path) -> None:
    """Each shows its own metrics, and what they have answered together is what was asked."""
    ports = neighbouring_ports()
    gateway = Gateway(tmp_path, EWALLET_METRICS_PORT=str(ports[0]))
    try:
        for _ in range(40):
            httpx2.get(f"{gateway.address}/problems/timeout", trust_env=False).raise_for_status()

        pages = [wait_until(partial(metrics_at, port), START_SECONDS, "no metrics") for port in ports]
        assert sum(float(number) for page in pages for number in re.findall(ANSWERED, page)) == 40
    finally:
        gateway.process.kill()


def test_workers_do_not_outlive_a_killed_parent(gateway: Gateway) -> None:
    workers = gateway.workers
    gateway.process.kill()

    wait_until(lambda: all(map(gone, workers)), 20, f"{workers} live on")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_of_them_and_none_is_left(gateway: Gateway, number: signal.Signals) -> None:
    workers = gateway.workers
    gateway.process.signal(number)

    assert gateway.process.exit_status() == 0, gateway.process.log.read_text()
    assert all(map(gone, workers))
    assert "Traceback" not in gateway.process.log.read_text()


def test_after_sigterm_it_answers_on_closes_each_connection_and_is_not_ready(gateway: Gateway) -> None:
    with httpx2.Client(base_url=gateway.address, trust_env=False) as client:
        assert "connection" not in client.get("/health/live").headers
        gateway.process.signal(signal.SIGTERM)
        wait_until(lambda: gateway.live().headers.get("connection") == "close", 1, "it goes on as before")

        assert client.get("/health/live").is_success
        assert client.get("/health/ready").status_code == 503
    assert gateway.process.exit_status() == 0


def test_who_presses_ctrl_c_does_not_wait_for_proxies(tmp_path: Path) -> None:
    environment = settings(tmp_path, EWALLET_DRAIN_SECONDS="60")
    process = Process(("serve", "gateway"), environment, tmp_path / "log")
    process.start()
    try:
        wait_until(lambda: "is running" in process.log.read_text(), START_SECONDS, process.log.read_text)
        address = f"http://127.0.0.1:{environment['EWALLET_PORT']}/health/live"
        process.signal(signal.SIGTERM)
        wait_until(lambda: "connection" in httpx2.get(address, trust_env=False).headers, 5, "it goes on as before")
        process.signal(signal.SIGINT)
        assert process.exit_status() == 0
    finally:
        process.kill()


def test_what_is_wrong_with_all_workers_is_said_once(tmp_path: Path) -> None:
    environment = settings(tmp_path)
    del environment["EWALLET_WALLET_URL"]

    ended = run_command("serve", "gateway", "--workers", "3", environment=environment)

    assert ended.returncode == 2
    assert "EWALLET_WALLET_URL" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_sqlite_file_is_not_for_several_workers(run: Run) -> None:
    ended = run("serve", "wallet", "--workers", "2")

    assert ended.status == 1
    assert "EWALLET_WALLET_DATABASE_URL" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_second_process_on_the_same_sqlite_files_is_refused(tmp_path: Path) -> None:
    """Each would believe to be the only writer. The first one's death frees them, however it came."""
    environment = settings(tmp_path)
    first = Process(("up",), environment, tmp_path / "log")
    first.start()
    try:
        wait_until(lambda: "is running" in first.log.read_text(), START_SECONDS, first.log.read_text)
        second = run_command("serve", "wallet", environment={**environment, "EWALLET_PORT": str(free_port())})
        verified = run_command("verify", environment=environment)
    finally:
        first.kill()

    assert second.returncode == 1
    assert "Another process serves wallet" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert verified.returncode == 0
    again = Process(("up",), environment, tmp_path / "again")
    again.start()
    try:
        wait_until(lambda: "is running" in again.log.read_text(), START_SECONDS, again.log.read_text)
    finally:
        again.kill()
