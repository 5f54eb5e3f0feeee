"""A live stream tells everything once, in order, wherever and whenever it was stored, and ends when it should."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import httpx2
import msgspec
import pytest

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock, system_clock
from ewallet.kernel.errors import Refusal
from ewallet.notification import service as service_module
from ewallet.notification.messages import Notification
from ewallet.notification.senders.streams import STREAMS_PER_USER
from ewallet.notification.service import NotificationService
from ewallet.plumbing.database import open_database
from ewallet.plumbing.http.streams import EndingStreams
from tests.support.migrated import migrate
from tests.support.notification import (
    CUSTOMER,
    LANGUAGES,
    MERCHANT,
    bearer,
    caller,
    new_house,
    payment_event,
    running,
    serving,
)

PATIENCE_SECONDS = 10
"""How long a test waits for what should come at once; only a failing test takes it."""

FOR_EVER = 2**62


class Received(NamedTuple):
    """One server-sent event."""

    id: str
    event: str
    data: dict[str, Any]


@asynccontextmanager
async def listening(
    address: str, user: str = CUSTOMER, *, after: str | None = None, seconds: int = 600
) -> AsyncIterator[AsyncIterator[Received]]:
    """Open a stream as a browser does."""
    headers = bearer(user, seconds=seconds) | {"Accept": "text/event-stream"}
    if after is not None:
        headers["Last-Event-ID"] = after
    async with (
        httpx2.AsyncClient(base_url=address, trust_env=False, timeout=PATIENCE_SECONDS) as client,
        client.stream("GET", "/notification/stream", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield _events(answer.aiter_lines())


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[Received]:
    fields: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "id" in fields:
            yield Received(fields["id"], fields["event"], msgspec.json.decode(fields["data"]))
            fields = {}


async def references(events: AsyncIterator[Received], count: int) -> list[str]:
    return [(await anext(events)).data["data"]["reference"] for _ in range(count)]


async def test_what_happens_while_a_stream_is_open_is_told_at_once(sqlite_url: str) -> None:
    house = new_house(sqlite_url)
    async with serving(house.application) as (address, _server):
        await house.service.deliver([payment_event(reference="before")])
        async with listening(address) as events:
            await house.service.deliver([payment_event()])
            received = await anext(events)

        [newest, _] = (await house.service.inbox(caller(CUSTOMER), unread=None, limit=9, cursor=None)).items  # type: ignore[union-attr]  # no cursor, no refusal
    assert received == Received(newest.notification_id, "payment.succeeded", msgspec.to_builtins(newest))


async def test_each_user_hears_only_the_own_news(sqlite_url: str) -> None:
    house = new_house(sqlite_url)
    async with (
        serving(house.application) as (address, _server),
        listening(address, CUSTOMER) as customer,
        listening(address, MERCHANT) as merchant,
    ):
        await house.service.deliver(
            [
                payment_event(reference="not for the merchant", recipients=(CUSTOMER,)),
                payment_event(reference="for both"),
            ]
        )

        assert await references(merchant, 1) == ["for both"]
        assert await references(customer, 2) == ["not for the merchant", "for both"]


async def test_several_streams_of_one_user_hear_the_same(sqlite_url: str) -> None:
    house = new_house(sqlite_url)
    async with (
        serving(house.application) as (address, _server),
        listening(address) as telephone,
        listening(address) as desktop,
    ):
        await house.service.deliver([payment_event()])

        assert await anext(telephone) == await anext(desktop)


async def test_a_stream_that_is_resumed_starts_with_what_it_missed(sqlite_url: str) -> None:
    house = new_house(sqlite_url)
    async with serving(house.application) as (address, _server):
        async with listening(address) as events:
            await house.service.deliver([payment_event(reference="first")])
            last = (await anext(events)).id
        missed = [f"missed-{number}" for number in range(250)]
        await house.service.deliver([payment_event(reference=reference) for reference in missed])

        async with listening(address, after=last) as events:
            assert await references(events, len(missed)) == missed
            await house.service.deliver([payment_event(reference="live")])
            assert await references(events, 1) == ["live"]


@pytest.mark.parametrize("after", ["nonsense", "ntf_00000000000000000000000000", ""])
async def test_a_last_event_id_that_is_none_is_refused(sqlite_url: str, after: str) -> None:
    async with (
        serving(new_house(sqlite_url).application) as (address, _server),
        httpx2.AsyncClient(base_url=address, trust_env=False) as client,
    ):
        answer = await client.get("/notification/stream", headers=bearer(CUSTOMER) | {"Last-Event-ID": after})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "Last-Event-ID")


async def test_the_last_event_id_of_another_user_is_refused_as_if_it_did_not_exist(sqlite_url: str) -> None:
    async with running(sqlite_url) as service:
        await service.deliver([payment_event()])
        page = await service.inbox(caller(MERCHANT), unread=None, limit=1, cursor=None)
        assert not isinstance(page, Refusal)

        answer = await service.stream(caller(CUSTOMER), after=page.items[0].notification_id, until=FOR_EVER)

    assert isinstance(answer, Refusal)


async def test_news_stored_by_another_process_arrives_too(database_url: str) -> None:
    house = new_house(database_url)
    async with (
        running(database_url) as other_process,
        serving(house.application) as (address, _server),
        listening(address) as events,
    ):
        for number in range(3):
            await other_process.deliver([payment_event(reference=f"order-{number}")])
            assert await references(events, 1) == [f"order-{number}"]


async def test_nothing_is_missed_or_doubled_while_two_processes_store(database_url: str) -> None:
    house = new_house(database_url)
    async with (
        running(database_url) as other_process,
        serving(house.application) as (address, _server),
        listening(address) as events,
    ):
        wanted = {f"{process}-{number}" for process in "ab" for number in range(60)}

        async def deliver(service: NotificationService, process: str) -> None:
            for number in range(60):
                await service.deliver([payment_event(reference=f"{process}-{number}")])

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver(house.service, "a"))
            group.create_task(deliver(other_process, "b"))
            heard = await references(events, len(wanted))

    assert len(heard) == len(wanted)
    assert set(heard) == wanted


async def test_a_stream_too_many_is_refused_and_room_is_made_by_closing_one(sqlite_url: str) -> None:
    house = new_house(sqlite_url)
    async with serving(house.application) as (address, _server), AsyncExitStack() as streams:
        for _ in range(STREAMS_PER_USER - 1):
            await streams.enter_async_context(listening(address))
        async with (
            listening(address),
            httpx2.AsyncClient(base_url=address, trust_env=False) as client,
        ):
            answer = await client.get("/notification/stream", headers=bearer(CUSTOMER))
            assert (answer.status_code, answer.json()["type"]) == (429, "/problems/too-many-requests")
            assert int(answer.headers["retry-after"]) > 0
            async with listening(address, MERCHANT):
                pass  # another user's streams are not counted
        await _until(lambda: len(house.service.listeners._by_user[CUSTOMER]) < STREAMS_PER_USER)
        await streams.enter_async_context(listening(address))


async def test_a_stream_that_was_never_begun_leaves_nothing_behind(sqlite_url: str) -> None:
    """The client has left before the answer's first byte: the stream is dropped without having run."""
    async with running(sqlite_url) as service:
        for _ in range(STREAMS_PER_USER + 1):
            stream = await service.stream(caller(CUSTOMER), after=None, until=FOR_EVER)
            assert not isinstance(stream, Refusal)
            del stream

        assert service.listeners.users() == []


