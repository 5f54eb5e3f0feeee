"""Every process is stopped and started again while people pay, and nobody notices."""

import asyncio
import secrets
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import httpx2

from tests.chaos.processes import Victims, launcher, victims
from tests.conftest import Backend
from tests.servers.haproxy import configured, reload, running_haproxy
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
    async with doubled(fresh_databases("mariadb"), tmp_path) as running:
        with Balancer([running.process("gateway"), running.process("gateway-2")]) as balancer:
            await nobody_notices(running, balancer.choose, restarted_by_halves)


async def test_behind_haproxy_every_process_is_restarted_under_load_and_haproxy_too(
    fresh_databases: Callable[[Backend], dict[str, str]], tmp_path: Path
) -> None:
    """Half of the services' processes, HAProxy, which reads its configuration anew, and the other half."""
    async with doubled(fresh_databases("mariadb"), tmp_path) as running:
        file, reached = configured(running.plan, tmp_path)
        with running_haproxy(file) as haproxy:

            async def restarted(victims: Victims) -> None:
                await restart(victims, [name for name in victims.names if not name.endswith("-2")])
                await asyncio.to_thread(reload, haproxy, file)
                await restart(victims, [name for name in victims.names if name.endswith("-2")])

            await nobody_notices(running, lambda: reached.address, restarted)


@asynccontextmanager
async def doubled(databases: Mapping[str, str], folder: Path) -> AsyncIterator[Victims]:
    """A running platform of two processes of each service, all of which must end well."""
    (folder / "data").mkdir()  # for logs: the databases are on a server
    settings = {"EWALLET_DRAIN_SECONDS": str(DRAIN_SECONDS)}
    with launcher(folder) as forking, victims(forking, "doubled", folder, databases, **settings) as running:
        await running.start()
        yield running
        running.stop()
        await running.wire.close()


async def nobody_notices(
    running: Victims, address: Callable[[], str], disturb: Callable[[Victims], Awaitable[None]]
) -> None:
    """People pay at an address, which may be another one each time, while something is done: every payment succeeds."""
    with httpx2.Client(timeout=30, trust_env=False) as http:
        people = People(address(), http)
        merchant, payers = people.merchant(), [people.customer(with_amount=FUNDS) for _ in range(PAYERS)]
        over = threading.Event()
        with ThreadPoolExecutor(PAYERS) as threads:
            paying = [threads.submit(pay_until, over, address, payer, merchant) for payer in payers]
            try:
                await disturb(running)
            finally:
                over.set()
            answers = [each.result() for each in paying]

        assert {answer for each in answers for answer in each} == {"201"}, f"{answers}\n{running.logs()}"
        for payer, own in zip(payers, answers, strict=True):
            assert own.total() > 10, "hardly anybody has paid"
            assert payer.available() == FUNDS - own.total()
        well, printed = running.verify()
        assert well, printed


async def restarted_by_halves(running: Victims) -> None:
    for second in (False, True):
        await restart(running, [name for name in running.names if name.endswith("-2") == second])


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
        self._ready = [gateway.address for gateway in gateways]
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._looking.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._looking.join()

    def choose(self) -> str:
        """The address of one that was ready when last looked at."""
        return secrets.choice(self._ready)

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._ready = [gateway.address for gateway in self._gateways if gateway.ready]


def pay_until(over: threading.Event, address: Callable[[], str], payer: User, merchant: User) -> Counter[str]:
    """Pay one cent after the other over connections that are kept; the answers. Without an answer it is an error."""
    answers: Counter[str] = Counter()
    headers = {"Authorization": f"Bearer {payer.token}"}
    with httpx2.Client(timeout=20, trust_env=False) as http:
        while not over.is_set():
            answer = http.post(f"{address()}/payment/initiate", json=payment(merchant, 1), headers=headers)
            answers["201" if answer.status_code == 201 else answer.text] += 1
    return answers
