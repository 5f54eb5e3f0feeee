"""Every event has words for everybody who has a part in it, and only for them."""

from typing import Any

import pytest

from ewallet.notification.domain.words import EVENTS, Text, Unrenderable, check_events, render
from tests.support.notification import LANGUAGES

ENGLISH = LANGUAGES.by_locale["en"]
PAYER, PAYEE, OWNER, STRANGER = "usr_payer", "usr_payee", "usr_payer", "usr_stranger"

CONTRACT = {
    "payment.succeeded",
    "payment.failed",
    "payment.authorized",
    "payment.voided",
    "payment.refunded",
    "wallet.credited",
    "wallet.debited",
    "wallet.frozen",
    "wallet.unfrozen",
}
EVERY_EVENT = CONTRACT | {"payment.expired"}


def payment(**changes: Any) -> dict[str, Any]:
    return {
        "transactionId": "pay_1",
        "customerId": PAYER,
        "merchantId": PAYEE,
        "amount": 1250,
        "fee": 25,
        "netAmount": 1225,
        "currency": "USD",
        "reference": "order-17",
        "description": None,
        "failureReason": "INSUFFICIENT_FUNDS",
    } | changes


def wallet(**changes: Any) -> dict[str, Any]:
    return {
        "customerId": OWNER,
        "transferId": "trf_1",
        "amount": 1250,
        "currency": "USD",
        "available": 6250,
        "reference": "top-up-3",
        "description": None,
        "reason": "A stolen phone.",
    } | changes


def data_of(event: str, **changes: Any) -> dict[str, Any]:
    return payment(**changes) if event.startswith("payment.") else wallet(**changes)


@pytest.mark.parametrize(
    ("event", "recipient", "title", "body"),
    [
        ("payment.succeeded", PAYER, "You paid $12.50", "To usr_payee for order-17."),
        (
            "payment.succeeded",
            PAYEE,
            "You received $12.25",
            "From usr_payer for order-17: $12.50 less a fee of $0.25.",
        ),
        (
            "payment.failed",
            PAYER,
            "Your payment of $12.50 failed",
            "To usr_payee for order-17: the available balance was too small. You were not charged.",
        ),
        (
            "payment.failed",
            PAYEE,
            "A payment of $12.50 to you failed",
            "From usr_payer for order-17: the available balance was too small. You were not paid.",
        ),
        (
            "payment.authorized",
            PAYER,
            "$12.50 is held for a payment",
            "To usr_payee for order-17. You pay when the merchant captures it.",
        ),
        (
            "payment.authorized",
            PAYEE,
            "A payment of $12.50 is ready to capture",
            "From usr_payer for order-17. The money is held for you.",
        ),
        (
            "payment.voided",
            PAYER,
            "A payment of $12.50 was cancelled",
            "To usr_payee for order-17. The money is available to you again.",
        ),
        (
            "payment.voided",
            PAYEE,
            "A payment of $12.50 to you was cancelled",
            "From usr_payer for order-17. The money is no longer held.",
        ),
        (
            "payment.expired",
            PAYER,
            "A payment of $12.50 has expired",
            "To usr_payee for order-17: it was not captured in time. The money is available to you again.",
        ),
        (
            "payment.expired",
            PAYEE,
            "A payment of $12.50 to you has expired",
            "From usr_payer for order-17: it was not captured in time. The money is no longer held.",
        ),
        ("payment.refunded", PAYER, "You got $12.50 back", "From usr_payee for order-17."),
        ("payment.refunded", PAYEE, "You refunded $12.50", "To usr_payer for order-17."),
        (
            "wallet.credited",
            OWNER,
            "$12.50 was added to your wallet",
            "You have $62.50 available. Reference: top-up-3.",
        ),
        (
            "wallet.debited",
            OWNER,
            "$12.50 was taken from your wallet",
            "You have $62.50 available. Reference: top-up-3.",
        ),
        (
            "wallet.frozen",
            OWNER,
            "Your wallet is frozen",
            "No money moves until it is unfrozen. Reason: A stolen phone.",
        ),
        ("wallet.unfrozen", OWNER, "Your wallet is active again", "Money moves as before. Reason: A stolen phone."),
    ],
)
def test_each_recipient_reads_what_happened_from_the_own_side(
    event: str, recipient: str, title: str, body: str
) -> None:
    assert render(ENGLISH, event, data_of(event), [recipient]) == {recipient: Text(title, body)}


