"""The rules of the ledger, pure.

``nouns`` is what there is, ``ledger`` what may happen to money, ``limits`` how much of it an owner may spend,
``verdicts`` why it may not be, ``wallets`` what may happen to a wallet.
"""
