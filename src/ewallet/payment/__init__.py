"""Payment: carries a customer's money to a merchant, once, and can always say how far it came.

Owns payments, the operations on them (capture, void, expiry, refund), their history and the fee schedule. Promises that
every intent is stored before any money moves, that the same idempotency key never pays twice, that a refused payment is
kept with its reason, that a hold ends once and no more is refunded than was paid, and that whatever was begun is
finished by recovery, even if the process dies between any two steps. Never holds a balance (the wallet does), never
calls the wallet inside a transaction, and never calls failed what has an unknown outcome.
"""