def test_all_recipients_of_an_event_read_it_in_their_own_words_whatever_their_order() -> None:
    texts = render(ENGLISH, "payment.succeeded", payment(), [PAYEE, PAYER, PAYEE])

    assert {recipient: text.title for recipient, text in texts.items()} == {
        PAYEE: "You received $12.25",
        PAYER: "You paid $12.50",
    }


def test_every_event_of_the_contract_has_words_and_no_other() -> None:
    assert EVENTS == EVERY_EVENT


def test_a_payment_without_a_reference_does_not_mention_one() -> None:
    assert render(ENGLISH, "payment.succeeded", payment(reference=None), [PAYER])[PAYER].body == "To usr_payee."
    assert render(ENGLISH, "payment.succeeded", payment(reference=""), [PAYER])[PAYER].body == "To usr_payee."


def test_an_unknown_failure_is_told_in_its_own_words() -> None:
    text = render(ENGLISH, "payment.failed", payment(failureReason="SOMETHING_ELSE"), [PAYER])[PAYER]

    assert "something else" in text.body


def test_who_would_pay_himself_reads_it_as_the_payer() -> None:
    text = render(ENGLISH, "payment.failed", payment(merchantId=PAYER), [PAYER])[PAYER]

    assert text.title == "Your payment of $12.50 failed"


def test_text_of_others_is_never_taken_for_a_template() -> None:
    text = render(ENGLISH, "payment.succeeded", payment(reference="{amount} {0} %s"), [PAYER])[PAYER]

    assert text.body == "To usr_payee for {amount} {0} %s."


@pytest.mark.parametrize("event", sorted(EVERY_EVENT))
def test_who_has_no_part_in_an_event_is_not_told(event: str) -> None:
    with pytest.raises(Unrenderable, match="no part"):
        render(ENGLISH, event, data_of(event), [STRANGER])


def test_the_merchant_named_in_a_wallet_event_has_no_part_in_it() -> None:
    with pytest.raises(Unrenderable, match="no part"):
        render(ENGLISH, "wallet.credited", wallet(merchantId=PAYEE), [PAYEE])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"amount": "1250"}, "amount"),
        ({"amount": 12.5}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": None}, "amount"),
        ({"currency": "XTS"}, "amount"),
        ({"currency": None}, "currency"),
        ({"merchantId": 7}, "merchantId"),
        ({"merchantId": ""}, "merchantId"),
        ({"reference": 17}, "reference"),
    ],
)
def test_data_that_the_words_need_and_lack_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(Unrenderable, match=named):
        render(ENGLISH, "payment.succeeded", payment(**changes), [PAYER])


def test_an_unknown_event_is_named() -> None:
    with pytest.raises(Unrenderable, match=r"payment\.exploded"):
        render(ENGLISH, "payment.exploded", payment(), [PAYER])


def test_an_unknown_event_is_refused_with_its_place() -> None:
    known = frozenset({"payment.succeeded", "payment.failed"})

    assert check_events("/events", ["payment.failed"], known) is None
    refusal = check_events("/events", ["payment.failed", "payment.exploded"], known)
    assert refusal is not None
    assert refusal.errors[0].pointer == "/events/1"
    assert "payment.exploded" in refusal.detail


def test_a_reader_is_told_in_the_language_of_his_choice() -> None:
    told = LANGUAGES.tell("payment.succeeded", payment(), [PAYER])[PAYER]

    def as_read_in(locale: str | None, data: dict[str, Any]) -> str:
        return LANGUAGES.translated(told, locale, event="payment.succeeded", data=data, reader=PAYER).title

    assert as_read_in("de", payment()) == "Sie haben 12,50\N{NO-BREAK SPACE}$ bezahlt"
    assert as_read_in(None, payment()) == as_read_in("en", payment()) == "You paid $12.50"
    assert as_read_in("xx", payment()) == "You paid $12.50", "a language that an operator has removed"
    assert as_read_in("de", {}) == as_read_in("de", payment(amount=None)) == "You paid $12.50", "an old event"
