"""The command `notifications`: what could not be delivered outside, sending it again, and what templates look like."""

from typing import Any

from sqlalchemy import Row

from ewallet.cli.databases import opened
from ewallet.cli.terminal import Stopped, columns, standard_output
from ewallet.kernel.clock import rfc3339, system_clock
from ewallet.notification import store
from ewallet.notification.domain.samples import recipient_of, sample
from ewallet.notification.domain.words import EVENTS, parts, render
from ewallet.notification.templates import load_languages, load_layouts
from ewallet.notification.webhooks import payload
from ewallet.plumbing.settings import Settings

SHOWN = 100


def dead_letters(settings: Settings, *, again: bool) -> None:
    """Show the latest deliveries that were given up; with ``again``, have all of them sent again."""
    output = standard_output()
    with opened(settings, "notification") as database:
        rows = database.read(lambda tx: store.dead_letters(tx, limit=SHOWN))
        revived = database.transact(lambda tx: store.revive(tx, system_clock())) if again else 0
    if not rows:
        output.print("[green]✓[/] there are no dead letters")
        return
    table = columns("delivery", "event", "receiver", "attempts", "given up", "because", right=("attempts",))
    for row in rows:
        table.add_row(*_cells(row))
    output.print(table)
    if again:
        output.print(f"{revived} of them will be sent again by the running platform, or by the next one")


def preview(settings: Settings, event: str, *, locale: str, channel: str) -> None:
    """Show an example of an event as each of its recipients gets it; Stopped for an event or a locale that is none."""
    languages = load_languages(settings.templates, settings.locale)
    locale = locale or settings.locale
    if event not in EVENTS:
        raise Stopped(f"There is no event {event}; there are {', '.join(sorted(EVENTS))}.")
    if locale not in languages.by_locale:
        raise Stopped(f"There are no templates {locale}; there are {', '.join(languages.by_locale)}.")
    output, data = standard_output(), sample(event)
    if channel == "webhook":
        output.print(payload(event, system_clock(), data), markup=False, soft_wrap=True)
        return
    layouts = load_layouts(settings.templates)
    for part in parts(event):
        recipient = recipient_of(part)
        text = render(languages.by_locale[locale], event, data, [recipient])[recipient]
        shown = (
            (text.title, text.body)
            if channel == "inbox"
            else layouts.laid_out(locale, title=text.title, body=text.body)
        )
        output.print(f"[dim]to the {part}[/]")
        output.print("\n".join(shown), markup=False, soft_wrap=True)


def _cells(row: Row[Any]) -> tuple[str, ...]:
    return row.id, row.event, row.receiver, str(row.attempts), rfc3339(row.updated_at), row.last_error or ""
