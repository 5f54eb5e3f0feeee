"""Identifiers: ordered by time, impossible to guess, repeatable where a step is repeated."""

import re

from hypothesis import given
from hypothesis import strategies as st

from ewallet.kernel.ids import ID_PATTERN, derived_id, is_id, new_id

times = st.integers(0, 2**48 * 1000 - 1)


@given(times)
def test_an_identifier_is_its_prefix_and_26_characters(now: int) -> None:
    identifier = new_id("pay", now)
    assert re.match(ID_PATTERN, identifier)
    assert is_id(identifier, "pay")
    assert not is_id(identifier, "usr")


@given(times, times)
def test_identifiers_sort_by_their_time_to_the_millisecond(one: int, other: int) -> None:
    if one // 1000 < other // 1000:
        assert new_id("pay", one) < new_id("pay", other)


def test_identifiers_of_one_moment_differ() -> None:
    assert len({new_id("pay", 1_700_000_000_000_000) for _ in range(1000)}) == 1000


def test_all_eighty_bits_of_randomness_are_used() -> None:
    assert new_id("pay", 0, lambda size: b"\xff" * size) == "pay_0000000000" + "z" * 16
    assert new_id("pay", 0, lambda size: b"\x00" * size) == "pay_" + "0" * 26


@given(times)
def test_a_derived_identifier_is_the_same_every_time_and_keeps_the_time(now: int) -> None:
    payment = new_id("pay", now)
    transfer = derived_id("trf", payment, "net")
    assert transfer == derived_id("trf", payment, "net")
    assert is_id(transfer, "trf")
    assert transfer[4:14] == payment[4:14]


@given(times)
def test_derived_identifiers_differ_by_label_source_and_prefix(now: int) -> None:
    payment, other = new_id("pay", now), new_id("pay", now)
    derived = {
        derived_id("trf", payment, "net"),
        derived_id("trf", payment, "fee"),
        derived_id("trf", other, "net"),
        derived_id("evt", payment, "net"),
    }
    assert len({identifier[4:] for identifier in derived}) == 4
