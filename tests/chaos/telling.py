"""Events on their way to people while the processes that tell them are killed: notification alone, several times.

Events come as a relay would hand them over, at least once, by way of a process that may be dying. What must hold at the
end is asked from the other side: of the inboxes, and of a merchant's server that took webhooks all the while.
"""

import asyncio
import random
import secrets
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2
from msgspec.structs import replace
from sqlalchemy import func, select

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, system_clock
from ewallet.kernel.errors import OutcomeUnknown, Overloaded
from ewallet.kernel.ids import derived_id, new_id
from ewallet.notification import store
from ewallet.notification.client import HttpNotification
from ewallet.notification.domain.deliveries import State
from ewallet.notification.domain.endpoints import EndpointStatus
from ewallet.plumbing.database import Database, open_database
from ewallet.plumbing.http.doors import Door
from ewallet.plumbing.migrations import migrate
from ewallet.plumbing.outbox import Event
from ewallet.webhooks import SECRET_BYTES, TIMESTAMP_HEADER, WebhookInvalid, new_secret, verify
from tests.chaos.accountant import Figures
from tests.chaos.world import Tally
from tests.support.notification import CUSTOMER, NOW, payment_event
from tests.support.platform import Process, clean_environment
from tests.support.ports import free_port
from tests.support.receiver import Got, Receiver, receiving

PROCESSES = 4
"""Each is killed some four seconds after it has come up."""

MERCHANTS = 10
STORY = ("payment.authorized", "payment.succeeded", "payment.refunded")
HANDED_OVER_AT_ONCE = 200
SECONDS_BETWEEN_KILLS = 1.0
SETTLES_WITHIN_SECONDS = 60
"""After the last kill: a lease, a start and the pauses of a few attempts, on a busy machine."""

SECRET = new_secret(b"s" * SECRET_BYTES)


@dataclass(frozen=True)
class Member:
    """One process of notification, and the door to it."""

    process: Process
    address: str
    door: Door


async def tell(database_url: str, folder: Path, *, events: int, kills: int, seed: int) -> Tally:
    """Tell people so many events while a process is killed every second, at most so often, until all have come."""
    randomness = random.Random(seed)
    story = _story(events)
    migrate("notification", database_url)
    database = open_database(database_url, "notification")
    async with receiving() as receiver, _members(database_url, folder) as members:
        for merchant in {event.recipients[1] for event in story}:
            database.transact(lambda tx: store.add_webhook(tx, _webhook(merchant, receiver)))  # noqa: B023  # called at once
        telling = asyncio.create_task(_hand_over(members, story, randomness))
        killed = await _kill_until_all_came(receiver, len(story), members, kills, randomness)
        await telling
        stuck = await _pending_at_the_end(database)
        tally = _judged(story, receiver.got, database)
    database.close()
    tally.add(Tally(Figures(faults=killed, acknowledged=len(story), stuck=stuck)))
    return tally


