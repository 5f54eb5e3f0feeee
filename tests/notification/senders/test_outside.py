"""A name that means something else from one moment to the next leads nowhere that was not checked."""

from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from ewallet.notification.domain.endpoints import Address, AddressRules
from ewallet.notification.senders.outside import AddressForbidden, NameUnknown, Outside, system_resolver

LOOPBACK = AddressRules.parse("127.0.0.1/32")


class Names:
    """A small name server whose answers a test changes; every question is kept."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int) -> Sequence[Address]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [ip_address(address) for address in answer]


async def test_the_addresses_of_a_public_host_are_given() -> None:
    outside = Outside(AddressRules(), Names(["1.1.1.1", "2606:4700::1", "1.1.1.1"]))

    assert list(map(str, await outside.addresses("shop.example", 443))) == ["1.1.1.1", "2606:4700::1"]


async def test_one_internal_address_among_public_ones_is_one_too_many() -> None:
    outside = Outside(AddressRules(), Names(["1.1.1.1", "10.0.0.1"]))

    with pytest.raises(AddressForbidden):
        await outside.addresses("shop.example", 443)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254"])
async def test_an_address_is_checked_without_asking_anybody(host: str) -> None:
    names = Names(["1.1.1.1"])

    with pytest.raises(AddressForbidden):
        await Outside(AddressRules(), names).addresses(host, 443)
    assert names.asked == []


async def test_a_host_without_an_address_is_an_error() -> None:
    with pytest.raises(OSError, match="no address"):
        await Outside(AddressRules(), Names([])).addresses("shop.example", 443)


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1"])
async def test_whatever_the_system_takes_for_the_loopback_is_refused(host: str) -> None:
    """However a host is spelled, what counts is the address that the system would connect to."""
    with pytest.raises(AddressForbidden):
        await Outside(AddressRules(), system_resolver()).addresses(host, 443)


async def test_a_host_that_is_opened_is_found_by_its_name() -> None:
    rules = AddressRules.parse("127.0.0.0/8,::1/128")

    found = await Outside(rules, system_resolver()).addresses("localhost", 443)

    assert found
    assert all(address.is_loopback for address in found)


async def test_a_name_that_cannot_be_is_known_to_be_none() -> None:
    with pytest.raises(NameUnknown):
        await Outside(AddressRules(), system_resolver()).addresses("no-such-host.invalid" + "x" * 60, 443)
