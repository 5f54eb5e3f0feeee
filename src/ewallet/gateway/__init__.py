"""The gateway: the platform's front door.

Owns no data. Promises that every request that reaches a service has an id, a bounded head, body and time, a valid
access token unless the address is for anyone, and none of the headers with which somebody could claim to be somebody
else. Its own pages are health, metrics, the merged OpenAPI document, a page to try it on, and the problem pages.

Never decides what a caller may do: each service checks the token and the role itself. Never forwards to ``/internal``.
"""
