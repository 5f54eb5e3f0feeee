"""What is unfinished shows, by kind and with its age: that is how one sees that something is stuck."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from ewallet.payment import store
from ewallet.payment.service import PaymentService
from ewallet.payment.worker import TOLD_AT_MOST, Recovery
from ewallet.plumbing.database import Database
from tests.support.payment import (
    CUSTOMER,
    HOLD_SECONDS,
    DiedError,
    HandClock,
    MemoryWallet,
    authorized,
    died_before,
    order,
    pay,
    payment_database,
    payment_service,
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with payment_database(database_url) as opened:
        yield opened


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def wallet(clock: HandClock) -> MemoryWallet:
    wallet = MemoryWallet(clock=clock)
    wallet.credit(CUSTOMER, 100_000)
    return wallet


@pytest.fixture
def service(database: Database, wallet: MemoryWallet, clock: HandClock) -> PaymentService:
    return payment_service(database, wallet, clock=clock)


def figures(database: Database, now: int) -> dict[str, int]:
    """Those that are not zero, by name and label."""
    found = database.read(lambda tx: list(store.figures(tx, now)))
    return {
        f"{next(iter(gauge.describe())).name.removeprefix('ewallet_')} {labels[0]}": value
        for gauge, labels, value in found
        if value
    }


async def left_behind(service: PaymentService, wallet: MemoryWallet) -> None:
    """A payment whose process has died before it could ask the wallet."""
    wallet.faults.append(died_before)
    with pytest.raises(DiedError):
        await pay(service, order())


async def test_what_a_dead_process_has_left_is_counted_with_its_age(
    database: Database, service: PaymentService, wallet: MemoryWallet, clock: HandClock
) -> None:
    await left_behind(service, wallet)
    clock.forward(seconds=90)

    assert figures(database, clock()) == {"unfinished PAYMENT": 1, "unfinished_oldest_seconds PAYMENT": 90}


async def test_a_hold_is_counted_and_the_end_of_it_only_when_it_is_due(
    database: Database, service: PaymentService, clock: HandClock
) -> None:
    await authorized(service)
    held = {"unfinished HOLD": 1, "outbox_waiting payment": 1}

    clock.forward(seconds=5)
    young = {"unfinished_oldest_seconds HOLD": 5, "outbox_oldest_seconds payment": 5}
    assert figures(database, clock()) == {**held, **young}

    clock.forward(seconds=HOLD_SECONDS)
    old = {"unfinished_oldest_seconds HOLD": HOLD_SECONDS + 5, "outbox_oldest_seconds payment": HOLD_SECONDS + 5}
    due = {"unfinished EXPIRY": 1, "unfinished_oldest_seconds EXPIRY": 5}
    assert figures(database, clock()) == {**held, **old, **due}


async def test_what_recovery_fails_at_again_and_again_is_counted_and_told_once(
    service: PaymentService, wallet: MemoryWallet, clock: HandClock, capsys: pytest.CaptureFixture[str]
) -> None:
    await left_behind(service, wallet)
    wallet.always = died_before
    recovery = Recovery(service.saga)
    before = REGISTRY.get_sample_value("ewallet_recovery_failures_total") or 0

    for _ in range(4):
        clock.forward(seconds=6)
        await recovery.run_once()

    assert REGISTRY.get_sample_value("ewallet_recovery_failures_total") == before + 4
    assert capsys.readouterr().out.count("payment.not_recovered") == 1


async def test_the_memory_of_what_was_told_has_a_bound(
    service: PaymentService, wallet: MemoryWallet, clock: HandClock, capsys: pytest.CaptureFixture[str]
) -> None:
    await left_behind(service, wallet)
    wallet.always = died_before
    recovery = Recovery(service.saga)
    recovery._told = {f"pay_{number}": "an error" for number in range(TOLD_AT_MOST)}

    clock.forward(seconds=6)
    await recovery.run_once()

    assert len(recovery._told) == 1
    assert "payment.not_recovered" in capsys.readouterr().out
