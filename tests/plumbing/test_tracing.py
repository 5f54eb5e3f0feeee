"""Traces cost nothing while nobody wants them, go on where a request names one, and tell no secrets."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from ewallet.plumbing import tracing
from ewallet.plumbing.batching import Gatherer

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Switch traces on; the finished spans can be asked for."""
    finished = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(finished))
    tracing.switch_on(provider)
    yield finished
    tracing.switch_off()
    provider.shutdown()


def the_one(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = spans.get_finished_spans()
    return span


def test_without_a_collector_no_sdk_is_loaded_and_nothing_is_kept() -> None:
    """It would be megabytes of memory and tenths of a second at every start."""
    script = (
        "import sys, ewallet.together\n"
        "from ewallet.plumbing import tracing\n"
        "with tracing.span('test', 'work') as span:\n"
        "    print(span, repr(tracing.here()), tracing.ids(), tracing.headers())\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'google.protobuf'))])\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert finished.stdout.splitlines() == ["None '' None {}", "[]"]


def test_a_request_goes_on_with_the_trace_that_it_names(spans: InMemorySpanExporter) -> None:
    with tracing.serving("test", "GET", [(b"traceparent", PARENT.encode()), (b"tracestate", b"a=1"), (b"x", b"y")]):
        kept, told = tracing.here(), tracing.headers()

    span = the_one(spans)
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert kept == f"00-{TRACE}-{span.context.span_id:016x}-01 a=1"
    assert told == {"traceparent": kept.partition(" ")[0], "tracestate": "a=1"}


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"traceparent", b"")],
        [(b"traceparent", b"00-made-up-01")],
        [(b"traceparent", b"\xff" * 600)],
        [(b"traceparent", PARENT.encode()), (b"traceparent", PARENT.encode())],
    ],
    ids=["none", "an empty one", "no trace", "bytes", "two"],
)
def test_a_request_that_names_no_trace_begins_one(
    spans: InMemorySpanExporter, headers: list[tuple[bytes, bytes]]
) -> None:
    with tracing.serving("test", "GET", headers):
        pass

    assert the_one(spans).parent is None


def test_what_is_passed_on_names_our_span_instead_of_the_clients(spans: InMemorySpanExporter) -> None:
    given = [(b"traceparent", PARENT.encode()), (b"accept", b"*/*")]
    with tracing.serving("test", "GET", given):
        passed = dict(tracing.onward(given))
        here = tracing.here()

    assert passed == {b"accept": b"*/*", b"traceparent": here.encode()}
    assert the_one(spans).parent is not None


def test_an_error_is_told_by_its_kind_and_not_by_its_words(spans: InMemorySpanExporter) -> None:
    with pytest.raises(KeyError), tracing.span("test", "work"):
        raise KeyError("usr_somebody")

    span = the_one(spans)
    assert span.status.description == "KeyError"
    assert span.events == ()


async def test_a_batch_belongs_to_nobody_and_links_to_all(spans: InMemorySpanExporter) -> None:
    async def run(items: list[int]) -> list[int]:
        return items

    gatherer: Gatherer[int, int] = Gatherer(run, name="test-traces")  # type: ignore[arg-type]  # a list is a sequence

    async def one(number: int) -> None:
        with tracing.span("test", "work"):
            await gatherer.submit(number)

    await asyncio.gather(*(one(number) for number in range(200)))

    finished = spans.get_finished_spans()
    (batch,) = [span for span in finished if span.name == "test-traces batch"]
    work = {span.context.span_id for span in finished if span.name == "work"}
    assert batch.parent is None
    assert {link.context.span_id for link in batch.links} <= work
    assert len(batch.links) > 1


def test_of_a_trace_that_is_not_kept_nothing_is_whatever_the_client_says() -> None:
    """Its id decides, so that services agree. It goes on nevertheless: the next service decides the same."""
    finished = InMemorySpanExporter()
    provider = TracerProvider(sampler=TraceIdRatioBased(0), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(finished))
    tracing.switch_on(provider)
    try:
        with tracing.serving("test", "GET", [(b"traceparent", PARENT.encode())]):
            kept = tracing.here()
            assert kept.startswith(f"00-{TRACE}-")
            assert kept.endswith("-00")
            with tracing.span("test", "a part of it") as part:
                assert part is None
        assert tracing.begun("test", "a part of it, later", parent=kept) is None
        with tracing.batch("test", "one of many", [kept]) as batch:
            assert batch is None
    finally:
        tracing.switch_off()

    assert finished.get_finished_spans() == ()
