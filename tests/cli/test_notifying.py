"""`ewallet notifications` shows what was given up, and sends it again when asked to."""

from collections.abc import Callable

import pytest

from ewallet.cli.databases import migrate_all
from ewallet.cli.notifying import dead_letters, preview
from ewallet.cli.terminal import Stopped
from ewallet.kernel.ids import new_id
from ewallet.notification import store
from ewallet.notification.domain.deliveries import Progress, State
from ewallet.plumbing.database import Database, open_database
from ewallet.plumbing.settings import Settings, load_settings, variable
from tests.cli.conftest import Run
from tests.conftest import Backend
from tests.support.notification import MERCHANT, NOW


@pytest.fixture(params=["sqlite", "mariadb"])
def settings(request: pytest.FixtureRequest, fresh_databases: Callable[[Backend], dict[str, str]]) -> Settings:
    """Give the settings of a platform with one dead letter, for an endpoint that is on, and one for another."""
    urls = fresh_databases(request.param)
    made = load_settings({variable(f"{service}_database_url"): url for service, url in urls.items()})
    migrate_all(made, ["notification"])
    database = open_database(made.database_url("notification"), "notification")
    for number, status in enumerate(("ENABLED", "GONE"), start=1):
        _add_dead_letter(database, number, status)
    database.close()
    return made


def _add_dead_letter(database: Database, number: int, status: str) -> None:
    webhook_id = new_id("whk", NOW)
    webhook = {
        "id": webhook_id,
        "user_id": MERCHANT,
        "status": status,
        "url": "https://1.1.1.1/",
        "events": None,
        "secret": "whsec_",
        "created_at": NOW,
        "updated_at": NOW,
    }
    new = store.NewDelivery(f"dlv_{number}", webhook_id, f"evt_{number}", "payment.failed", "pay_1", "{}", NOW)
    given_up = store.Settlement(number, Progress(State.DEAD, 1, NOW), 500, "The receiver answered 500.", NOW)
    database.transact(lambda tx: store.add_webhook(tx, webhook))
    database.transact(lambda tx: store.add_deliveries(tx, [new]))
    database.transact(lambda tx: store.settle(tx, [given_up]))


def test_what_was_given_up_is_shown_with_the_reason(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    dead_letters(settings, again=False)

    shown = capsys.readouterr().out
    assert "dlv_1" in shown
    assert "dlv_2" in shown
    assert "The receiver answered 500." in shown


def test_what_can_be_sent_again_is_sent_again(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    dead_letters(settings, again=True)
    assert "1 of them" in capsys.readouterr().out

    dead_letters(settings, again=False)
    shown = capsys.readouterr().out
    assert "dlv_1" not in shown
    assert "dlv_2" in shown
    database = open_database(settings.database_url("notification"), "notification")
    claimed = database.transact(lambda tx: store.claim(tx, "own_1", ["webhook"], now=NOW * 2, seconds=5, limit=9))
    due = database.read(lambda tx: [row for each, _ in claimed for row in store.due(tx, each, NOW * 2, limit=9)])
    database.close()
    assert [(row.id, row.attempts) for row in due] == [("dlv_1", 0)]


def test_no_dead_letters_are_good_news(
    fresh_databases: Callable[[Backend], dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    urls = fresh_databases("sqlite")
    settings = load_settings({variable(f"{service}_database_url"): url for service, url in urls.items()})
    migrate_all(settings, ["notification"])

    dead_letters(settings, again=True)

    assert "no dead letters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"locale": "", "channel": "inbox"}, ["to the payer", "You paid €1,234.50", "to the payee", "order-1001"]),
        ({"locale": "de", "channel": "email"}, ["Sie haben 1.234,50\N{NO-BREAK SPACE}€ bezahlt", '<html lang="de">']),
        ({"locale": "", "channel": "webhook"}, ['{"type":"payment.succeeded"', '"amount":123450']),
    ],
)
def test_a_preview_shows_what_each_side_gets(
    options: dict[str, str], shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    preview(Settings(), "payment.succeeded", **options)

    printed = capsys.readouterr().out
    assert [part for part in shown if part not in printed] == []


@pytest.mark.parametrize(("event", "locale"), [("payment.exploded", ""), ("payment.failed", "xx")])
def test_a_preview_of_what_there_is_not_says_what_there_is(event: str, locale: str) -> None:
    with pytest.raises(Stopped, match=r"there are .*(de, en|payment\.succeeded)"):
        preview(Settings(), event, locale=locale, channel="inbox")


def test_the_command_line_knows_the_preview(run: Run) -> None:
    assert "You paid" in run("notifications", "preview", "payment.succeeded").out
    assert run("notifications", "preview", "payment.succeeded", "--locale", "xx").status == 1
