"""Why money does not move: every verdict of the ledger, and what each one means to whoever asked."""

from enum import StrEnum
from typing import assert_never

from ewallet.kernel.errors import Reason, Refusal


class Verdict(StrEnum):
    """Sentences, in their order of precedence: where several hold, the first is the verdict.

    First the order by itself, then what it refers to, then whether the accounts exist, then whether money may move
    at all, then whether its owner may spend as much, and last whether there is enough. A group gets the verdict of its
    first transfer that is refused. One that was abandoned has its verdict before anybody looks at it, and so has
    one that is linked to another one that was refused.
    """

    GROUP_WAS_ABANDONED = "group_was_abandoned"
    LINKED_GROUP_WAS_REFUSED = "linked_group_was_refused"
    GROUP_MUST_NOT_BE_EMPTY = "group_must_not_be_empty"
    ACCOUNTS_MUST_BE_DIFFERENT = "accounts_must_be_different"
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"
    PENDING_ID_MUST_BE_GIVEN = "pending_id_must_be_given"
    PENDING_ID_MUST_NOT_BE_GIVEN = "pending_id_must_not_be_given"
    TIMEOUT_RESERVED_FOR_PENDING = "timeout_reserved_for_pending"
    TIMEOUT_OUT_OF_RANGE = "timeout_out_of_range"

    ID_ALREADY_TAKEN = "id_already_taken"
    PENDING_TRANSFER_NOT_FOUND = "pending_transfer_not_found"
    PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT = "pending_transfer_has_different_debit_account"
    PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT = "pending_transfer_has_different_credit_account"
    PENDING_TRANSFER_HAS_DIFFERENT_CURRENCY = "pending_transfer_has_different_currency"
    PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT = "pending_transfer_has_different_amount"
    EXCEEDS_PENDING_TRANSFER_AMOUNT = "exceeds_pending_transfer_amount"
    PENDING_TRANSFER_ALREADY_POSTED = "pending_transfer_already_posted"
    PENDING_TRANSFER_ALREADY_VOIDED = "pending_transfer_already_voided"
    PENDING_TRANSFER_EXPIRED = "pending_transfer_expired"

    DEBIT_OWNER_NOT_FOUND = "debit_owner_not_found"
    CREDIT_OWNER_MUST_HAVE_THE_ROLE = "credit_owner_must_have_the_role"
    CREDIT_OWNER_NOT_FOUND = "credit_owner_not_found"
    DEBIT_ACCOUNT_NOT_FOUND = "debit_account_not_found"
    CREDIT_ACCOUNT_NOT_FOUND = "credit_account_not_found"
    ACCOUNTS_MUST_HAVE_THE_CURRENCY = "accounts_must_have_the_currency"

    DEBIT_ACCOUNT_CLOSED = "debit_account_closed"
    CREDIT_ACCOUNT_CLOSED = "credit_account_closed"
    DEBIT_ACCOUNT_FROZEN = "debit_account_frozen"
    CREDIT_ACCOUNT_FROZEN = "credit_account_frozen"

    EXCEEDS_LIMIT_PER_PAYMENT = "exceeds_limit_per_payment"
    EXCEEDS_LIMIT_PER_DAY = "exceeds_limit_per_day"
    EXCEEDS_LIMIT_PER_MONTH = "exceeds_limit_per_month"

    EXCEEDS_CREDITS = "exceeds_credits"
    OVERFLOWS_DEBITS = "overflows_debits"
    OVERFLOWS_CREDITS = "overflows_credits"


