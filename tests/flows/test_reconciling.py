"""One service's data are put back to an older copy: what all have lost and known together comes back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import delete, func, select

from ewallet.notification.store import inbox
from ewallet.plumbing.database import Database
from tests.conftest import Backend
from tests.support.load import AMOUNT, Load, statuses
from tests.support.platform import People, payment, platform, wait_until
from tests.support.plumbing import opened

PAYERS = 4
BALANCE = 10_000_00
PATIENCE_SECONDS = 30
AGREED = "✓ payments, postings and events agree\n"


@pytest.mark.parametrize("service", ["wallet", "payment", "notification"])
def test_a_service_that_is_put_back_to_a_backup_is_brought_up_to_date_by_the_others(
    service: str, tmp_path: Path, http: httpx2.Client
) -> None:
    """The backup is taken under load; after it people register, money comes in, and payments go on."""
    with platform("together", {}, tmp_path) as running:
        running.start()
        people = People(running.address, http)
        merchant, payers = people.merchant(), [people.customer(with_amount=BALANCE) for _ in range(PAYERS)]
        load = Load(payers, merchant)
        with load.running():
            wait_until(lambda: len(load.acknowledged) >= 10 * PAYERS, PATIENCE_SECONDS, "no payment came through")
            assert running.run("backup", str(tmp_path / "backup")).returncode == 0
            late = people.customer(with_amount=BALANCE)
            late.answer("POST", "/payment/initiate", payment(merchant, AMOUNT))
            wait_until(lambda: len(late.inbox()) == 2, PATIENCE_SECONDS, "notification knows nothing of the credit")
            enough = len(load.acknowledged) + 10 * PAYERS
            wait_until(lambda: len(load.acknowledged) >= enough, PATIENCE_SECONDS, "nobody could pay any more")
        running.stop()
        put_back(tmp_path / "data", tmp_path / "backup", service)

        reconciled = running.run("reconcile")

        assert reconciled.returncode == 0, reconciled.stdout + reconciled.stderr
        assert reconciled.stdout.count("✓") > 10 * PAYERS
        assert running.run("reconcile").stdout == AGREED
        running.start()
        data = tmp_path / "data"  # what was under way when it was copied, recovery finishes
        wait_until(lambda: "PENDING" not in statuses(data).values(), PATIENCE_SECONDS, "payments are still PENDING")
        found = statuses(data)
        assert set(found.values()) == {"SUCCESS"}
        assert {each.payment_id for each in load.acknowledged} < found.keys()
        available = [people.log_in(each.user_id, each.email, each.password).available() for each in (*payers, late)]
        assert sum(available) == BALANCE * (PAYERS + 1) - AMOUNT * len(found)
        told = 2 * len(found) + PAYERS + 1  # each payment to both sides, each credit to its owner
        with opened(f"sqlite:///{tmp_path}/data/notification.sqlite3") as database:
            wait_until(lambda: notifications(database) >= told, PATIENCE_SECONDS, "not all was told again")
            assert notifications(database) == told
        verified = running.run("verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        running.stop()


def put_back(data: Path, backup: Path, service: str) -> None:
    """One database as it was, without what was logged since."""
    for file in data.glob(f"{service}.sqlite3*"):
        file.unlink()
    shutil.copy(backup / f"{service}.sqlite3", data)


def notifications(database: Database) -> int:
    """How many there are in all inboxes."""
    return int(database.read(lambda tx: tx.execute(select(func.count()).select_from(inbox)).scalar_one()))


def test_services_that_run_apart_are_compared_while_people_pay(
    fresh_databases: Callable[[Backend], dict[str, str]], tmp_path: Path, http: httpx2.Client
) -> None:
    """By the command, which asks wallet and notification over HTTP, and by payment's own worker."""
    databases = fresh_databases("mariadb")
    with platform("apart", databases, tmp_path, EWALLET_RECONCILE_SECONDS="1") as running:
        running.start()
        people = People(running.address, http)
        merchant, payers = people.merchant(), [people.customer(with_amount=BALANCE) for _ in range(PAYERS)]
        load = Load(payers, merchant)
        with load.running():
            wait_until(lambda: len(load.acknowledged) >= 10 * PAYERS, PATIENCE_SECONDS, "no payment came through")
            compared = [running.run("reconcile") for _ in range(2)]
        assert [each.stdout for each in compared] == [AGREED] * 2, compared
        assert "reconciled" not in running.logs(), "what was under way was taken for a disagreement"

        told = 2 * len(load.acknowledged) + PAYERS
        with opened(databases["notification"]) as database:
            wait_until(lambda: notifications(database) == told, PATIENCE_SECONDS, "the relay does not come to its end")
            database.transact(lambda tx: tx.execute(delete(inbox)))
            wait_until(lambda: notifications(database) == told, PATIENCE_SECONDS, "the worker has not told it again")

        assert load.other_answers == []
        assert running.run("verify").returncode == 0
        running.stop()
