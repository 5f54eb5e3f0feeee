"""The figures of a run: as a table on the terminal, and as a page with a picture."""

import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import cpu_count
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bench import ceilings
from bench.load import Latency, Load

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
PICTURE = DOCUMENT.with_suffix(".svg")
BEGIN, END = "<!-- figures: written by make bench WRITE=1 -->", "<!-- end of the figures -->"

COLUMNS = ("", "per second", "of the limit", "p50 ms", "p90 ms", "p99 ms", "max ms", "CPU ms")


class Row(NamedTuple):
    """One load: what was answered per second, how late, and the processor time of each."""

    what: str
    per_second: float
    latency: Latency | None = None
    processor_milliseconds: float | None = None


@dataclass
class Figures:
    """What a run gave; ``notes`` are pairs of a name and what was seen."""

    echo: Load
    store: float
    rows: list[Row] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """Payments per second of a platform that does nothing but answer HTTP and store its batches, in one thread."""
        return ceilings.limit(self.echo.per_second, self.store)

    def cells(self) -> list[tuple[str, ...]]:
        """The table, a line each."""
        ceilings = [
            Row("ceiling: bare ASGI echo", self.echo.per_second, self.echo.latency),
            Row("ceiling: the same batches without HTTP", self.store),
            Row("limit: 1 / (1/echo + 1/batches)", self.limit),
        ]
        return [self._line(row) for row in (*self.rows, *ceilings)]

    def _line(self, row: Row) -> tuple[str, ...]:
        share = f"{row.per_second / self.limit:.0%}" if row.what.startswith("payments") else ""
        latency = [f"{value:,.1f}" for value in row.latency] if row.latency else [""] * 4
        processor = "" if row.processor_milliseconds is None else f"{row.processor_milliseconds:.2f}"
        return (row.what, f"{row.per_second:,.0f}", share, *latency, processor)


def machine() -> str:
    """Where and when."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def print_figures(console: Console, figures: Figures) -> None:
    """A table and the notes."""
    table = Table(title="SQLite, synchronous=FULL, one process")
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if number else "left")
    for line in figures.cells():
        table.add_row(*line)
    console.print(table)
    for name, note in figures.notes:
        console.print(f"{name}: {note}")


def write_document(figures: Figures) -> None:
    """Put the table into the page, between its two marks, and draw the picture."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    lines = [
        f"Measured on {machine()}.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| --- |" + " ---: |" * (len(COLUMNS) - 1),
        *("| " + " | ".join(line) + " |" for line in figures.cells()),
        "",
        *(f"- {name}: {note}" for name, note in figures.notes),
    ]
    DOCUMENT.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")
    _draw(figures)


def _draw(figures: Figures) -> None:
    """Payments per second as bars, beside the limit."""
    rows = [row for row in reversed(figures.rows) if row.what.startswith("payments")]
    figure = Figure(figsize=(9, 0.45 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([row.what for row in rows], [row.per_second for row in rows], color="#2b6cb0")
    axes.bar_label(bars, fmt="{:,.0f}", padding=4)
    axes.axvline(figures.limit, color="#c05621", linestyle="--")
    axes.annotate("limit", (figures.limit, len(rows) - 0.4), color="#c05621", ha="right", va="bottom")
    axes.set_xlabel("payments per second")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Date": None})