def refusal_of(verdict: Verdict) -> Refusal:
    """The verdict as the contract's reason, with a sentence for a person. It names nobody's balance."""
    match verdict:
        case Verdict.GROUP_WAS_ABANDONED:
            return Refusal(Reason.ABANDONED, "The order was given up; nothing was moved.")
        case Verdict.LINKED_GROUP_WAS_REFUSED:
            return Refusal(Reason.BULK_REFUSED, "Another payment of the same call was refused; nothing was moved.")
        case Verdict.ACCOUNTS_MUST_BE_DIFFERENT:
            # Only somebody who pays himself gets here, and nobody is a merchant to himself.
            return Refusal(Reason.UNKNOWN_MERCHANT, "Payer and payee are the same: choose another payee.")
        case Verdict.CREDIT_OWNER_MUST_HAVE_THE_ROLE:
            return Refusal(Reason.UNKNOWN_MERCHANT, "There is no such merchant: check the merchant's id.")
        case Verdict.DEBIT_OWNER_NOT_FOUND | Verdict.CREDIT_OWNER_NOT_FOUND:
            return Refusal(Reason.NOT_FOUND, "There is no such wallet.")
        case Verdict.PENDING_TRANSFER_NOT_FOUND:
            return Refusal(Reason.NOT_FOUND, "There is no such hold.")
        case Verdict.DEBIT_ACCOUNT_NOT_FOUND | Verdict.CREDIT_ACCOUNT_NOT_FOUND:
            return Refusal(Reason.CURRENCY_MISMATCH, "One of the wallets has no balance in this currency.")
        case Verdict.ACCOUNTS_MUST_HAVE_THE_CURRENCY | Verdict.PENDING_TRANSFER_HAS_DIFFERENT_CURRENCY:
            return Refusal(Reason.CURRENCY_MISMATCH, "The order's currency is not that of its accounts.")
        case Verdict.DEBIT_ACCOUNT_CLOSED:
            return Refusal(Reason.WALLET_CLOSED, "The wallet to be debited is closed.")
        case Verdict.CREDIT_ACCOUNT_CLOSED:
            return Refusal(Reason.WALLET_CLOSED, "The wallet to be credited is closed.")
        case Verdict.DEBIT_ACCOUNT_FROZEN:
            return Refusal(
                Reason.WALLET_FROZEN, "The wallet to be debited is frozen; an administrator can unfreeze it."
            )
        case Verdict.CREDIT_ACCOUNT_FROZEN:
            return Refusal(
                Reason.WALLET_FROZEN, "The wallet to be credited is frozen; an administrator can unfreeze it."
            )
        case Verdict.EXCEEDS_LIMIT_PER_PAYMENT | Verdict.EXCEEDS_LIMIT_PER_DAY | Verdict.EXCEEDS_LIMIT_PER_MONTH:
            return Refusal(Reason.LIMIT_EXCEEDED, "The amount is over one of the payer's limits.")
        case Verdict.EXCEEDS_CREDITS:
            return Refusal(Reason.INSUFFICIENT_FUNDS, "The available balance is smaller than the amount.")
        case Verdict.PENDING_TRANSFER_ALREADY_POSTED:
            return Refusal(Reason.INVALID_STATE, "The hold has been posted already.")
        case Verdict.PENDING_TRANSFER_ALREADY_VOIDED:
            return Refusal(Reason.INVALID_STATE, "The hold has been voided already.")
        case Verdict.PENDING_TRANSFER_EXPIRED:
            return Refusal(Reason.INVALID_STATE, "The hold has expired.")
        case Verdict.OVERFLOWS_DEBITS | Verdict.OVERFLOWS_CREDITS:
            return Refusal(Reason.INVALID_STATE, "The account's sum would become larger than can be counted.")
        case Verdict.ID_ALREADY_TAKEN:
            return Refusal(Reason.IDEMPOTENCY_KEY_REUSED, "The id of a transfer belongs to another order.")
        case (
            Verdict.GROUP_MUST_NOT_BE_EMPTY
            | Verdict.AMOUNT_OUT_OF_RANGE
            | Verdict.PENDING_ID_MUST_BE_GIVEN
            | Verdict.PENDING_ID_MUST_NOT_BE_GIVEN
            | Verdict.TIMEOUT_RESERVED_FOR_PENDING
            | Verdict.TIMEOUT_OUT_OF_RANGE
            | Verdict.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT
            | Verdict.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT
            | Verdict.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT
            | Verdict.EXCEEDS_PENDING_TRANSFER_AMOUNT
        ):
            return Refusal(Reason.VALIDATION_ERROR, f"The order is not valid: {verdict.replace('_', ' ')}.")
    assert_never(verdict)
