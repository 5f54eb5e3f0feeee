"""Every process is stopped and started again while people pay, and nobody notices."""

import secrets
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import httpx2

from tests.conftest import Backend
from tests.support.platform import START_SECONDS, People, Process, User, payment, platform, wait_until

PAYERS = 6
FUNDS = 1_000_00
DRAIN_SECONDS = 4
"""Longer than a gateway, or a door, keeps a connection without using it."""

LOOK_SECONDS = 0.2


def test_while_every_process_is_restarted_under_load_no_request_fails(
    fresh_databases: Callable[[Backend], dict[str, str]], tmp_path: Path, http: httpx2.Client
) -> None:
    """Half of everything at a time, the gateways among it, behind a balancer that asks who is ready."""
    drain = str(DRAIN_SECONDS)
    with platform("doubled", fresh_databases("mariadb"), tmp_path, EWALLET_DRAIN_SECONDS=drain) as running:
        running.start()
        people = People(running.address, http)
        merchant, payers = people.merchant(), [people.customer(with_amount=FUNDS) for _ in range(PAYERS)]
        halves = [[process for name, process in running.processes.items() if ("-" in name) == one] for one in (0, 1)]
        balancer = Balancer([process for name, process in running.processes.items() if name.startswith("gateway")])

        with balancer, ThreadPoolExecutor(PAYERS) as threads:
            paying = [threads.submit(pay_until, balancer, payer, merchant) for payer in payers]
            for half in halves:
                restart(half)
                for process in half:
                    wait_until(lambda: process.ready, START_SECONDS, running.logs)  # noqa: B023  # called here
            balancer.over.set()
            answers = [each.result() for each in paying]

        assert {answer for each in answers for answer in each} == {"201"}, f"{answers}\n{running.logs()}"
        for payer, own in zip(payers, answers, strict=True):
            assert own.total() > 10, "hardly anybody has paid"
            assert payer.available() == FUNDS - own.total()
        assert running.run("verify").returncode == 0
        running.stop()


class Balancer:
    """Which gateways are ready, as what stands in front of them finds out."""

    def __init__(self, gateways: Sequence[Process]) -> None:
        self._gateways = gateways
        self.ready = [gateway.address for gateway in gateways]
        self.over = threading.Event()
        self._looking = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._looking.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self._looking.join()

    def _look(self) -> None:
        while not self.over.wait(LOOK_SECONDS):
            self.ready = [gateway.address for gateway in self._gateways if gateway.ready]


def pay_until(balancer: Balancer, payer: User, merchant: User) -> Counter[str]:
    """Pay one cent after the other over connections that are kept; the answers. Without an answer it is an error."""
    answers: Counter[str] = Counter()
    headers = {"Authorization": f"Bearer {payer.token}"}
    with httpx2.Client(timeout=20, trust_env=False) as http:
        while not balancer.over.is_set():
            address = secrets.choice(balancer.ready)
            answer = http.post(f"{address}/payment/initiate", json=payment(merchant, 1), headers=headers)
            answers["201" if answer.status_code == 201 else answer.text] += 1
    return answers


def restart(processes: Sequence[Process]) -> None:
    """As a service manager does: SIGTERM, and the next one when this one has ended well."""
    for process in processes:
        process.signal(signal.SIGTERM)
    for process in processes:
        assert process.exit_status() == 0, process.log.read_text()
        process.start()
