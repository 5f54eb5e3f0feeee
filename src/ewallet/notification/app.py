"""Notification put together: its database, its use cases, its background work, its HTTP side."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, closing
from functools import partial

from litestar import Litestar

from ewallet.kernel.clock import Clock, system_clock
from ewallet.kernel.ids import new_id
from ewallet.notification import store
from ewallet.notification.api import routes
from ewallet.notification.contacts import Contacts
from ewallet.notification.domain.endpoints import AddressRules
from ewallet.notification.senders import Sender
from ewallet.notification.senders.apprise import AppriseSender, apprise_urls
from ewallet.notification.senders.mail import MailSender, MailServer, MailWrong
from ewallet.notification.senders.outside import Outside, system_resolver
from ewallet.notification.senders.webhooks import WebhookSender
from ewallet.notification.service import NotificationService
from ewallet.notification.templates import load_languages, load_layouts
from ewallet.notification.webhooks import Webhooks
from ewallet.notification.worker import (
    FORGETTING_PAUSE_SECONDS,
    PAUSE_SECONDS,
    PROLONG_SECONDS,
    Dispatcher,
    Forgetting,
    Watch,
)
from ewallet.plumbing.database import open_database
from ewallet.plumbing.figures import Figures
from ewallet.plumbing.http.application import House, service_application
from ewallet.plumbing.settings import Settings, SettingsError
from ewallet.plumbing.tokens import Verifier
from ewallet.plumbing.worker import run_forever, working


def create_app(
    settings: Settings, *, verifier: Verifier, internal_secret: str, clock: Clock = system_clock
) -> House[NotificationService]:
    """Notification on its migrated database, which closes with the application's lifespan.

    SettingsError: the mail server, a further channel, the templates or what may be called outside cannot be understood.
    """
    outside = Outside(_address_rules(settings), system_resolver())
    languages = load_languages(settings.templates, settings.locale)
    channels = _people_senders(settings, clock)
    database = open_database(settings.database_url("notification"), "notification")
    service = NotificationService(database, languages=languages, clock=clock, channels=channels)
    watch = Watch(database, service.listeners)
    forgetting = Forgetting(database, clock=clock, after_seconds=settings.delivery_log_seconds)
    figures = Figures(database, partial(store.figures, channels=(store.WEBHOOK, *channels)), clock)
    sender = WebhookSender(outside, per_second=settings.webhook_rate_per_host, clock=clock)
    dispatcher = Dispatcher(
        database,
        {store.WEBHOOK: sender, **channels},
        owner=new_id("own", clock()),
        clock=clock,
        random_below=secrets.randbelow,
        wake=service.deliveries_added,
    )
    webhooks = Webhooks(
        database,
        outside,
        clock=clock,
        plain_http=settings.environment == "development",
        deliveries_added=service.deliveries_added.set,
    )
    contacts = Contacts(
        database, locales=languages.by_locale, channels=apprise_urls(settings.apprise_urls), clock=clock
    )

    @asynccontextmanager
    async def lifespan(_application: Litestar) -> AsyncIterator[None]:
        with closing(database):
            async with (
                aclosing(sender),
                aclosing(dispatcher),
                working(
                    run_forever("notification-watch", watch.run_once, pause_seconds=PAUSE_SECONDS),
                    figures.run_forever(),
                    run_forever("notification-forgetting", forgetting.run_once, pause_seconds=FORGETTING_PAUSE_SECONDS),
                    run_forever(
                        "notification-dispatch",
                        dispatcher.run_once,
                        pause_seconds=PAUSE_SECONDS,
                        wake=service.deliveries_added,
                    ),
                    run_forever("notification-leases", dispatcher.prolong, pause_seconds=PROLONG_SECONDS),
                ),
            ):
                yield

    application = service_application(
        name="notification",
        routes=routes(service, webhooks, contacts),
        verifier=verifier,
        internal_secret=internal_secret,
        lifespan=[lifespan],
        ready=database.ping,
    )
    return House("notification", service, application)


def _people_senders(settings: Settings, clock: Clock) -> Mapping[str, Sender]:
    """How people are told beside their inbox, by channel: as far as there are settings for it."""
    layouts, server = load_layouts(settings.templates), _mail_server(settings)
    senders: dict[str, Sender] = {}
    if server is not None:
        senders[store.EMAIL] = MailSender(server, layouts=layouts, clock=clock)
    for name, url in apprise_urls(settings.apprise_urls).items():
        senders[name] = AppriseSender(name, url)
    return senders


def _mail_server(settings: Settings) -> MailServer | None:
    try:
        return MailServer.parse(settings.smtp_url, settings.email_from)
    except MailWrong as error:
        raise SettingsError(str(error)) from error


def _address_rules(settings: Settings) -> AddressRules:
    try:
        return AddressRules.parse(settings.webhook_allowed_addresses)
    except ValueError as error:
        raise SettingsError(f"EWALLET_WEBHOOK_ALLOWED_ADDRESSES is wrong: {error}.") from error
