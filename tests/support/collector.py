"""An OpenTelemetry collector: takes OTLP over HTTP as a real one does, and keeps every span that it is sent."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Span:
    """A span as it came over the wire. ``program`` and ``scope`` say who made it, ``text`` is all that it says."""

    program: str
    scope: str
    name: str
    trace: str
    id: str
    parent: str
    state: str
    attributes: dict[str, Any]
    links: frozenset[str]
    failed: bool
    text: str


@dataclass
class Collector:
    """What has come so far."""

    url: str
    spans: list[Span] = field(default_factory=list)

    def of(self, trace: str) -> list[Span]:
        return [span for span in list(self.spans) if span.trace == trace]

    def linked_to(self, trace: str) -> list[Span]:
        """Spans of other traces that link to this one."""
        ids = {span.id for span in self.of(trace)}
        return [span for span in list(self.spans) if span.links & ids and span.trace != trace]

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            program = _attributes(resource.resource)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_span(program, scope.scope.name, span) for span in scope.spans]


@contextmanager
def running_collector(port: int) -> Iterator[Collector]:
    """A collector on this port of 127.0.0.1."""
    collector = Collector(f"http://127.0.0.1:{port}")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _span(program: str, scope: str, span: Any) -> Span:
    return Span(
        program=program,
        scope=scope,
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        state=span.trace_state,
        attributes=_attributes(span),
        links=frozenset(link.span_id.hex() for link in span.links),
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        text=str([span.name, span.attributes, span.events, span.status]),
    )


def _attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}
