"""The power fails at any moment: nothing acknowledged is lost, nothing is damaged, and the rest is finished.

SIGKILL leaves what was written in the hands of the operating system, so it says nothing about syncs. Here a real
platform runs on a disk whose every change is written down, and the log is replayed up to a moment of our choice, with
whatever was not synced lost, torn or reordered. CUTS says how many cuts, SEED repeats a run.
"""

import asyncio
import os
import random
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import httpx2
import pytest

import ewallet.notification.app
import ewallet.payment.app
import ewallet.wallet.app
from ewallet.cli.databases import migrate_all
from ewallet.cli.terminal import Stopped
from ewallet.cli.verifying import verify
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, system_clock
from ewallet.plumbing.secrets import internal_secret
from ewallet.plumbing.settings import SERVICES, Settings
from tests.power import cuts
from tests.power.cuts import Change, Kept
from tests.power.recorder import Disk
from tests.support.load import Acknowledged, Load, statuses
from tests.support.notification import verifier
from tests.support.platform import People, platform, wait_until

CUTS = int(os.environ.get("CUTS", "30"))
SEED = int(os.environ.get("SEED", random.randrange(10**9)))
CUTS_IN_A_TEST = 30

PAYERS = 8
PAYMENTS = 500
OTHER_PRAGMAS = (sys.executable, str(Path(__file__).parent / "other_pragmas.py"))
OFTENER = "wal_autocheckpoint=4000>wal_autocheckpoint=1000"
"""Logs are written back into their databases four times as often as usual, so that so many payments see it happen."""

PATIENCE_SECONDS = 60
AN_HOUR = 3600 * MICROSECONDS_PER_SECOND

Content = Mapping[PurePath, bytes | None]


@dataclass(frozen=True)
class Recording:
    """Everything that a platform did to its disk from its first start on, and what it had told its clients by when."""

    disk: Disk
    changes: Sequence[Change]
    acknowledged: Sequence[Acknowledged]

    def acknowledged_by(self, moment: int) -> set[str]:
        return {each.payment_id for each in self.acknowledged if each.moment <= moment}

    def images(self, chance: random.Random, count: int) -> Iterator[tuple[int, Content]]:
        """The disk after the power was cut, with the moment of the cut; moments come in order."""
        kinds = self._kinds_of_moments()
        moments = sorted(chance.choice(chance.choice(kinds)) for _ in range(count))
        state, changes = cuts.Disk(self.disk.root), iter(self.changes)
        change = next(changes, None)
        for moment in moments:
            while change is not None and change.end <= moment:
                state.apply(change)
                change = next(changes, None)
            yield moment, state.after_cut(chance)

    def _kinds_of_moments(self) -> Sequence[Sequence[int]]:
        """Just after an answer, when all depends on syncs; while a log is written back; at the first start; any."""
        answers = [each.moment for each in self.acknowledged]
        moments = [change.end for change in self.changes]
        first_start = [moment for moment in moments if moment < min(answers)]
        return answers, [change.end for change in self.checkpoints], first_start, moments

    @property
    def checkpoints(self) -> Sequence[Change]:
        """Writes into the databases themselves: in WAL mode, nothing but checkpoints makes them."""
        return [change for change in self.changes if change.kind == "W" and change.path.suffix == ".sqlite3"]


def record(disk: Disk, http: httpx2.Client, *, pragmas: str, payments: int) -> Recording:
    """Start a platform on an empty disk, let customers pay, and stop it, so that the log has everything."""
    launcher = (*OTHER_PRAGMAS, pragmas)
    with platform("together", {}, disk.folder, launcher=launcher, **disk.environment) as running:
        running.start()
        people = People(running.address, http)
        merchant, payers = people.merchant(), [people.customer(with_amount=10_000_00) for _ in range(PAYERS)]
        # How long the log was when the answer was here: what made the answer true is in it.
        load = Load(payers, merchant, clock=lambda: disk.log.stat().st_size)
        with load.running():
            wait_until(lambda: len(load.acknowledged) >= payments, PATIENCE_SECONDS, "too few payments came through")
        running.stop()
    return Recording(disk, list(cuts.changes(disk.log)), load.acknowledged)


@pytest.fixture(scope="module")
def recording(disk: Disk, http: httpx2.Client) -> Recording:
    """Give the log of one platform, for all cuts."""
    return record(disk, http, pragmas=OFTENER, payments=PAYMENTS)


