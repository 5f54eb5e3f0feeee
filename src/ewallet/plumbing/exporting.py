"""Sending traces to an OpenTelemetry collector: OTLP over HTTP, in the background. Loaded only where that is wanted."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from ewallet import __version__
from ewallet.plumbing import tracing
from ewallet.plumbing.telemetry import SPANS_LOST

log = structlog.get_logger()

MAXIMUM_LINKS = 512
"""A batch links to each of its requests; the default of 128 would leave some out."""

EXPORT_SECONDS = 5
"""For one call of the collector. Whoever stops waits that long at most."""


class _Exporter(OTLPSpanExporter):
    """Tells when the collector goes away and when it is back; OpenTelemetry's own has three lines for each call."""

    _away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send some spans; what cannot be sent is lost, and counted."""
        result = super().export(spans)
        away = result is not SpanExportResult.SUCCESS
        if away:
            SPANS_LOST.inc(len(spans))
        if away != self._away:
            self._away = away
            log.warning("traces.collector_away" if away else "traces.collector_back")
        return result


@contextmanager
def exported_traces(url: str, *, percent: int, name: str) -> Iterator[None]:
    """Send traces to the collector at ``url`` until the block is left, as those of a program of this name.

    So many of a hundred traces are kept. Which ones follows from their ids, so that all services agree without asking
    each other, and no client can make us keep more.
    """
    provider = TracerProvider(
        sampler=TraceIdRatioBased(percent / 100),
        resource=Resource.create(
            {"service.name": name, "service.version": __version__, "service.instance.id": str(os.getpid())}
        ),
        span_limits=SpanLimits(max_links=MAXIMUM_LINKS),
        shutdown_on_exit=False,
    )
    logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)
    exporter = _Exporter(f"{url.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracing.switch_on(provider)
    try:
        yield
    finally:
        tracing.switch_off()
        provider.shutdown()
