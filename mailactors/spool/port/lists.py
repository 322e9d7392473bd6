"""Which messages to list, and a page of them."""

from __future__ import annotations

import msgspec

from mailactors.model.lifecycle import Status
from mailactors.spool.port.questions import MessageStatus


class Filters(msgspec.Struct, frozen=True):
    """Which messages to list; an empty filter lets all through.

    Stream, status and recipient apply to the same delivery: "the mail to this address that
    bounced". `recipient` and `tag` are exact. Accepted from `since` on, and before `until`.
    `now` separates scheduled deliveries from queued ones.
    """

    stream: str = ""
    status: Status | None = None
    recipient: str = ""
    tag: str = ""
    since: float | None = None
    until: float | None = None
    now: float = 0.0


class Page(msgspec.Struct, frozen=True):
    """Messages, newest first. `next_before_seq` continues the list; None at its end.

    A page may be short, even empty, before the end: an answer reads a bounded number of rows.
    """

    messages: tuple[MessageStatus, ...]
    next_before_seq: int | None
