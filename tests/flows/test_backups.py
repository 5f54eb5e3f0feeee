"""A backup is taken while people pay, and restored elsewhere: what was acknowledged is there, and the books balance."""

from pathlib import Path

import httpx2

from tests.support.load import AMOUNT, Load, statuses
from tests.support.platform import People, User, platform, wait_until

PAYERS = 8
BALANCE = 10_000_00
PATIENCE_SECONDS = 15


def test_a_backup_under_load_is_a_platform_that_was_switched_off(tmp_path: Path, http: httpx2.Client) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with platform("together", {}, tmp_path / "old") as running:
        running.start()
        people = People(running.address, http)
        merchant, payers = people.merchant(), [people.customer(with_amount=BALANCE) for _ in range(PAYERS)]
        load = Load(payers, merchant)
        with load.running():
            wait_until(lambda: len(load.acknowledged) >= 10 * PAYERS, PATIENCE_SECONDS, "no payment came through")
            before = list(load.acknowledged)
            taken = running.run("backup", str(tmp_path / "backup"))
            after = len(load.acknowledged)
            wait_until(lambda: len(load.acknowledged) > after, PATIENCE_SECONDS, "nobody could pay any more")
        assert taken.returncode == 0, taken.stderr
        assert load.other_answers == [], "the backup was noticed"
        running.stop()

    with platform("together", {}, tmp_path / "new") as restored:
        assert restored.run("restore", str(tmp_path / "backup")).returncode == 0
        assert restored.run("reconcile").stdout == "✓ payments, postings and events agree\n"
        restored.start()
        people = People(restored.address, http)
        data = tmp_path / "new/data"
        wait_until(lambda: "PENDING" not in statuses(data).values(), PATIENCE_SECONDS, "payments are still PENDING")

        found = statuses(data)
        assert {found[acknowledged.payment_id] for acknowledged in before} == {"SUCCESS"}
        assert len(before) <= len(found) < len(load.acknowledged)
        spent = [BALANCE - people.log_in(payer.user_id, payer.email, payer.password).available() for payer in payers]
        assert sum(spent) == AMOUNT * len(found)
        seller = people.log_in(merchant.user_id, merchant.email, merchant.password)
        wait_until(lambda: _told(seller) >= len(found), PATIENCE_SECONDS, "the merchant was not told of every payment")
        assert _told(seller) == len(found)
        verified = restored.run("verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        restored.stop()


def _told(merchant: User) -> int:
    """In how many notifications the merchant was told of a payment."""
    count, cursor = 0, ""
    while True:
        page = merchant.answer("GET", f"/notification?limit=100{cursor}")
        count += len(page["items"])
        if page["nextCursor"] is None:
            return count
        cursor = f"&cursor={page['nextCursor']}"
