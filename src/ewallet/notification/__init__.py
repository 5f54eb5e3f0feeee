"""Notification: tells people what happened to their money.

Owns each user's inbox and the live stream of it, merchants' webhooks, how people want to be told, and what is delivered
to them. Promises that an event handed over once or many times is told to each of its recipients exactly once, in the
order in which it was stored, and that a stream misses nothing that its inbox has. Outside the platform an event is
delivered at least once, always under one id, in order for each payment and receiver, for a day; what could not be
delivered stays in the log. Never calls an address that somebody else than the operator has named and that is not
public, never moves money, never asks another service anything, and decides nothing: what it cannot put into words it
gives back. The audit tells who had webhooks sent where, and who entered whose addresses; reading one's own inbox is not
worth a record.
"""
