"""The platform is stopped, killed and started again; nothing that was acknowledged is lost, nothing stays half done."""

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.conftest import Backend
from tests.support.platform import START_SECONDS, People, Process, User, Way, payment, platform, wait_until

MAXIMUM_RECOVERY_SECONDS = 10
MAXIMUM_NOTIFICATION_SECONDS = 3  # well below the five of a relay's lease
PAYERS = 8
PAYMENTS_BEFORE_THE_KILL = 40

FreshDatabases = Callable[[Backend], dict[str, str]]


def test_ctrl_c_stops_cleanly_and_a_second_start_finds_the_data_within_three_seconds(
    fresh_databases: FreshDatabases, tmp_path: Path, http: httpx2.Client
) -> None:
    with platform("together", fresh_databases("sqlite"), tmp_path) as running:
        running.start()
        people = People(running.address, http)
        customer, merchant = people.customer(with_amount=50_00), people.merchant()
        receipt = customer.answer("POST", "/payment/initiate", payment(merchant, 10_00))
        running.stop()

        running.start()
        (process,) = running.processes.values()
        seconds = process.processor_seconds

        assert customer.answer("GET", f"/payment/{receipt['transactionId']}") == receipt
        assert people.log_in(customer.user_id, customer.email, customer.password).available() == 40_00
        assert seconds < 3, f"the second start took {seconds:.1f} s of a processor"
        running.stop()


def test_after_a_restart_people_are_notified_as_promptly_as_before(
    fresh_databases: FreshDatabases, tmp_path: Path, http: httpx2.Client
) -> None:
    with platform("together", fresh_databases("sqlite"), tmp_path) as running:
        running.start()
        people = People(running.address, http)
        customer, merchant = people.customer(with_amount=50_00), people.merchant()
        customer.answer("POST", "/payment/initiate", payment(merchant, 10_00))
        merchant.notified_of("payment.succeeded")
        running.stop()
        running.start()

        customer.answer("POST", "/payment/initiate", payment(merchant, 10_00))

        wait_until(
            lambda: len(merchant.inbox()) == 2, MAXIMUM_NOTIFICATION_SECONDS, "the merchant was not told in time"
        )


def test_a_service_managers_sigterm_stops_as_cleanly_as_ctrl_c(fresh_databases: FreshDatabases, tmp_path: Path) -> None:
    with platform("together", fresh_databases("sqlite"), tmp_path, EWALLET_DRAIN_SECONDS="0") as running:
        running.start()
        running.stop(signal.SIGTERM)


def test_an_open_stream_does_not_hold_up_the_stop(
    fresh_databases: FreshDatabases, tmp_path: Path, http: httpx2.Client
) -> None:
    with platform("together", fresh_databases("sqlite"), tmp_path) as running:
        running.start()
        user = People(running.address, http).customer()
        headers = {"Authorization": f"Bearer {user.token}"}
        with http.stream("GET", f"{running.address}/notification/stream", headers=headers) as stream:
            assert stream.status_code == 200
            started = time.monotonic()
            running.stop()
        assert time.monotonic() - started < 4


def test_a_second_platform_on_the_same_port_says_so_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, platform("together", {}, tmp_path) as running:
        port = str(other.getsockname()[1])
        refused = running.run("up", EWALLET_PORT=port)

    assert refused.returncode == 1
    assert f"Port {port}" in refused.stderr
    assert "EWALLET_PORT" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_of_two_platforms_started_at_once_on_one_port_one_runs_and_one_says_why_not(tmp_path: Path) -> None:
    with platform("together", {}, tmp_path) as running:
        first = running.processes["ewallet"]
        second = Process(first.command, first.environment, tmp_path / "second.log")
        both = [first, second]
        try:
            for process in both:
                process.start()
            wait_until(lambda: not all(process.running for process in both), START_SECONDS, "both run")
            (refused,) = (process for process in both if not process.running)
            (serving,) = (process for process in both if process is not refused)
            wait_until(lambda: "/docs" in serving.log.read_text(), START_SECONDS, serving.log.read_text)
            said = refused.log.read_text()
        finally:
            second.kill()

    assert refused.exit_status() == 1
    assert "is in use" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("way", "backend", "victim"),
    [
        ("together", "sqlite", "ewallet"),
        ("apart", "mariadb", "wallet"),
    ],
)
def test_after_a_kill_under_load_every_payment_ends_and_the_books_balance(
    *, way: Way, backend: Backend, victim: str, fresh_databases: FreshDatabases, tmp_path: Path, http: httpx2.Client
) -> None:
    with platform(way, fresh_databases(backend), tmp_path) as running:
        running.start()
        people = People(running.address, http)
        merchant, payers = people.merchant(), [people.customer(with_amount=1_000_00) for _ in range(PAYERS)]
        load = Load(payers, merchant)
        wait_until(lambda: load.acknowledged.total() >= PAYMENTS_BEFORE_THE_KILL, 30, "no payment came through")

        running.processes[victim].kill()
        load.stop()
        running.restart(victim)

        wait_until(lambda: not _unfinished(people.admin()), MAXIMUM_RECOVERY_SECONDS, "payments are still PENDING")
        for payer in payers:
            _accounts_for(payer, load.acknowledged[payer.user_id])
        verified = running.run("verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        running.stop()


def _unfinished(admin: User) -> list[object]:
    items: list[object] = admin.answer("GET", "/payment?status=PENDING")["items"]
    return items


def _accounts_for(payer: User, acknowledged: int) -> None:
    """Every acknowledged payment is there as SUCCESS, and the balance is what the successful ones leave."""
    statuses = Counter(item["status"] for item in payer.answer("GET", "/payment?limit=100")["items"])
    assert set(statuses) <= {"SUCCESS", "FAILED"}
    assert statuses["SUCCESS"] >= acknowledged
    assert payer.available() == 1_000_00 - 1_00 * statuses["SUCCESS"]


class Load:
    """Customers who pay 1.00 again and again, each in a thread, until stopped; counts what was acknowledged."""

    def __init__(self, payers: list[User], merchant: User) -> None:
        self.acknowledged: Counter[str] = Counter()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._pay, args=(payer, merchant)) for payer in payers]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _pay(self, payer: User, merchant: User) -> None:
        body, headers = payment(merchant, 1_00), {"Authorization": f"Bearer {payer.token}"}
        with httpx2.Client(base_url=payer.address, timeout=5, trust_env=False) as http:
            while not self._stopped.is_set():
                try:
                    response = http.post("/payment/initiate", json=body, headers=headers)
                except httpx2.HTTPError:
                    continue
                if response.status_code == 201:
                    self.acknowledged[payer.user_id] += 1


def test_a_platform_that_was_never_stopped_cleanly_starts_again(
    fresh_databases: FreshDatabases, tmp_path: Path, http: httpx2.Client
) -> None:
    with platform("together", fresh_databases("sqlite"), tmp_path) as running:
        for _ in range(3):
            running.start()
            People(running.address, http).customer(with_amount=1_00)
            running.kill()
        assert running.run("verify").returncode == 0