async def test_a_stream_ends_when_the_token_expires(sqlite_url: str) -> None:
    async with serving(new_house(sqlite_url).application) as (address, _server):
        started = time.time()
        async with listening(address, seconds=3) as events:  # one of which may be over: tokens count whole seconds
            assert [event async for event in events] == []

    assert time.time() - started < PATIENCE_SECONDS / 2


async def test_no_stream_outlives_its_token_while_news_keeps_coming(sqlite_url: str) -> None:
    present = 0

    def clock() -> int:
        return present

    async with unserved(sqlite_url, clock) as service:
        stream = await service.stream(caller(CUSTOMER), after=None, until=MICROSECONDS_PER_SECOND)
        assert not isinstance(stream, Refusal)
        await service.deliver([payment_event()])
        assert isinstance(await anext(stream), Notification)
        present = MICROSECONDS_PER_SECOND
        await service.deliver([payment_event()])

        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_silence_is_filled_with_heartbeats(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "HEARTBEAT_SECONDS", 0.01)
    async with (
        serving(new_house(sqlite_url).application) as (address, _server),
        httpx2.AsyncClient(base_url=address, trust_env=False, timeout=PATIENCE_SECONDS) as client,
        client.stream("GET", "/notification/stream", headers=bearer(CUSTOMER)) as answer,
    ):
        lines = answer.aiter_lines()
        assert [await anext(lines) for _ in range(4)] == [": heartbeat", "", ": heartbeat", ""]


async def test_a_server_that_stops_ends_its_streams_properly_and_at_once(sqlite_url: str) -> None:
    stopping = asyncio.Event()
    house = new_house(sqlite_url)
    application = EndingStreams(house.application, paths={"/notification/stream"}, stopping=stopping)
    async with serving(application) as (address, server), listening(address) as events:
        await house.service.deliver([payment_event(reference="last")])
        assert await references(events, 1) == ["last"]
        started = time.monotonic()
        stopping.set()
        server.should_exit = True

        assert [event async for event in events] == []
        assert house.service.listeners.users() == []
    assert time.monotonic() - started < PATIENCE_SECONDS / 2


@asynccontextmanager
async def unserved(url: str, clock: Clock = system_clock) -> AsyncIterator[NotificationService]:
    """The use cases alone, with a clock of the test's own."""
    migrate("notification", url)
    database = open_database(url, "notification")
    try:
        yield NotificationService(database, languages=LANGUAGES, clock=clock)
    finally:
        database.close()


async def _until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  # the server says nowhere that it has seen a client leave
            await asyncio.sleep(0.01)
