"""A process that is stopped in the middle of its work, past its lease, and goes on as if nothing had happened."""

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from tests.conftest import Backend
from tests.support.platform import People, Process, User, payment, platform, wait_until
from tests.support.ports import free_port

RECOVERED_WITHIN_SECONDS = 20  # a lease of five, a start and a round, on a busy machine


def test_a_process_stopped_past_its_lease_does_no_harm_when_it_goes_on(
    fresh_databases: Callable[[Backend], dict[str, str]], tmp_path: Path, http: httpx2.Client
) -> None:
    """Another process has finished its payment and its refund meanwhile: what it does late finds everything done."""
    with platform("apart", fresh_databases("mariadb"), tmp_path) as running:
        running.start()
        people = People(running.address, http)
        customer, merchant = people.customer(with_amount=50_00), people.merchant()
        people.credit(merchant, 50_00)
        paid = customer.answer("POST", "/payment/initiate", payment(merchant, 10_00))
        refund_path = f"/payment/{paid['transactionId']}/refund"
        wallet, first = running.processes["wallet"], running.processes["payment"]

        wallet.signal(signal.SIGSTOP)
        asked = [
            Asking(customer, "/payment/initiate", payment(merchant, 10_00)),
            Asking(merchant, refund_path, {"amount": 10_00}),
        ]
        wait_until(lambda: _pending(customer, f"{refund_path}s") == [1, 1], 10, "the intents were not stored")
        first.signal(signal.SIGSTOP)
        wallet.signal(signal.SIGCONT)
        second, address = _another(first, tmp_path)
        elsewhere = replace(customer, address=address)
        try:
            wait_until(
                lambda: _is_ready(address) and _pending(elsewhere, f"{refund_path}s") == [0, 0],
                RECOVERED_WITHIN_SECONDS,
                lambda: f"nobody finished them\n{second.log.read_text()}",
            )
        finally:
            second.kill()
        first.signal(signal.SIGCONT)
        answers = [asking.answer_in_the_end() for asking in asked]

        assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(201, "SUCCESS")] * 2
        assert (customer.available(), merchant.available()) == (40_00, 59_60)
        assert len(customer.answer("GET", "/payment")["items"]) == 2
        wait_until(lambda: len(customer.inbox()) == 4, 10, "the customer was not told of everything")
        told = sorted(item["event"] for item in customer.inbox())
        assert told == ["payment.refunded", "payment.succeeded", "payment.succeeded", "wallet.credited"]
        assert running.run("verify").returncode == 0
        running.stop()


class Asking:
    """A request that is under way in a thread of its own."""

    def __init__(self, user: User, path: str, body: Any) -> None:
        self._user, self._path, self._body = user, path, body
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def answer_in_the_end(self) -> httpx2.Response:
        """What the same request is answered that is sent again, until it is no longer under way."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        [answer] = wait_until(self._final, 10, "it is in progress for ever")
        return answer

    def _send(self) -> httpx2.Response:
        # Whether the gateway still waits when the process goes on is chance, so this answer does not matter.
        return self._user.post(self._path, self._body, Idempotency_Key="the-one")

    def _final(self) -> list[httpx2.Response]:
        answer = self._send()
        return [] if answer.status_code in (409, 504) else [answer]


def _pending(user: User, refunds: str) -> list[int]:
    """How many payments and how many refunds wait for their outcome."""
    lists = [user.answer("GET", path)["items"] for path in ("/payment", refunds)]
    return [sum(item["status"] == "PENDING" for item in items) for items in lists]


def _another(first: Process, folder: Path) -> tuple[Process, str]:
    """One more process of a service on the same database, and its address."""
    port = free_port()
    another = Process(first.command, {**first.environment, "EWALLET_PORT": str(port)}, folder / "another.log")
    another.start()
    return another, f"http://127.0.0.1:{port}"


def _is_ready(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/health/ready", trust_env=False).is_success
    except httpx2.HTTPError:
        return False
