"""The command line: starts the platform and looks after it.

Every command imports what it needs when it runs, so that `ewallet --help` does not load a web server. Whatever goes
wrong for a reason that a person can mend ends as one sentence on stderr: exit status 2 for a wrong setting, 1 for
everything else. A stack trace is always a bug.
"""

import gc
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ewallet import __version__
from ewallet.cli.terminal import Stopped, complain
from ewallet.plumbing.settings import SERVICES, SettingsError, documented_settings, load_settings

application = typer.Typer(
    name="ewallet",
    help="An e-wallet and payment platform: people pay merchants, and the ledger always balances.",
    no_args_is_help=True,
    add_completion=False,
    # Typer's own tracebacks print local variables, and with them passwords and tokens.
    pretty_exceptions_enable=False,
)


class DataService(StrEnum):
    """A service with a database."""

    AUTH = "auth"
    WALLET = "wallet"
    PAYMENT = "payment"
    NOTIFICATION = "notification"


class Service(StrEnum):
    """A service that can run alone."""

    AUTH = "auth"
    WALLET = "wallet"
    PAYMENT = "payment"
    NOTIFICATION = "notification"
    GATEWAY = "gateway"


class Channel(StrEnum):
    """A way in which an event reaches somebody."""

    INBOX = "inbox"
    EMAIL = "email"
    WEBHOOK = "webhook"


def main() -> None:
    """Run the command line."""
    try:
        application()
    except SettingsError as error:
        complain(str(error))
        sys.exit(2)
    except Stopped as error:
        complain(str(error))
        sys.exit(1)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"ewallet {__version__}")
        raise typer.Exit


@application.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself; the version is shown by its callback."""


@application.command()
def up() -> None:
    """Start the whole platform in this process; Ctrl-C stops it."""
    gc.disable()  # what is loaded stays: to look for garbage meanwhile is a sixth of the start
    from ewallet.cli import serving

    serving.up(load_settings())


@application.command()
def serve(
    service: Annotated[Service, typer.Argument(help="Which one.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port; on SQLite one.")] = 1,
) -> None:
    """Start one service alone; it reaches the others over HTTP (EWALLET_AUTH_URL and so on)."""
    gc.disable()
    from ewallet.cli import serving

    serving.serve(load_settings(), service.value, workers=workers)


@application.command()
def migrate(
    service: Annotated[DataService | None, typer.Argument(help="Which one; all four, if not given.")] = None,
) -> None:
    """Bring the databases to this version's schema. `up` and `serve` do so by themselves."""
    from ewallet.cli import databases

    databases.migrate_and_report(load_settings(), [service.value] if service else SERVICES)


@application.command()
def verify() -> None:
    """Recompute every balance, every currency's sum and every audit chain; exit status 1 when anything is wrong."""
    from ewallet.cli import verifying

    verifying.verify(load_settings())


@application.command()
def backup(folder: Annotated[Path, typer.Argument(help="An empty folder, or one to be made.")]) -> None:
    """Copy all data, as of one moment, into a folder; works while the platform runs. SQLite only."""
    from ewallet.cli import backups

    backups.back_up(load_settings(), folder)


@application.command()
def restore(folder: Annotated[Path, typer.Argument(help="What `backup` has filled.")]) -> None:
    """Put a backup into an empty data folder, where the platform does not run."""
    from ewallet.cli import backups

    backups.restore(load_settings(), folder)


@application.command()
def reconcile() -> None:
    """Compare payments with the wallet and put right what can be; exit status 1 when anything is left."""
    from ewallet.cli import reconciling

    reconciling.reconcile(load_settings())


notifications = typer.Typer()
application.add_typer(notifications, name="notifications", invoke_without_command=True)


@notifications.callback()
def _dead_letters(
    context: typer.Context,
    *,
    again: Annotated[bool, typer.Option("--again", help="Have all of them sent again.")] = False,
) -> None:
    """List what was given up after a day of attempts to deliver it outside, latest first."""
    from ewallet.cli import notifying

    if context.invoked_subcommand is None:
        notifying.dead_letters(load_settings(), again=again)


@notifications.command()
def preview(
    event: Annotated[str, typer.Argument(help="Its name, such as payment.succeeded.")],
    locale: Annotated[str, typer.Option(help="In which language; EWALLET_LOCALE, if not given.")] = "",
    channel: Annotated[Channel, typer.Option(help="As which channel shows it.")] = Channel.INBOX,
) -> None:
    """Show what people are told of an event, by the templates in use and an example."""
    from ewallet.cli import notifying

    notifying.preview(load_settings(), event, locale=locale, channel=channel.value)


@application.command()
def demo(
    url: Annotated[str, typer.Option(help="Address of the running platform; from the settings, if not given.")] = "",
) -> None:
    """Watch a customer pay a merchant: registers two people, pays, is refused once, shows receipts and inboxes."""
    from ewallet.cli import demonstration

    demonstration.demonstrate(load_settings(), url)


@application.command()
def create_admin(
    email: Annotated[str, typer.Argument(help="E-mail address; EWALLET_ADMIN_EMAIL, if not given.")] = "",
) -> None:
    """Make an administrator. The password is asked for, or read from EWALLET_ADMIN_PASSWORD or standard input."""
    from ewallet.cli import administration

    administration.create_admin(load_settings(), email)


@application.command()
def rotate_key() -> None:
    """Sign access tokens with a new key from now on. Tokens signed with the old one stay valid till they expire."""
    from ewallet.cli import administration

    administration.rotate_key(load_settings())


@application.command()
def haproxy_config(
    pages: Annotated[str, typer.Option(help="Address of a Python gateway, which has the docs and problem pages.")],
    keys: Annotated[Path, typer.Option(help="Folder for auth's public keys, where HAProxy reads them at its start.")],
    certificate: Annotated[
        Path | None, typer.Option(help="HAProxy's certificate with its key, in PEM, to speak TLS with clients.")
    ] = None,
) -> None:
    """Print a configuration with which HAProxy, on EWALLET_HOST and EWALLET_PORT, does what the gateway does."""
    from ewallet.cli import proxying

    proxying.haproxy_config(load_settings(), pages=pages, keys=keys, certificate=certificate)


@application.command()
def settings() -> None:
    """List every setting with its default, as a Markdown table."""
    from ewallet.cli import reference

    typer.echo(reference.settings_table(documented_settings()))
