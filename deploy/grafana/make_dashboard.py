"""Writes ewallet.json, Grafana's dashboard of the platform: ``python deploy/grafana/make_dashboard.py``.

Each row answers one question. Figures from the tables are shown by every process of a service, so the largest counts;
everything else is counted by each process for itself, and added up.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

DASHBOARD = Path(__file__).with_name("ewallet.json")
SOURCE = {"type": "prometheus", "uid": "${source}"}
COLUMNS = 3
WIDTH, HEIGHT = 24 // COLUMNS, 8


class Panel(NamedTuple):
    """A graph: each query with the legend of its lines. ``limit`` is where it turns red."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    limit: float | None = None


def quantile(percent: int, histogram: str, by: str, only: str = "") -> str:
    """The time in which so many of a hundred were done."""
    return f"histogram_quantile({percent / 100}, sum by (le, {by}) (rate({histogram}_bucket{only}[$__rate_interval])))"


def rate(counter: str, by: str) -> str:
    """How often a second."""
    return f"sum by ({by}) (rate({counter}[$__rate_interval]))"


def largest(gauge: str, by: str) -> str:
    """What every process of a service shows."""
    return f"max by ({by}) ({gauge})"


PAYING = '{route="/payment/initiate"}'

ROWS: dict[str, list[Panel]] = {
    "Is money moving?": [
        Panel("Payments a second", {"{{status}}": rate("ewallet_payments_total", "status")}, "ops"),
        Panel(
            "Captures, voids, expiries and refunds a second",
            {"{{kind}} {{status}}": rate("ewallet_operations_total", "kind, status")},
            "ops",
        ),
        Panel("Refusals a second", {"{{reason}}": rate("ewallet_refusals_total", "reason")}, "ops"),
    ],
    "How fast?": [
        Panel(
            "Time of a payment",
            {f"p{percent}": quantile(percent, "ewallet_request_seconds", "route", PAYING) for percent in (50, 90, 99)},
            "s",
            limit=1,
        ),
        Panel(
            "Time of 99 of 100 requests, by route",
            {"{{service}} {{route}}": quantile(99, "ewallet_request_seconds", "service, route")},
            "s",
            limit=1,
        ),
        Panel("Answers a second", {"{{service}} {{status}}": rate("ewallet_requests_total", "service, status")}, "ops"),
        Panel(
            "Time of 99 of 100 batches and commits",
            {
                "batch {{database}}": quantile(99, "ewallet_batch_seconds", "database"),
                "commit {{database}}": quantile(99, "ewallet_commit_seconds", "database"),
            },
            "s",
            limit=0.25,
        ),
        Panel(
            "Items in a batch",
            {
                "{{database}}": f"{rate('ewallet_batch_size_sum', 'database')}"
                f" / {rate('ewallet_batch_size_count', 'database')}"
            },
        ),
        Panel(
            "Time of 99 of 100 calls between services",
            {"{{caller}} {{path}} {{outcome}}": quantile(99, "ewallet_door_seconds", "caller, path, outcome")},
            "s",
            limit=1,
        ),
        Panel("Requests under way", {"{{service}}": "sum by (service) (ewallet_requests_under_way)"}),
    ],
    "Is anything stuck?": [
        Panel(
            "Age of the oldest that is unfinished",
            {
                "{{kind}}": largest('ewallet_unfinished_oldest_seconds{kind!="HOLD"}', "kind"),
                "event of {{service}}": largest("ewallet_outbox_oldest_seconds", "service"),
                "{{channel}}": largest("ewallet_deliveries_late_seconds", "channel"),
            },
            "s",
            limit=120,
        ),
        Panel(
            "Unfinished",
            {
                "{{kind}}": largest("ewallet_unfinished", "kind"),
                "events of {{service}}": largest("ewallet_outbox_waiting", "service"),
                "dead letters of {{service}}": largest("ewallet_outbox_dead_letters", "service"),
            },
        ),
        Panel("Turned away for overload", {"{{service}}": rate("ewallet_turned_away_total", "service")}, "ops"),
        Panel("Items that wait for a batch", {"{{database}}": largest("ewallet_queue_depth", "database")}, limit=1000),
        Panel(
            "What background work has done a second",
            {
                "recovered {{status}}": rate("ewallet_payments_recovered_total", "status"),
                "told for {{service}}": rate("ewallet_outbox_delivered_total", "service"),
                "{{channel}} {{verdict}}": rate("ewallet_deliveries_total", "channel, verdict"),
            },
            "ops",
        ),
        Panel(
            "What has failed in ten minutes",
            {
                "recovery": "sum(increase(ewallet_recovery_failures_total[10m]))",
                "rounds of {{worker}}": "sum by (worker) (increase(ewallet_worker_errors_total[10m]))",
                "events of {{service}} given up": "sum by (service) (increase(ewallet_outbox_dead_total[10m]))",
                "retries of {{database}}": "sum by (database) (increase(ewallet_transaction_retries_total[10m]))",
                "spans lost": "sum(increase(ewallet_spans_lost_total[10m]))",
            },
        ),
        Panel(
            "Time since a worker's last good round",
            {"{{worker}}": f"time() - {largest('ewallet_worker_last_success_timestamp_seconds', 'worker')}"},
            "s",
            limit=300,
        ),
    ],
    "Are the books right?": [
        Panel(
            "Off balance, in minor units",
            {"{{currency}}": largest("abs(ewallet_ledger_imbalance)", "currency")},
            limit=1,
        ),
        Panel(
            "Who holds the money, in minor units",
            {
                "{{owner}} {{currency}}": largest('ewallet_ledger_balance{owner!="cash"}', "owner, currency"),
                "held {{currency}}": largest("ewallet_ledger_held", "currency"),
            },
        ),
        Panel(
            "What reconciliation found",
            {
                "left for a person": "max(ewallet_disagreements_left)",
                "{{settled}} in an hour": "sum by (settled) (increase(ewallet_disagreements_total[1h]))",
            },
            limit=1,
        ),
        Panel("Who relays", {"{{instance}} {{service}} {{lease}}": "ewallet_lease_held"}),
    ],
    "How are the processes?": [
        Panel("Processors", {"{{instance}}": "rate(process_cpu_seconds_total[$__rate_interval])"}),
        Panel("Memory", {"{{instance}}": "process_resident_memory_bytes"}, "bytes"),
        Panel("Open files and connections", {"{{instance}}": "process_open_fds"}),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "title": "ewallet",
        "uid": "ewallet",
        "description": "Is money moving, how fast, is anything stuck?",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": _panels(),
    }


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    top = 0
    for question, row in ROWS.items():
        panels.append({"type": "row", "title": question, "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}})
        top += 1
        for place, panel in enumerate(row):
            line, column = divmod(place, COLUMNS)
            panels.append(_graph(panel, x=column * WIDTH, y=top + line * HEIGHT))
        top += -(-len(row) // COLUMNS) * HEIGHT
    return [{"id": number, **panel} for number, panel in enumerate(panels, start=1)]


def _graph(panel: Panel, *, x: int, y: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.limit is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.limit}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": f"Q{number}", "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for number, (legend, query) in enumerate(panel.queries.items(), start=1)
        ],
    }


def as_text() -> str:
    """What is in the file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(as_text(), encoding="utf-8")
