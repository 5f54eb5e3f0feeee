"""Logs and metrics: one JSON object a line with the ids of its request and trace on it, and Prometheus counters.

Secrets do not reach a log: nothing here logs bodies or headers, and :func:`configure_logging` blanks the values of
fields whose names say that they are secret.
"""

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from functools import cache
from typing import Any

import msgspec
import structlog
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from ewallet.kernel.clock import rfc3339, system_clock
from ewallet.plumbing import tracing

# A date beside each of our counters and histograms, which nobody asks for, would be a third of all series.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left its types out

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# --- requests

REQUESTS = Counter("ewallet_requests_total", "Answered requests.", ["service", "method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "ewallet_request_seconds",
    "Time from a request's first byte to the head of its answer.",
    ["service", "route"],
    buckets=_SECONDS,
)
REQUESTS_UNDER_WAY = Gauge("ewallet_requests_under_way", "Requests that are being answered now.", ["service"])
REFUSALS = Counter("ewallet_refusals_total", "Requests answered with a problem, by its slug.", ["service", "reason"])
TURNED_AWAY = Counter(
    "ewallet_turned_away_total", "Requests refused for overload before they were read, by service.", ["service"]
)

DOOR_SECONDS = Histogram(
    "ewallet_door_seconds",
    "Time of a call to another service, its repetitions included; the outcome is `answered` or an error's name.",
    ["caller", "path", "outcome"],
    buckets=_SECONDS,
)

# --- batches and transactions

BATCH_SIZE = Histogram(
    "ewallet_batch_size", "Items in one batch.", ["database"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
BATCH_SECONDS = Histogram(
    "ewallet_batch_seconds", "Time of one batch, its commit included.", ["database"], buckets=_SECONDS
)
COMMIT_SECONDS = Histogram(
    "ewallet_commit_seconds", "Time of one COMMIT of a write transaction.", ["database"], buckets=_SECONDS
)
TRANSACTION_RETRIES = Counter(
    "ewallet_transaction_retries_total", "Transactions begun again after a transient error.", ["database"]
)
QUEUE_DEPTH = Gauge("ewallet_queue_depth", "Items waiting for a batch now.", ["database"])

# --- payments

PAYMENTS = Counter("ewallet_payments_total", "Payments that came to an outcome.", ["status"])
OPERATIONS = Counter("ewallet_operations_total", "Captures, voids, expiries and refunds.", ["kind", "status"])
PAYMENTS_RECOVERED = Counter(
    "ewallet_payments_recovered_total", "Payments and operations on them finished by recovery.", ["status"]
)
RECOVERY_FAILURES = Counter(
    "ewallet_recovery_failures_total", "Attempts of recovery to finish a payment or operation that failed."
)

# --- background work

OUTBOX_DELIVERED = Counter("ewallet_outbox_delivered_total", "Events taken by notification.", ["service"])
OUTBOX_DEAD = Counter("ewallet_outbox_dead_total", "Events given up and kept in the dead-letter list.", ["service"])
DELIVERIES = Counter("ewallet_deliveries_total", "Attempts to deliver an event outside.", ["channel", "verdict"])
WORKER_ERRORS = Counter("ewallet_worker_errors_total", "Rounds of background work that failed.", ["worker"])
WORKER_LAST_SUCCESS = Gauge(
    "ewallet_worker_last_success_timestamp_seconds", "When a round of background work last went well.", ["worker"]
)
LEASE_HELD = Gauge("ewallet_lease_held", "Whether this process holds a lease.", ["service", "lease"])

DISAGREEMENTS = Counter(
    "ewallet_disagreements_total",
    "Disagreements that reconciliation found, put right or left for a person.",
    ["settled"],
)
DISAGREEMENTS_LEFT = Gauge(
    "ewallet_disagreements_left", "Disagreements that the last reconciliation has left for a person."
)

SPANS_LOST = Counter("ewallet_spans_lost_total", "Parts of traces that the collector did not take.")

# --- what the tables tell, read now and then by every process of a service (figures.py)

UNFINISHED = Gauge("ewallet_unfinished", "Payments and operations that have not come to their end.", ["kind"])
UNFINISHED_OLDEST = Gauge("ewallet_unfinished_oldest_seconds", "Age of the oldest of them.", ["kind"])
OUTBOX_WAITING = Gauge("ewallet_outbox_waiting", "Events that notification does not have yet.", ["service"])
OUTBOX_OLDEST = Gauge("ewallet_outbox_oldest_seconds", "Age of the oldest of them.", ["service"])
OUTBOX_DEAD_LETTERS = Gauge("ewallet_outbox_dead_letters", "Events in the dead-letter list.", ["service"])
DELIVERIES_LATE = Gauge(
    "ewallet_deliveries_late_seconds", "How long whoever has waited longest for a delivery that is due.", ["channel"]
)
LEDGER_BALANCE = Gauge(
    "ewallet_ledger_balance", "What all accounts of one kind of owner hold, in minor units.", ["currency", "owner"]
)
LEDGER_HELD = Gauge("ewallet_ledger_held", "The part of it that is held for payments, in minor units.", ["currency"])
LEDGER_IMBALANCE = Gauge(
    "ewallet_ledger_imbalance",
    "Sum of all accounts of a currency, in minor units; anything but 0 is a bug.",
    ["currency"],
)

request_in_hand: ContextVar[str | None] = ContextVar("request_in_hand", default=None)
"""The id of the request that is being served, for its log lines. structlog's own variables cost twice as much: it looks
through all variables of the context for each line."""

# Whatever is logged gets onto the line, if need be as its representation.
_encode = msgspec.json.Encoder(enc_hook=repr).encode

_SECRET_WORDS = ("password", "secret", "token", "authorization", "private")


def configure_logging(level: str, log_format: str) -> None:
    """Set up structlog once for the process; ``auto`` is pretty on a terminal and JSON elsewhere."""
    pretty = log_format == "pretty" or (log_format == "auto" and sys.stderr.isatty())
    # Tracebacks are plain: the rich ones print local variables, and with them passwords and tokens.
    renderers: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if pretty
        else [structlog.processors.format_exc_info, _render_json]
    )
    structlog.configure(
        processors=[
            _add_ids,
            structlog.processors.add_log_level,
            _add_timestamp,
            _blank_secrets,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr)
        if pretty
        else structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    # Only what needs a person's eye comes through from libraries.
    logging.basicConfig(level=logging.WARNING, handlers=[_FromLibraries()], force=True)


class _FromLibraries(logging.Handler):
    """Gives what libraries say through the standard logging the form of our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"exc_info": record.exc_info} if record.exc_info else {}
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name, **fields)


def _add_ids(_logger: Any, _name: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    request_id = request_in_hand.get()
    if request_id is not None:
        fields["request_id"] = request_id
    trace_ids = tracing.ids()
    if trace_ids is not None:
        fields["trace_id"], fields["span_id"] = trace_ids
    return fields


def _add_timestamp(_logger: Any, _name: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    fields["timestamp"] = rfc3339(system_clock())
    return fields


def _render_json(_logger: Any, _name: str, fields: MutableMapping[str, Any]) -> bytes:
    return _encode(fields)


def _blank_secrets(_logger: Any, _name: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in filter(_is_secret, fields):
        fields[name] = "hidden"
    return fields


@cache
def _is_secret(name: str) -> bool:
    """Whether a field's name says so; the program has a few dozen of them."""
    return any(word in name.lower() for word in _SECRET_WORDS)
