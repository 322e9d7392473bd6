"""The command that deletes what has been kept long enough."""

from __future__ import annotations

from mailactors.spool.port.command import Command, Result


class Purge(Command, frozen=True):
    """Delete what has been kept long enough, oldest first, up to `limit` of each. → Purged

    It deletes messages that became final before `final_before`, with all their rows, unless
    their key is live; contents of messages final before `bodies_before`; expired keys of final
    messages; attempts closed before `final_before`, but none of the last 24 h, which quotas
    count. It never touches what is not final, and the ledger still counts what is deleted.
    """

    final_before: float
    bodies_before: float
    limit: int


class Purged(Result, frozen=True):
    """How many were deleted. `has_more`: purge again soon: more is due, or space to give back."""

    messages: int
    bodies: int
    has_more: bool
