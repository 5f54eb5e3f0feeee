"""Notification: tells people what happened to their money.

Owns each user's inbox and the live stream of it. Promises that an event handed over once or many times is told to each
of its recipients exactly once, in the order in which it was stored, and that a stream misses nothing that its inbox
has. Never moves money, never asks another service anything, and decides nothing: what it cannot put into words it
gives back. Reading one's own inbox is not worth an audit record, so there is no audit here.
"""
