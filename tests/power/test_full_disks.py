"""A disk that takes nothing is told as such, reading goes on, and so does all the rest when there is room again."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.power.recorder import BROKEN, NO_SPACE, READ_ONLY, Disk
from tests.support.load import Load, statuses
from tests.support.platform import PRODUCT, People, Platform, User, payment, platform, wait_until

PRICE, BALANCE = 10_00, 100_00
PAYERS = 8
PATIENCE_SECONDS = 10

FAULTS = {
    "full": {"writes": NO_SPACE},
    "read-only": {"writes": READ_ONLY},
    "broken": {"writes": BROKEN},
    "not-syncing": {"syncs": BROKEN},
}


@pytest.fixture(scope="module")
def running(disk: Disk) -> Iterator[Platform]:
    """Start a platform on a disk that can be made to fail."""
    with platform("together", {}, disk.folder, **disk.environment) as made:
        made.start()
        yield made
        made.stop()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_refuses_writes_shows_what_is_stored_and_recovers_without_a_restart(
    fault: str, disk: Disk, running: Platform, http: httpx2.Client
) -> None:
    people = People(running.address, http)
    merchant, customer = people.merchant(), people.customer(with_amount=BALANCE)
    receipt = pay(customer, merchant, "first").json()

    disk.fail(**FAULTS[fault])
    refuses_writes(running, http, customer, merchant)
    assert customer.answer("GET", f"/payment/{receipt['transactionId']}") == receipt
    assert customer.available() == BALANCE - PRICE

    disk.fail()
    works_again(running, http, customer, merchant)
    assert customer.available() == BALANCE - 2 * PRICE
    is_in_order(running)


def test_a_payment_that_the_disk_interrupts_half_way_is_finished_when_there_is_room(
    disk: Disk, running: Platform, http: httpx2.Client
) -> None:
    """Commits, syncs and checkpoints fail, again and again, until some payment was begun and could not be settled."""
    people = People(running.address, http)
    merchant, payers = people.merchant(), [people.customer(with_amount=10_000_00) for _ in range(PAYERS)]
    load, faults = Load(payers, merchant), iter(range(10_000))

    def interrupt() -> int:
        enough = len(load.acknowledged) + PAYERS
        wait_until(lambda: len(load.acknowledged) >= enough, PATIENCE_SECONDS, "no payment came through")
        disk.fail(**list(FAULTS.values())[next(faults) % len(FAULTS)])
        wait_until(lambda: not ready(running, http), PATIENCE_SECONDS, "the fault was never met")
        disk.fail()
        return recovered(running, http)

    with load.running():
        wait_until(interrupt, 60, "no payment was ever interrupted")

    wait_until(lambda: "PENDING" not in statuses(disk.data).values(), PATIENCE_SECONDS, "payments are still PENDING")
    found = statuses(disk.data)
    assert {found[acknowledged.payment_id] for acknowledged in load.acknowledged} == {"SUCCESS"}
    is_in_order(running)


def test_a_file_system_without_room_is_survived_too(tmp_path: Path, http: httpx2.Client) -> None:
    """Nothing simulated: a small file system, filled by somebody else, in a name space that the process takes along."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=24m tmpfs {folder} && exec "$@"'
    # In a name space of users, too, everybody may mount.
    launcher = ("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *PRODUCT)
    with platform("together", {}, tmp_path, launcher=launcher, EWALLET_DATA=str(folder / "data")) as running:
        running.start()
        people = People(running.address, http)
        merchant, customer = people.merchant(), people.customer(with_amount=BALANCE)
        pay(customer, merchant, "first")
        # What the process sees at this path, which is not what we see.
        ballast = Path(f"/proc/{running.processes['ewallet'].id}/root{folder}/ballast")

        fill(ballast)
        refuses_writes(running, http, customer, merchant)
        assert customer.available() == BALANCE - PRICE

        ballast.unlink()
        works_again(running, http, customer, merchant)
        assert customer.available() == BALANCE - 2 * PRICE
        running.stop()


# --- what a client and an operator see ---------------------------------------------------------------------------


def pay(customer: User, merchant: User, key: str) -> httpx2.Response:
    return customer.post("/payment/initiate", payment(merchant, PRICE), Idempotency_Key=key)


def refuses_writes(running: Platform, http: httpx2.Client, customer: User, merchant: User) -> None:
    refused = pay(customer, merchant, "second")

    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/storage-unavailable"), refused.text
    assert int(refused.headers["Retry-After"]) > 0
    health = http.get(f"{running.address}/health/ready")
    assert health.status_code == 503
    assert health.json()["services"]["payment"] == "storage-unavailable"


def works_again(running: Platform, http: httpx2.Client, customer: User, merchant: User) -> None:
    """Ready by itself, and the key of the refused payment pays once."""
    wait_until(lambda: ready(running, http), PATIENCE_SECONDS, "it did not notice that there is room")
    # Where the payment had begun, recovery finishes it, and its copies are told to wait so long.
    wait_until(lambda: pay(customer, merchant, "second").status_code != 409, PATIENCE_SECONDS, "it was never settled")
    answer = pay(customer, merchant, "second")
    assert (answer.status_code, answer.headers["Idempotent-Replayed"]) == (201, "true"), answer.text


def ready(running: Platform, http: httpx2.Client) -> bool:
    return http.get(f"{running.address}/health/ready").is_success


def recovered(running: Platform, http: httpx2.Client) -> int:
    """How many payments recovery has finished so far."""
    page = http.get(f"{running.address}/metrics").text
    counts = re.findall(r"^ewallet_payments_recovered_total{.*} (\d+)", page, re.MULTILINE)
    return sum(map(int, counts))


def is_in_order(running: Platform) -> None:
    verified = running.run("verify", LD_PRELOAD="")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def fill(ballast: Path) -> None:
    """Write until nothing more goes in, not even a byte."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
