"""The wallet: who has how much, and the only place where money moves.

Owns wallets, accounts, transfers, holds, limits, and the outcome of every order under its id. Promises that a group of
transfers is applied wholly or not at all, once; that no wallet goes below zero and nobody spends more than a limit
allows; that the accounts of a currency always sum to zero; that a verdict, once given, is given again. Never knows what
a payment, a fee or a password is, and never changes or removes a transfer.
"""
