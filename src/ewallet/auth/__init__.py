"""Auth: who somebody is, and how others can tell.

Owns people's accounts and passwords, sessions, service clients and the keys that sign access tokens. Promises that a
registered person has a wallet; that a password, a refresh token and a client's secret are kept only as hashes; that a
stolen refresh token ends its session when it is used beside the real one; and that guessing is limited, however many
processes there are. Never decides what a role may do: each service does that for itself. Never writes a password, a
token or a secret to a log or an audit record.
"""
