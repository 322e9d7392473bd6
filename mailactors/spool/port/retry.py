"""The command by which a person sends again what was not sent."""

from __future__ import annotations

from mailactors.spool.port.command import Command, Result


class Retry(Command, frozen=True):
    """Copy deliveries that were not sent into a new message, by hand. → Receipt | NotRetried

    The new one has its own `id`, which is its marker, and is linked to the old one (`retry_of`);
    content, Date, Message-ID, stream and lifetime are the old one's, so that a receiver can
    recognize a duplicate. Without `ns` the whole message must be final, and its deliveries that
    are bounced, failed, expired, cancelled or suppressed are copied; with `ns` only those must
    be in such a state. A delivery that a retry has copied is not copied again: retry that one.
    """

    id: str
    new_id: str
    ns: tuple[int, ...] | None = None


class NotRetried(Result, frozen=True):
    """Nothing changed. `why` is a sentence for the client."""

    why: str
    is_known: bool = True
