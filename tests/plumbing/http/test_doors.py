"""A call to another process either has a clear answer or says how much is known about it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from prometheus_client import REGISTRY

from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import InvariantBroken, OutcomeUnknown, Overloaded
from ewallet.plumbing.database import StorageUnavailable
from ewallet.plumbing.http import doors
from ewallet.plumbing.http.doors import Door, chunks
from ewallet.plumbing.http.edge import MAXIMUM_BODY_BYTES
from ewallet.plumbing.http.replicas import FAILURES_IN_A_ROW
from ewallet.plumbing.tokens import verify_internal
from tests.support.plumbing import ManualClock

SECRET = "a secret that only the services of this test know"


class Question(msgspec.Struct):
    number: int


class Answer(msgspec.Struct):
    double: int


class Sister:
    """A server that answers every request with the same bytes, or not at all, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: bytes | None = b""
        self.breaks_first = 0
        self.asked: list[bytes] = []

    def answers(self, status: int, body: str = "") -> None:
        self.answer = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:")), 0)
        self.asked.append(head + await reader.readexactly(length))
        if self.answer is None:
            await reader.read()
        elif self.breaks_first:
            self.breaks_first -= 1
        else:
            writer.write(self.answer)
            await writer.drain()
        writer.close()


@pytest.fixture
async def sister() -> AsyncIterator[tuple[Sister, Callable[..., Door]]]:
    """The other service, and a function that opens a door to it."""
    sister, opened = Sister(), []
    server = await asyncio.start_server(sister.serve, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def open_door(clock: Callable[[], int] = system_clock) -> Door:
        opened.append(Door(address, caller="payment", secret=SECRET, clock=clock))
        return opened[-1]

    async with server:
        yield sister, open_door
        for door in opened:
            await door.close()


Doors = tuple[Sister, Callable[..., Door]]


async def ask(door: Door) -> Answer:
    return await door.post("/internal/double", Question(21), Answer, request_id="req_1")


def header(request: bytes, name: str) -> str:
    prefix = f"{name}:".lower()
    [value] = [line for line in request.decode().split("\r\n") if line.lower().startswith(prefix)]
    return value[len(prefix) :].strip()


async def test_a_question_is_asked_with_our_name_and_the_id_of_the_request(sister: Doors) -> None:
    server, open_door = sister
    server.answers(200, '{"double": 42}')

    assert await ask(open_door()) == Answer(42)

    [request] = server.asked
    assert request.startswith(b"POST /internal/double HTTP/1.1\r\n")
    assert request.endswith(b'{"number":21}')
    assert header(request, "x-request-id") == "req_1"
    assert verify_internal(header(request, "authorization").removeprefix("Bearer "), SECRET) == "service:payment"


async def test_a_call_is_timed_by_what_came_of_it(sister: Doors) -> None:
    def calls(outcome: str) -> float:
        labels = {"caller": "payment", "path": "/internal/double", "outcome": outcome}
        return REGISTRY.get_sample_value("ewallet_door_seconds_count", labels) or 0

    server, open_door = sister
    door = open_door()
    before = calls("answered"), calls("OutcomeUnknown")
    server.answers(200, '{"double": 14}')
    await ask(door)
    server.answers(500)
    with pytest.raises(OutcomeUnknown):
        await ask(door)

    assert (calls("answered"), calls("OutcomeUnknown")) == (before[0] + 1, before[1] + 1)


async def test_a_token_is_used_again_until_half_of_its_time_is_over(sister: Doors) -> None:
    server, open_door = sister
    server.answers(200, '{"double": 42}')
    clock = ManualClock(system_clock())
    door = open_door(clock)
    for _ in range(3):
        await ask(door)
        clock.pass_seconds(20)

    first, second, third = (header(request, "authorization") for request in server.asked)

    assert first == second != third


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_an_error_of_the_other_side_leaves_the_outcome_unknown(sister: Doors, status: int) -> None:
    server, open_door = sister
    server.answers(status)

    with pytest.raises(OutcomeUnknown, match=str(status)):
        await ask(open_door())


async def test_a_refusal_before_beginning_is_known_to_have_done_nothing(sister: Doors) -> None:
    server, open_door = sister
    server.answers(503)

    with pytest.raises(Overloaded):
        await ask(open_door())


async def test_a_disk_of_the_other_side_that_fails_leaves_the_outcome_unknown(sister: Doors) -> None:
    server, open_door = sister
    server.answers(503, '{"type": "/problems/storage-unavailable"}')

    with pytest.raises(StorageUnavailable):
        await ask(open_door())


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_a_question_that_the_other_side_does_not_understand_is_a_bug(sister: Doors, status: int) -> None:
    server, open_door = sister
    server.answers(status)

    with pytest.raises(InvariantBroken, match=str(status)):
        await ask(open_door())


async def test_a_connection_that_breaks_leaves_the_outcome_unknown(sister: Doors) -> None:
    server, open_door = sister
    server.answer = b""

    with pytest.raises(OutcomeUnknown):
        await ask(open_door())
    assert len(server.asked) == len(doors.PAUSES_SECONDS)


async def test_an_answer_that_does_not_come_leaves_the_outcome_unknown(
    sister: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "TIMEOUT_SECONDS", 0.1)
    server, open_door = sister
    server.answer = None

    with pytest.raises(OutcomeUnknown, match="ReadTimeout"):
        await ask(open_door())


async def test_a_service_that_is_not_there_has_done_nothing() -> None:
    door = Door("http://127.0.0.1:1", caller="payment", secret=SECRET, clock=system_clock)

    with pytest.raises(Overloaded):
        await ask(door)
    await door.close()


async def test_where_one_process_is_away_another_one_is_asked(sister: Doors) -> None:
    server, open_door = sister
    server.answers(200, '{"double": 42}')
    door = Door(
        "http://127.0.0.1:1", open_door()._replicas.take().url, caller="payment", secret=SECRET, clock=system_clock
    )

    assert [await ask(door) for _ in range(4)] == [Answer(42)] * 4
    await door.close()


async def test_a_call_whose_connection_breaks_is_repeated_with_the_same_body(sister: Doors) -> None:
    """As when the other side stops just as it is asked: what is asked through a door is harmless when repeated."""
    server, open_door = sister
    server.answers(200, '{"double": 42}')
    server.breaks_first = 1

    assert await ask(open_door()) == Answer(42)
    assert len(server.asked) == 2
    assert len({request.partition(b"\r\n\r\n")[2] for request in server.asked}) == 1


async def test_what_was_sent_once_is_unknown_even_if_the_other_side_is_away_afterwards(sister: Doors) -> None:
    server, open_door = sister
    server.answer = b""
    door = open_door()
    for _ in range(FAILURES_IN_A_ROW - 1):
        door._replicas.take().failed()

    with pytest.raises(OutcomeUnknown):
        await ask(door)
    assert sum(request.startswith(b"POST") for request in server.asked) == 1  # then the address rests


async def test_the_other_side_is_told_how_long_the_answer_is_waited_for(sister: Doors) -> None:
    server, open_door = sister
    server.answers(200, '{"double": 42}')
    await ask(open_door())

    assert 0 < int(header(server.asked[0], "x-time-left")) <= doors.TIMEOUT_SECONDS * 1000


async def test_public_documents_are_fetched_without_a_token(sister: Doors) -> None:
    server, open_door = sister
    server.answers(200, '{"double": 42}')

    assert await open_door().get("/.well-known/double", Answer) == Answer(42)
    assert b"authorization" not in server.asked[0].lower()


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_a_long_list_is_cut_into_bodies_that_a_service_takes(count: int) -> None:
    items = [{"number": number, "text": "é" * (number % 300)} for number in range(count)]

    bodies = [msgspec.json.encode({"events": chunk}) for chunk in chunks(items)]

    assert [item for body in bodies for item in msgspec.json.decode(body)["events"]] == items
    assert all(len(body) <= MAXIMUM_BODY_BYTES for body in bodies)
    assert len(bodies) <= 1 + 2 * sum(map(len, bodies)) // MAXIMUM_BODY_BYTES


def test_an_item_that_no_body_can_hold_is_sent_alone_for_the_other_side_to_refuse() -> None:
    sizes = [len(chunk) for chunk in chunks(["a", "b" * MAXIMUM_BODY_BYTES, "c"])]

    assert sizes == [1, 1, 1]