def _story(events: int) -> list[Event]:
    """Payments that are authorised, captured and refunded, all payments at once."""
    merchants = [new_id("usr", NOW) for _ in range(MERCHANTS)]
    payments = [
        payment_event(
            STORY[0], merchantId=merchants[number % MERCHANTS], recipients=(CUSTOMER, merchants[number % MERCHANTS])
        )
        for number in range(-(-events // len(STORY)))
    ]
    return [
        replace(payment, id=derived_id("evt", payment.ordering_key, name), name=name)
        for name in STORY
        for payment in payments
    ][:events]


def _webhook(merchant: str, receiver: Receiver) -> Mapping[str, str | int | None]:
    return {
        "id": new_id("whk", NOW),
        "user_id": merchant,
        "status": EndpointStatus.ENABLED,
        "url": receiver.url,
        "events": None,
        "secret": SECRET,
        "created_at": NOW,
        "updated_at": NOW,
    }


@asynccontextmanager
async def _members(database_url: str, folder: Path) -> AsyncIterator[Sequence[Member]]:
    """Several processes of notification on one database, with a door to each."""
    secret = secrets.token_urlsafe(32)
    with ExitStack() as cleanup:
        members = []
        for number in range(PROCESSES):
            port = free_port()
            environment = clean_environment(
                EWALLET_PORT=str(port),
                EWALLET_DATA=str(folder / "data"),
                EWALLET_LOG_LEVEL="warning",
                EWALLET_INTERNAL_SECRET=secret,
                EWALLET_AUTH_URL="http://127.0.0.1:1",  # nobody logs in
                EWALLET_NOTIFICATION_DATABASE_URL=database_url,
                EWALLET_WEBHOOK_ALLOWED_ADDRESSES="127.0.0.1/32",
                EWALLET_WEBHOOK_RATE_PER_HOST="0",
            )
            process = Process(("serve", "notification"), environment, folder / f"notification-{number}.log")
            cleanup.callback(process.kill)
            process.start()
            address = f"http://127.0.0.1:{port}"
            door = Door(address, caller="payment", secret=secret, clock=system_clock)
            members.append(Member(process, address, door))
        try:
            yield members
        finally:
            for member in members:
                await member.door.close()


async def _hand_over(members: Sequence[Member], story: Sequence[Event], randomness: random.Random) -> None:
    """What a relay does: in order, and again by another process until all of it is taken."""
    for start in range(0, len(story), HANDED_OVER_AT_ONCE):
        while True:
            try:
                client = HttpNotification(randomness.choice(members).door)
                refused = await client.deliver(story[start : start + HANDED_OVER_AT_ONCE])
            except (OutcomeUnknown, Overloaded):
                await asyncio.sleep(0.05)
            else:
                assert not refused, refused
                break


async def _kill_until_all_came(
    receiver: Receiver, expected: int, members: Sequence[Member], kills: int, randomness: random.Random
) -> int:
    """Kill one process after the other, of those that have come up, each started again at once; returns how many."""
    killed, rounds = 0, 0
    async with httpx2.AsyncClient(timeout=SECONDS_BETWEEN_KILLS, trust_env=False) as http:
        while len({got.id for got in receiver.got}) < expected:
            await asyncio.sleep(SECONDS_BETWEEN_KILLS)
            member = randomness.choice(members)
            if killed < kills and await _is_up(http, member):
                await asyncio.to_thread(member.process.kill)
                member.process.start()
                killed += 1
            rounds += 1
            assert rounds < expected, "nothing arrives any more"
    return killed


async def _is_up(http: httpx2.AsyncClient, member: Member) -> bool:
    try:
        return (await http.get(f"{member.address}/health/ready")).is_success
    except httpx2.HTTPError:
        return False


async def _pending_at_the_end(database: Database) -> int:
    """How many deliveries have no end although nobody is killed any more; normally none, soon."""
    pending = select(func.count()).select_from(store.deliveries).where(store.deliveries.c.state != State.DELIVERED)
    for _ in range(SETTLES_WITHIN_SECONDS):
        left: int = await database.reading(lambda tx: tx.execute(pending).scalar_one())
        if left == 0:
            break
        await asyncio.sleep(1)
    return left


# --- what must hold -----------------------------------------------------------------------------------------------


def _judged(story: Sequence[Event], came: Sequence[Got], database: Database) -> Tally:
    """Nothing lost, an event once in an inbox, ids and bytes of webhooks constant, everything in its order."""
    by_id = {event.id: event for event in story}
    inbox = database.read(
        lambda tx: tx.execute(select(store.inbox.c.user_id, store.inbox.c.data, store.inbox.c.event)).all()
    )
    told = Counter((user, event, data) for user, data, event in inbox)
    expected = sum(len(event.recipients) for event in story)
    arrived = list(dict.fromkeys(got.id for got in came))
    wrong = [
        *(f"{event_id} never came by webhook" for event_id in by_id.keys() - set(arrived)),
        *(f"{event_id} came and never was" for event_id in set(arrived) - by_id.keys()),
        *_untrue(by_id, came),
        *_out_of_order([by_id[event_id] for event_id in arrived if event_id in by_id]),
    ]
    doubled = sum(number - 1 for number in told.values())
    lost = expected - len(told) + len(by_id.keys() - set(arrived))
    return Tally(Figures(lost=lost, doubled=doubled, otherwise_wrong=len(wrong)), wrong)


def _untrue(by_id: Mapping[str, Event], came: Sequence[Got]) -> Iterator[str]:
    """Webhooks that say something else than their event, or say it unsigned."""
    for got in came:
        sent_at = int(got.headers[TIMESTAMP_HEADER]) * MICROSECONDS_PER_SECOND
        try:
            said = verify(got.body, got.headers, SECRET, clock=partial(int, sent_at))
        except WebhookInvalid as error:
            yield f"{got.id}: {error}"
            continue
        event = by_id.get(got.id)
        if event is not None and (said["type"], said["data"]) != (event.name, event.data):
            yield f"{got.id} came as {said}"


def _out_of_order(arrived: Sequence[Event]) -> Iterator[str]:
    """Payments whose story arrived in another order than it happened."""
    stories = defaultdict(list)
    for event in arrived:
        stories[event.ordering_key].append(event.name)
    for payment, names in stories.items():
        if names != sorted(names, key=STORY.index):
            yield f"{payment} came as {names}"
