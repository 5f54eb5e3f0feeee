"""Customers who pay all the time, and an accountant's list of what they were told."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx2

from tests.support.platform import User, payment

AMOUNT = 1_00

PAUSE_SECONDS = 0.01
"""Between two payments of a payer: enough are under way at any moment, and what is tested has a processor, too."""


@dataclass(frozen=True)
class Acknowledged:
    """A payment that a customer was told has succeeded; ``moment`` is when, on the clock that the load was given."""

    payment_id: str
    moment: int


@dataclass
class Load:
    """Threads that pay until told to stop."""

    payers: Sequence[User]
    merchant: User
    clock: Callable[[], int] = count().__next__
    acknowledged: list[Acknowledged] = field(default_factory=list)
    other_answers: list[int] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._pay, args=(payer,)) for payer in self.payers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()

    def _pay(self, payer: User) -> None:
        """Pay again and again, whatever the answers are. The moment is taken when the answer is here."""
        body, headers = payment(self.merchant, AMOUNT), {"Authorization": f"Bearer {payer.token}"}
        with httpx2.Client(base_url=payer.address, timeout=10, trust_env=False) as http:
            while not self._stopped.wait(PAUSE_SECONDS):
                try:
                    answer = http.post("/payment/initiate", json=body, headers=headers)
                except httpx2.HTTPError:
                    continue
                if answer.status_code == 201:
                    self.acknowledged.append(Acknowledged(answer.json()["transactionId"], self.clock()))
                else:
                    self.other_answers.append(answer.status_code)


def statuses(data: Path) -> dict[str, str]:
    """The status of every payment in a data folder, by id."""
    with closing(sqlite3.connect(data / "payment.sqlite3")) as database:
        return dict(database.execute("SELECT id, status FROM payment_payments"))
