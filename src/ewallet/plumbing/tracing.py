"""Traces: where a request spends its time, across services, as OpenTelemetry spans.

Off unless a collector is configured; then a call here is a look at one variable, and the SDK is not even loaded.

What is done later on a request's behalf keeps its *trace*: a W3C ``traceparent``, with ``tracestate`` behind a space
where there is one, or an empty text. A batch belongs to many requests: its span has no parent and links to each.

Spans say what was done, not for whom and how much: no ids of people, no amounts, no messages of errors.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Headers = list[tuple[bytes, bytes]]
"""Names in lower case with their values, as ASGI has them."""

_PARENT, _STATE = "traceparent", "tracestate"
_HEADERS = frozenset({_PARENT.encode(), _STATE.encode()})

_FLAGS = slice(54, 55)
_ODD = frozenset("13579bdf")
"""The last digit of a ``traceparent``, and those that are odd."""

_propagator = TraceContextTextMapPropagator()
_tracers: dict[str, Tracer] = {}
_provider: TracerProvider | None = None
_off: AbstractContextManager[None] = nullcontext()


def switch_on(provider: TracerProvider) -> None:
    """Give spans to ``provider`` from now on."""
    global _provider  # noqa: PLW0603  # on or off is a matter of the process, like its log
    _tracers.clear()
    _provider = provider


def switch_off() -> None:
    """Make no more spans."""
    global _provider  # noqa: PLW0603  # see above
    _provider = None


# --- spans --------------------------------------------------------------------------------------------------------


def span(
    service: str, name: str, *, parent: str = "", links: Iterable[str] = (), kind: SpanKind = SpanKind.INTERNAL
) -> AbstractContextManager[Span | None]:
    """A span around a block, within ``parent`` or else the span around it, with links to other traces.

    There is none within a trace that is not kept.
    """
    if _provider is None or _is_left_out(parent):
        return _off
    return _around(_started(service, name, parent, links, kind))


def begun(
    service: str, name: str, *, parent: str, links: Iterable[str] = (), kind: SpanKind = SpanKind.INTERNAL
) -> Span | None:
    """A span that whoever called ends; :func:`within` it, others may begin. None as for :func:`span`."""
    if _provider is None or _is_left_out(parent):
        return None
    return _started(service, name, parent, links, kind)


def within(current: Span | None) -> AbstractContextManager[Span | None]:
    """A block whose spans belong to this one, which goes on behind it."""
    return _off if current is None else trace.use_span(current, record_exception=False, set_status_on_exception=False)


def serving(service: str, method: str, headers: Headers) -> AbstractContextManager[Span | None]:
    """A span for a request with these headers, whose trace it continues where they name one."""
    if _provider is None:
        return _off
    return _around(_started(service, method, _trace_in(headers), (), SpanKind.SERVER))


def batch(service: str, name: str, traces: Iterable[str]) -> AbstractContextManager[Span | None]:
    """A span of its own for what is done for many at once, if a trace of theirs is kept."""
    if _provider is None:
        return _off
    kept = [each for each in traces if _is_kept(each)]
    return _around(_started(service, name, "", kept, SpanKind.INTERNAL)) if kept else _off


def answered(current: Span, *, method: str, route: str, status: int, request_id: str) -> None:
    """What is known of a request at its end."""
    current.update_name(f"{method} {route}")
    current.set_attributes(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "ewallet.request_id": request_id,
        }
    )
    if status >= 500:
        current.set_status(StatusCode.ERROR)


def _is_left_out(parent: str) -> bool:
    """Whether what would be done belongs to a trace that the sampler has decided not to keep."""
    if parent:
        return not _is_kept(parent)
    current = trace.get_current_span().get_span_context()
    return current.is_valid and not current.trace_flags.sampled


def _is_kept(kept: str) -> bool:
    """Whether a trace of ours is: the last bit of its flags (Trace Context, section 3.2.2.5)."""
    return kept[_FLAGS] in _ODD


def _started(service: str, name: str, parent: str, links: Iterable[str], kind: SpanKind) -> Span:
    tracer = _tracers.get(service)
    if tracer is None:
        tracer = _tracers[service] = (_provider or trace.NoOpTracerProvider()).get_tracer(f"ewallet.{service}")
    return tracer.start_span(
        name,
        context=_context_of(parent) if parent else None,
        kind=kind,
        links=[
            Link(trace.get_current_span(_context_of(each)).get_span_context())
            for each in links
            if each != parent and _is_kept(each)
        ],
    )


@contextmanager
def _around(current: Span) -> Iterator[Span]:
    with trace.use_span(current, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield current
        except Exception as error:
            current.set_status(StatusCode.ERROR, type(error).__name__)
            raise


# --- from one to the next -----------------------------------------------------------------------------------------


def here() -> str:
    """The trace of what is being done, to be kept with what will be done on its behalf."""
    if _provider is None:
        return ""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return " ".join(filter(None, (carrier.get(_PARENT), carrier.get(_STATE))))


def ids() -> tuple[str, str] | None:
    """The ids of the trace and the span of what is being done, as hexadecimal texts."""
    if _provider is None:
        return None
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return None
    return trace.format_trace_id(current.trace_id), trace.format_span_id(current.span_id)


def headers() -> dict[str, str]:
    """What tells the other side of a call to go on with this trace."""
    carrier: dict[str, str] = {}
    if _provider is not None:
        _propagator.inject(carrier)
    return carrier


def onward(given: Headers) -> Headers:
    """A request's headers for the service that it is passed on to: as they are, or with our span in the trace."""
    if _provider is None:
        return given
    ours = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers().items()]
    return [header for header in given if header[0] not in _HEADERS] + ours


def _trace_in(given: Headers) -> str:
    """The trace that a request names; empty where it names none, or more than one."""
    parents = [value for name, value in given if name == _PARENT.encode()]
    states = [value for name, value in given if name == _STATE.encode()]
    return b" ".join((*parents, b",".join(states))).decode("latin-1").strip() if len(parents) == 1 else ""


def _context_of(kept: str) -> Context:
    """The context in a trace; an empty one where somebody made it up."""
    parent, _, state = kept.partition(" ")
    return _propagator.extract({_PARENT: parent, _STATE: state} if state else {_PARENT: parent}, Context())
