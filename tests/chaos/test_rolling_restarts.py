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

from tests.chaos.processes import Victims, launcher, victims
from tests.conftest import Backend
from tests.support.platform import START_SECONDS, People, Process, User, payment, wait_until

PAYERS = 6
FUNDS = 1_000_00
DRAIN_SECONDS = 4
"""Longer than a gateway, or a door, keeps a connection without using it."""

LOOK_SECONDS = 0.2


async def test_while_every_process_is_restarted_under_load_no_request_fails(
    fresh_databases: Callable[[Backend], dict[str, str]], tmp_path: Path
) -> None:
    """Half of everything at a time, the gateways among it, behind a balancer that asks who is ready."""
    settings = {"EWALLET_DRAIN_SECONDS": str(DRAIN_SECONDS)}
    (tmp_path / "data").mkdir()  # for logs: the databases are on a server
    with (
        launcher(tmp_path) as forking,
        victims(forking, "doubled", tmp_path, fresh_databases("mariadb"), **settings) as running,
        httpx2.Client(timeout=30, trust_env=False) as http,
    ):
        await running.start()
        people = People(running.process("gateway").address, http)
        merchant, payers = people.merchant(), [people.customer(with_amount=FUNDS) for _ in range(PAYERS)]
        balancer = Balancer([running.process("gateway"), running.process("gateway-2")])

        with balancer, ThreadPoolExecutor(PAYERS) as threads:
            paying = [threads.submit(pay_until, balancer, payer, merchant) for payer in payers]
            for second in (False, True):
                await restart(running, [name for name in running.names if name.endswith("-2") == second])
            balancer.over.set()
            answers = [each.result() for each in paying]

        assert {answer for each in answers for answer in each} == {"201"}, f"{answers}\n{running.logs()}"
        for payer, own in zip(payers, answers, strict=True):
            assert own.total() > 10, "hardly anybody has paid"
            assert payer.available() == FUNDS - own.total()
        well, printed = running.verify()
        assert well, printed
        running.stop()
        await running.wire.close()


async def restart(running: Victims, names: Sequence[str]) -> None:
    """As a service manager does: SIGTERM, and when they have ended well, once more."""
    running.stop(*names, number=signal.SIGTERM)
    await running.restart(*names)
    for name in names:
        wait_until(lambda: running.process(name).ready, START_SECONDS, running.logs)  # noqa: B023  # called here


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
