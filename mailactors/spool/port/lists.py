"""Which messages to list."""

from __future__ import annotations

import msgspec

from mailactors.model.lifecycle import Status


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
