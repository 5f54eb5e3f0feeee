"""Audit records for administrators: the same page of them in every service."""

from typing import Annotated, Any

import msgspec
from litestar.params import QueryParameter
from msgspec import Meta
from sqlalchemy import Row

from ewallet.kernel.clock import rfc3339
from ewallet.plumbing.audit import AuditLog
from ewallet.plumbing.database import Database
from ewallet.plumbing.http.contract import decode_cursor, encode_cursor

AuditRequest = Annotated[
    str | None, QueryParameter(name="requestId", pattern="^[!-~]{1,128}$", description="only records of this request")
]

Position = tuple[Annotated[int, Meta(ge=0, le=2**63 - 1)]]
"""Where a page ends: a record's sequence."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who did what to what, when, in which request, with what result; ``hash`` chains it to the one before."""

    sequence: int
    at: str
    actor: str
    action: str
    subject: str
    request_id: str
    result: str
    detail: dict[str, Any]
    hash: str


class AuditTrail(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Audit records, newest first."""

    items: list[AuditEntry]
    next_cursor: str | None


async def audit_trail(
    database: Database, log: AuditLog, *, subject: str | None, request_id: str | None, limit: int, cursor: str | None
) -> AuditTrail:
    """Audit records newest first, by subject, by request or all. Raises Refused where the cursor is none of ours."""
    before = decode_cursor(cursor, Position)[0] if cursor is not None else None
    rows = await database.reading(
        lambda tx: log.find(tx, subject=subject, request_id=request_id, before=before, limit=limit + 1)
    )
    return AuditTrail(
        items=[_entry(row) for row in rows[:limit]],
        next_cursor=encode_cursor(rows[limit - 1].sequence) if len(rows) > limit else None,
    )


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(
        sequence=row.sequence,
        at=rfc3339(row.at),
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        request_id=row.request_id,
        result=row.result,
        detail=msgspec.json.decode(row.detail),
        hash=row.hash,
    )
