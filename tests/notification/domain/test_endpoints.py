"""Webhooks go to the public internet, and to nothing that only looks like it."""

from ipaddress import ip_address

import pytest

from ewallet.kernel.errors import Refusal
from ewallet.notification.domain.endpoints import AddressRules, Endpoint, endpoint_of

PUBLIC = ["1.1.1.1", "93.184.215.14", "::ffff:1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001::1"]
INTERNAL = [
    "0.0.0.0",  # noqa: S104  # not bound
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_called(address: str) -> None:
    assert AddressRules().permit(ip_address(address))


@pytest.mark.parametrize("address", INTERNAL)
def test_internal_addresses_may_not_be_called(address: str) -> None:
    assert not AddressRules().permit(ip_address(address))


def test_an_operator_opens_what_is_named_and_nothing_beside_it() -> None:
    rules = AddressRules.parse("127.0.0.1, 10.1.0.0/16,fd00::/8 ,")

    opened = ["127.0.0.1", "::ffff:127.0.0.1", "10.1.255.1", "fd12::1", "1.1.1.1"]
    closed = ["127.0.0.2", "10.2.0.1", "::1", "169.254.169.254"]
    assert [address for address in opened + closed if rules.permit(ip_address(address))] == opened


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="localhost"):
        AddressRules.parse("127.0.0.1,localhost")


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://shop.example/hooks?a=b", Endpoint("shop.example", 443)),
        ("https://Shop.Example:8443", Endpoint("shop.example", 8443)),
        ("http://shop.example/", Endpoint("shop.example", 80)),
        ("https://xn--bcher-kva.example/", Endpoint("xn--bcher-kva.example", 443)),
        ("https://1.1.1.1/", Endpoint("1.1.1.1", 443)),
        ("https://[2606:4700:4700::1111]/", Endpoint("2606:4700:4700::1111", 443)),
        ("https://localhost/", Endpoint("localhost", 443)),  # its address is another question
    ],
)
def test_a_url_is_read_as_a_place_to_connect_to(url: str, endpoint: Endpoint) -> None:
    assert endpoint_of(url, plain_http=True) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop.example",
        "//shop.example/",
        "ftp://shop.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///path",
        "https://shop.example:0/",
        "https://shop.example:99999/",
        "https://shop.example:x/",
        "https://user@shop.example/",
        "https://user:password@shop.example/",
        "https://1.1.1.1#@127.0.0.1/",
        "https://1.1.1.1\\@127.0.0.1/",
        "https://shop.example/#part",
        "https://shop.example/ path",
        "https://shop.example/\tpath",
        "https://shop.example/\r\nHost: x",
        "https://bücher.example/",
        "https://\uff11\uff12\uff17.0.0.1/",  # wide digits, which some programs read as 127
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.1./",
        "https://0/",
        "https://[::1%25eth0]/",
        "https://[v1.x]/",
        "https://[::1/",
        "https://shop..example/",
        "https://-shop.example/",
        "https://shop_.example/",
        "https://" + "a" * 64 + ".example/",
        "https://shop.example/" + "a" * 2048,
    ],
)
def test_a_url_that_could_be_read_in_two_ways_is_refused(url: str) -> None:
    refusal = endpoint_of(url, plain_http=True)

    assert isinstance(refusal, Refusal)
    assert refusal.errors[0].pointer == "/url"


def test_in_production_everything_is_encrypted() -> None:
    refusal = endpoint_of("http://shop.example/", plain_http=False)

    assert isinstance(refusal, Refusal)
    assert "https://" in refusal.detail
