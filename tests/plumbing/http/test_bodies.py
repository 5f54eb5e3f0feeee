"""A body is what it says or it is refused: nothing is coerced, dropped or guessed."""

from contextlib import suppress
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from ewallet.kernel.errors import Reason, Refusal, Refused
from ewallet.plumbing.http.bodies import read_json


class Order(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    amount: Annotated[int, Meta(ge=1, le=10**15)]
    customer_note: str | None = None
    metadata: dict[str, str] | None = None
    parts: list[int] | None = None


def refusal(body: bytes) -> Refusal:
    with pytest.raises(Refused) as refused:
        read_json(body, Order)
    return refused.value.refusal


def test_a_body_that_is_right_is_read() -> None:
    body = b'{"amount": 12500, "customerNote": "\\u00fc: \\"x\\"", "metadata": {"a": ":", "b": "{:}"}}'

    assert read_json(body, Order) == Order(amount=12500, customer_note='ü: "x"', metadata={"a": ":", "b": "{:}"})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"{",
        b'{"amount": 1} and more',
        b'{"amount": NaN}',
        b'{"amount": 01}',
        b"{'amount': 1}",
        b'{"amount": 1,}',
        b'\xef\xbb\xbf{"amount": 1}',
        b'\xff\xfe{\x00"\x00',
        b'{"amount": 1, "customerNote": "\xff"}',
        b'{"amount": 1, "customerNote": "\\ud800"}',
    ],
)
def test_what_is_not_json_in_utf_8_is_malformed(body: bytes) -> None:
    assert refusal(body).reason is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"amount": 1, "amount": 1}', "amount"),
        (b'{"amount": 1, "\\u0061mount": 2}', "amount"),
        (b'{"amount": 1, "metadata": {"a": "x", "b": "y", "a": "z"}}', "a"),
        (b'{"amount": 1, "unknown": [{"a": 1, "a": 1}]}', "a"),
    ],
)
def test_a_key_given_twice_is_malformed_at_any_depth(body: bytes, key: str) -> None:
    answer = refusal(body)

    assert answer.reason is Reason.MALFORMED_REQUEST
    assert f"'{key}' twice" in answer.detail


@pytest.mark.parametrize(
    "amount",
    ["1e3", "12.0", "12.5", '"12"', "true", "null", "[1]", "{}", "0", "-1", "1" + "0" * 16, "9" * 30, "9" * 5000],
)
def test_an_amount_that_is_no_whole_number_in_its_bounds_is_refused(amount: str) -> None:
    assert refusal(f'{{"amount": {amount}}}'.encode()).reason is Reason.VALIDATION_ERROR


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"{}", "/amount"),
        (b'{"amount": 1, "note": "x"}', "/note"),
        (b'{"amount": 1, "customer_note": "x"}', "/customer_note"),
        (b'{"amount": 1, "a/b~c": 1}', "/a~1b~0c"),
        (b'{"amount": "1"}', "/amount"),
        (b'{"amount": 1, "customerNote": 7}', "/customerNote"),
        (b'{"amount": 1, "parts": [1, "2"]}', "/parts/1"),
        (b"[]", ""),
        (b"null", ""),
    ],
)
def test_what_is_wrong_is_pointed_at(body: bytes, pointer: str) -> None:
    answer = refusal(body)

    assert answer.reason is Reason.VALIDATION_ERROR
    assert [error.pointer for error in answer.errors] == [pointer]


@pytest.mark.parametrize("depth", [10, 400, 500, 700, 990, 1_000, 5_000, 20_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('{"::":', "}")])
def test_deep_nesting_is_refused_and_never_our_bug(depth: int, opening: str, closing: str) -> None:
    body = f'{{"amount": 1, "customerNote": {opening * depth}1{closing * depth}}}'.encode()

    assert refusal(body).reason in (Reason.MALFORMED_REQUEST, Reason.VALIDATION_ERROR)


@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_read_or_refused(body: bytes) -> None:
    with suppress(Refused):
        read_json(body, Order)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_a_value_without_duplicates_is_never_taken_for_one_with(value: object) -> None:
    with pytest.raises(Refused) as refused:
        read_json(msgspec.json.encode({"amount": "wrong", "value": value}), Order)

    assert "twice" not in refused.value.refusal.detail
