"""How soon people and merchants are told: ``python -m bench.deliveries [--seconds 20]``.

Payments arrive at fixed moments. From the answer of each to its event in the customer's live stream, which reads the
inbox, may pass 200 ms at the median. Then a hundred receivers get webhooks, at first among themselves, then beside one
that never answers and one that drips a byte a second: from the event's own time to its arrival may pass, at the 99th
percentile, twice what it was. Ends with an error where one of the two does not hold.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from bench.load import LATE_SECONDS, Latency, arriving, latency_of
from bench.people import People
from bench.platform import free_port, platform
from tests.support.receiver import Behave, Got, Receiver, answering, dripping, receiving, silent

PAYMENTS_PER_SECOND = 500
STREAMS = 128
STREAM_MEDIAN_MILLISECONDS = 200

WEBHOOKS_PER_SECOND = 100
RECEIVERS = 100
DISTURBING: Sequence[Behave] = (silent, dripping)
TIMES_AS_LONG = 2

CONNECTIONS = 200  # the server closes one that is idle for five seconds
WIDTH = 120
console = Console(highlight=False, width=WIDTH)


class _Paid(msgspec.Struct, rename="camel"):
    """What is read of a payment's answer, and of what is told of it."""

    transaction_id: str
    merchant_id: str


class _Told(msgspec.Struct):
    """What is read of a notification, and of a webhook."""

    data: _Paid
    timestamp: str = ""


_paid = msgspec.json.Decoder(_Paid).decode
_told = msgspec.json.Decoder(_Told).decode


def main() -> None:
    """Measure both on platforms of their own, and print them."""
    parser = argparse.ArgumentParser(prog="python -m bench.deliveries", description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="length of each run")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="ewallet-deliveries-") as folder:
        streamed = uvloop.run(streams(Path(folder) / "streams", seconds))
        alone, disturbed = uvloop.run(webhooks(Path(folder) / "webhooks", seconds))
    _print(streamed, alone, disturbed)
    if streamed.p50 > STREAM_MEDIAN_MILLISECONDS or disturbed.p99 > TIMES_AS_LONG * alone.p99:
        raise SystemExit("This is too slow.")


async def streams(data: Path, seconds: int) -> Latency:
    """From a payment's answer to its event in the stream of its customer; what comes before the answer counts as 0."""
    port = free_port()
    base_url, now = f"http://127.0.0.1:{port}", asyncio.get_running_loop().time
    answered: dict[str, float] = {}
    told: dict[str, float] = {}
    with platform(data, port, {}):
        people = People(base_url, customers=STREAMS, merchants=16)
        async with AsyncExitStack() as stack:
            for token in people.tokens():
                await stack.enter_async_context(_stream(port, token, lambda told_of: told.setdefault(told_of, now())))
            await arriving(
                base_url,
                people.payments(),
                per_second=PAYMENTS_PER_SECOND,
                seconds=seconds,
                connections=CONNECTIONS,
                on_body=lambda body: answered.__setitem__(_paid(body).transaction_id, now()),
            )
            await _until_all_are(told, answered)
    return latency_of([max(0.0, told[payment] - at) * 1000 for payment, at in answered.items()])


@asynccontextmanager
async def _stream(port: int, token: str, on_event: Callable[[str], object]) -> AsyncIterator[None]:
    """An open stream; calls with the id of each payment that it tells of."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /notification/stream HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head:
        raise SystemExit(f"a stream was refused: {head.decode()}")
    reading = asyncio.create_task(_read(reader, on_event))
    yield
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    writer.close()


async def _read(reader: asyncio.StreamReader, on_event: Callable[[str], object]) -> None:
    async for line in reader:
        if line.startswith(b"data: "):
            on_event(_told(line.removeprefix(b"data: ")).data.transaction_id)


async def webhooks(data: Path, seconds: int) -> tuple[Latency, Latency]:
    """From a payment's event to its arrival at one of the hundred, among themselves and beside the two others."""
    port = free_port()
    async with AsyncExitStack() as stack:
        arrived: dict[str, float] = {}
        hundred = [await stack.enter_async_context(receiving(_noting(arrived))) for _ in range(RECEIVERS)]
        others = [await stack.enter_async_context(receiving(_noting({}))) for _ in DISTURBING]
        stack.enter_context(platform(data, port, {"EWALLET_WEBHOOK_ALLOWED_ADDRESSES": "127.0.0.1/32"}))
        urls = [receiver.url for receiver in hundred + others]
        people = People(f"http://127.0.0.1:{port}", customers=2 * len(urls), merchants=len(urls))
        people.want_webhooks(urls)
        alone = await _delivered(port, people, arrived, seconds)
        for receiver, behave in zip(others, DISTURBING, strict=True):
            receiver.behave = behave
        arrived.clear()
        return alone, await _delivered(port, people, arrived, seconds)


def _noting(arrived: dict[str, float]) -> Behave:
    """Take everything, and note how many milliseconds old it was when it came."""
    take = answering(204)

    async def note(receiver: Receiver, got: Got, writer: asyncio.StreamWriter) -> None:
        told = _told(got.body)
        sent_at = datetime.fromisoformat(told.timestamp).timestamp()
        arrived.setdefault(told.data.transaction_id, (time.time() - sent_at) * 1000)
        await take(receiver, got, writer)

    return note


async def _delivered(port: int, people: People, arrived: dict[str, float], seconds: int) -> Latency:
    """Payments to all merchants; how late those to the hundred were told of."""
    hundred = set(people.merchants[:RECEIVERS])
    paid: list[_Paid] = []
    await arriving(
        f"http://127.0.0.1:{port}",
        people.payments(),
        per_second=WEBHOOKS_PER_SECOND,
        seconds=seconds,
        connections=CONNECTIONS,
        on_body=lambda body: paid.append(_paid(body)),
    )
    await _until_all_are(arrived, {payment.transaction_id for payment in paid if payment.merchant_id in hundred})
    return latency_of(list(arrived.values()))


async def _until_all_are(told: Collection[str], expected: Collection[str]) -> None:
    """Wait for what is still to come."""
    async with asyncio.timeout(LATE_SECONDS):
        while not set(expected) <= set(told):  # noqa: ASYNC110  # what comes, comes from sockets
            await asyncio.sleep(0.05)


def _print(streamed: Latency, alone: Latency, disturbed: Latency) -> None:
    table = Table("milliseconds", "p50", "p90", "p99", "max")
    for what, latency in (
        (f"to the live stream, {PAYMENTS_PER_SECOND} payments a second", streamed),
        (f"to {RECEIVERS} webhooks, {WEBHOOKS_PER_SECOND} payments a second", alone),
        ("the same beside one that never answers and one that drips", disturbed),
    ):
        table.add_row(what, *(f"{value:,.1f}" for value in latency))
    console.print(table)


if __name__ == "__main__":
    main()
