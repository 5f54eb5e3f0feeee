"""The rules of the ledger, pure.

``nouns`` is what there is, ``ledger`` what may happen to money, ``verdicts`` why it may not, ``wallets`` what may
happen to a wallet.
"""
