"""The rules of payments, pure.

``payments`` is the automaton, ``operations`` what may be done to a payment that is there, ``postings`` what both ask of
the ledger, ``telling`` who hears what about them, ``fees`` the platform's share.
"""