@pytest.mark.parametrize("part", range(-(-CUTS // CUTS_IN_A_TEST)))
def test_no_power_cut_loses_what_was_acknowledged_or_damages_anything(recording: Recording, part: int) -> None:
    print(f"SEED={SEED}, part {part}: {CUTS_IN_A_TEST} cuts")  # noqa: T201  # to repeat what failed
    for moment, content in recording.images(random.Random(SEED + part), CUTS_IN_A_TEST):
        survives(recording, moment, content)


def test_logs_were_written_back_while_people_paid(recording: Recording) -> None:
    """Or the most delicate moments of all would not have been tried."""
    answers = [each.moment for each in recording.acknowledged]
    meanwhile = [change for change in recording.checkpoints if min(answers) < change.end < max(answers)]

    assert {change.path.stem for change in meanwhile} >= {"payment", "wallet"}


def test_a_log_that_is_replayed_without_a_loss_gives_the_disk_as_it_is(recording: Recording) -> None:
    """Or something is done to the disk that the recorder does not see."""
    state = cuts.Disk(recording.disk.root)
    for change in recording.changes:
        state.apply(change)

    assert state.after_cut(random.Random(0), kept=Kept.EVERYTHING) == found_in(recording.disk.root)


@pytest.mark.parametrize(("synchronous", "found"), [("OFF", "damaged"), ("NORMAL", "acknowledged payments are lost")])
def test_with_fewer_syncs_the_platform_does_not_survive_power_cuts(
    *, synchronous: str, found: str, disk_library: Path, scratch: Path, http: httpx2.Client
) -> None:
    """The cuts bite. NORMAL is what many advise for WAL mode: nothing is damaged, but the last commits are gone."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        pragmas = f"{OFTENER},synchronous=FULL>synchronous={synchronous}"
        less_synced = record(Disk(disk_library, Path(folder)), http, pragmas=pragmas, payments=100)
        images = less_synced.images(random.Random(SEED), CUTS_IN_A_TEST)

        assert any(found in fault_after(less_synced, moment, content) for moment, content in images)


def fault_after(recording: Recording, moment: int, content: Content) -> str:
    """What is wrong after a cut; empty where nothing is."""
    try:
        survives(recording, moment, content)
    except (AssertionError, Stopped) as error:
        return str(error)
    return ""


# --- when the power is back ----------------------------------------------------------------------------------------


def survives(recording: Recording, moment: int, content: Content) -> None:
    """Start on what the disk holds after a cut, and look at everything."""
    with tempfile.TemporaryDirectory(dir=recording.disk.folder) as folder:
        cuts.write(content, Path(folder))
        data = Path(folder) / "data"
        settings = Settings(data=str(data))
        try:
            migrate_all(settings, SERVICES)
            is_sound(data)
            has_all(data, recording.acknowledged_by(moment))
            asyncio.run(recover(settings))
            is_finished(data)
            verify(settings)
        except Exception as error:
            error.add_note(f"after a cut at byte {moment} of the log, with SEED={SEED}")
            raise


def is_sound(data: Path) -> None:
    for service in SERVICES:
        with closing(sqlite3.connect(data / f"{service}.sqlite3")) as database:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        assert found == "ok", f"the {service} database is damaged: {found}"


def has_all(data: Path, acknowledged: set[str]) -> None:
    found = statuses(data)
    lost = {payment_id for payment_id in acknowledged if found.get(payment_id) != "SUCCESS"}
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged payments are lost"


async def recover(settings: Settings) -> None:
    """Let the services work, an hour later, until no payment is PENDING and no event waits to be told."""
    clock = lambda: system_clock() + AN_HOUR  # noqa: E731  # leases have run out
    common: dict[str, Any] = {"verifier": verifier(), "internal_secret": internal_secret(settings), "clock": clock}
    notification = ewallet.notification.app.create_app(settings, **common)
    common["notification"] = notification.service
    wallet = ewallet.wallet.app.create_app(settings, **common)
    payment = ewallet.payment.app.create_app(settings, wallet=wallet.service, **common)
    async with AsyncExitStack() as running:
        for house in (notification, wallet, payment):
            await running.enter_async_context(house.application.lifespan())
        done = partial(wait_until, lambda: not waiting(settings.data_folder), PATIENCE_SECONDS, "it never ended")
        await asyncio.to_thread(done)


def waiting(data: Path) -> int:
    """What is still to be done."""
    return (
        count(data, "payment", "payment_payments WHERE status = 'PENDING'")
        + count(data, "payment", "payment_outbox")
        + count(data, "wallet", "wallet_outbox")
    )


def is_finished(data: Path) -> None:
    """Money has moved for the payments that are SUCCESS and for no others, and both sides were told once."""
    found = statuses(data)
    succeeded = {payment_id for payment_id, status in found.items() if status == "SUCCESS"}
    with closing(sqlite3.connect(data / "wallet.sqlite3")) as wallet:
        moved = wallet.execute("SELECT DISTINCT transaction_id FROM wallet_transfers WHERE transaction_id IS NOT NULL")
        assert {payment_id for (payment_id,) in moved} == succeeded, "payments and transfers disagree"
    told = count(data, "notification", "notification_inbox WHERE event = 'payment.succeeded'")
    assert told == 2 * len(succeeded), f"{told} notifications of {len(succeeded)} payments"


def count(data: Path, service: str, what: str) -> int:
    with closing(sqlite3.connect(data / f"{service}.sqlite3")) as database:
        (number,) = database.execute(f"SELECT count(*) FROM {what}").fetchone()  # noqa: S608  # the words of this file
        return int(number)


def found_in(root: Path) -> dict[PurePath, bytes | None]:
    """Files and folders as they are now, without memory that SQLite's connections shared."""
    paths = [path for path in root.rglob("*") if not path.name.endswith("-shm")]
    return {path.relative_to(root): path.read_bytes() if path.is_file() else None for path in sorted(paths)}
