"""Payment: carries a customer's money to a merchant, once, and can always say how far it came.

Owns payments, their history and their fee schedule. Promises that a payment's intent is stored before any money moves,
that the same idempotency key never pays twice, that a refused payment is kept with its reason, and that whatever was
begun is finished by recovery, even if the process dies between any two steps. Never holds a balance (the wallet
does), never calls the wallet inside a transaction, and never calls a payment failed whose outcome is unknown.
"""
