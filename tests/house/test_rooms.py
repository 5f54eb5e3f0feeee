"""Five houses with the same rooms: who has read one service finds the way in all of them."""

import pytest

from tests.house.tree import text_files

SERVICES = ("auth", "gateway", "notification", "payment", "wallet")
ROOMS = {
    "__init__.py",
    "messages.py",
    "client.py",
    "domain.py",
    "domain",
    "store.py",
    "service.py",
    "verify.py",
    "reconcile.py",
    "api.py",
    "worker.py",
    "app.py",
    "migrations",
}
ROOMS_OF_ONE_SERVICE = {
    ("gateway", "static"),  # the docs page, which must work without internet access
    ("gateway", "haproxy.py"),  # the same front as a configuration of HAProxy
    ("gateway", "haproxy.cfg"),  # its template
    ("payment", "saga.py"),  # the steps that carry money, apart from what can be asked for
    ("notification", "senders"),  # the ways out of the platform
    ("notification", "contacts.py"),  # how people are told beside their inbox
    ("notification", "templates"),  # what people are told, in their languages
    ("notification", "webhooks.py"),  # merchants' endpoints, apart from the inboxes
}


def unknown_rooms(service: str, paths: list[str]) -> set[str]:
    """Names directly in the service's folder that are neither rooms of all services nor of this one."""
    prefix = f"src/ewallet/{service}/"
    names = {path.removeprefix(prefix).partition("/")[0] for path in paths if path.startswith(prefix)}
    return {name for name in names - ROOMS if (service, name) not in ROOMS_OF_ONE_SERVICE}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_known_rooms_only(service: str) -> None:
    unknown = unknown_rooms(service, list(text_files()))

    assert not unknown, (
        f"{service} has {sorted(unknown)}. Put it into the room it belongs to ({', '.join(sorted(ROOMS))}); "
        "what several services need goes into plumbing."
    )


def test_a_renamed_room_is_noticed() -> None:
    paths = ["src/ewallet/wallet/repository.py", "src/ewallet/wallet/store.py", "src/ewallet/wallet/senders.py"]

    assert unknown_rooms("wallet", paths) == {"repository.py", "senders.py"}


def test_a_folder_counts_as_one_room() -> None:
    paths = ["src/ewallet/gateway/static/docs.css", "src/ewallet/wallet/domain/holds.py"]

    assert unknown_rooms("gateway", paths) == unknown_rooms("wallet", paths) == set()
