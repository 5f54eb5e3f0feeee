"""Everything else that reaches people, SMS, push and chat services, through Apprise (https://appriseit.com).

An operator names each channel and gives it a URL of Apprise's, in which ``{to}`` stands where a person's address goes.
Nobody else writes such URLs: Apprise calls whatever they name.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from ewallet.notification.domain.deliveries import Outcome, Verdict
from ewallet.notification.senders import Message, Parcel
from ewallet.plumbing.settings import SettingsError

SECONDS = 20
"""For one message. Apprise itself gives a connection four seconds, and as many each part of an answer."""

MESSAGES_AT_ONCE = 8
"""Of one channel, each in a thread. One whose service drips keeps its thread, and no other channel's."""

RESERVED_NAMES = frozenset({"inbox", "webhook", "email"})

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_PLACE = "{to}"
_SAMPLE_ADDRESS = "12025550100"
"""A phone number to most services, a chat's number or a name to others; nothing is sent to it."""

_REASON_LENGTH = 200


def apprise_urls(setting: str) -> Mapping[str, str]:
    """The URL of each channel by its name, from ``sms=twilio://SID:TOKEN@FROM/{to} chat=…``. SettingsError.

    A message names a channel by its place or its name: the rest may hold secrets.
    """
    urls: dict[str, str] = {}
    for place, entry in enumerate(setting.split(), start=1):
        name, _, url = entry.partition("=")
        if not _NAME.fullmatch(name) or "://" not in url:
            raise SettingsError(f"EWALLET_APPRISE_URLS: entry {place} must look like sms=scheme://…/{{to}}.")
        if name in RESERVED_NAMES or name in urls:
            raise SettingsError(f"EWALLET_APPRISE_URLS: there is a channel {name} already.")
        if not _may_be_filled(url):
            raise SettingsError(
                f"EWALLET_APPRISE_URLS: the URL of {name} must have {{to}} where an address goes, and not as its host."
            )
        urls[name] = url
    return urls


def _may_be_filled(url: str) -> bool:
    """Whether there is a place for an address that cannot turn the call to another host."""
    try:
        host = urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return False
    return _PLACE in url.partition("://")[2] and _PLACE not in host


class AppriseSender:
    """Hands messages of one channel to its service. SettingsError: Apprise cannot do anything with the URL."""

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._url = url
        self._apprise = _library()
        self._asset = self._apprise.AppriseAsset(
            app_id="ewallet",
            storage_mode=self._apprise.PersistentStoreMode.MEMORY,
            async_mode=False,
            service_timeout=0,  # the bound is ours, below
            http_redirects=False,
        )
        if not self._service(_SAMPLE_ADDRESS):
            raise SettingsError(f"EWALLET_APPRISE_URLS: the URL of {name} is none that Apprise understands.")
        self._threads = ThreadPoolExecutor(MESSAGES_AT_ONCE, thread_name_prefix=f"apprise-{name}")
        self._turns = asyncio.Semaphore(MESSAGES_AT_ONCE)

    async def send(self, parcel: Parcel) -> Outcome:
        """Hand one message over. What a service does not take now may pass: Apprise does not say what is for good."""
        message = msgspec.json.decode(parcel.payload, type=Message)
        async with self._turns:
            try:
                async with asyncio.timeout(SECONDS):
                    return await asyncio.get_running_loop().run_in_executor(self._threads, self._hand_over, message)
            except TimeoutError:
                return Outcome(Verdict.FAILED, error=f"{self._name} did not take it within {SECONDS} s.")

    def _hand_over(self, message: Message) -> Outcome:
        """In a thread: Apprise waits for its services."""
        service = self._service(message.to)
        if not service:
            return Outcome(Verdict.REFUSED, error=f"{self._name} has no addresses like this one.")
        result = service.notify(message.text, title=message.title, body_format=self._apprise.NotifyFormat.TEXT)
        if result:
            return Outcome(Verdict.TAKEN)
        reasons = " ".join(entry.message for entry in result.logs())
        return Outcome(Verdict.FAILED, error=f"{self._name} did not take it. {reasons[:_REASON_LENGTH]}")

    def _service(self, address: str) -> Any:
        """The service with one address, of which no character means anything in a URL; empty where it has none such."""
        service = self._apprise.Apprise(asset=self._asset)
        service.add(self._url.replace(_PLACE, quote(address, safe="")))
        return service


def _library() -> ModuleType:
    """Apprise, which takes a third of a second and 36 MiB, for those alone who use it."""
    import apprise  # noqa: PLC0415  # as the docstring says

    # What it says is in the outcome; its lines name people's addresses.
    logging.getLogger("apprise").propagate = False
    return apprise
