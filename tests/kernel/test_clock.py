"""Times: microseconds inside, RFC 3339 with milliseconds outside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewallet.kernel.clock import parse_rfc3339, rfc3339, system_clock

YEAR_9999 = 253_402_300_799_999_999


def test_a_time_is_rendered_as_the_contract_shows_it() -> None:
    assert rfc3339(1_795_335_330_123_999) == "2026-11-22T08:15:30.123Z"


@given(st.integers(0, YEAR_9999))
def test_a_rendered_time_reads_back_to_the_millisecond(now: int) -> None:
    assert parse_rfc3339(rfc3339(now)) == now // 1000 * 1000


def test_an_offset_is_honoured() -> None:
    assert parse_rfc3339("2026-11-22T10:15:30.123+02:00") == parse_rfc3339("2026-11-22T08:15:30.123Z")


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-22", "2026-11-22T08:15:30", "2026-13-01T00:00:00Z", "1e9"])
def test_what_is_no_time_with_an_offset_is_none(text: str) -> None:
    assert parse_rfc3339(text) is None


def test_the_system_clock_counts_microseconds_since_1970() -> None:
    assert rfc3339(system_clock()) > "2024"
    assert rfc3339(system_clock()) < "2200"
