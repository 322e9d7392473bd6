"""Commands that people and housekeeping give: retries by hand, suppressions, retention.

They are applied like those of `spool.port`, in the same groups, and are idempotent as well.
"""

from __future__ import annotations

import msgspec


class Retry(msgspec.Struct, frozen=True):
    """Send what was not sent once more, by hand, as a new message. → Receipt | NotRetried

    The new one has its own `id`, which is its marker, and is linked to the old one (`retry_of`);
    content, Date, Message-ID, stream and length of life are the old one's, so that a receiver
    who has it already can tell. Without `ns` the whole message must be final, and what was
    bounced, failed, expired, cancelled or suppressed is copied; with `ns` only those need be.
    What a retry has already taken over is not copied again: retry that one.
    """

    id: str
    new_id: str
    ns: tuple[int, ...] | None = None


class NotRetried(msgspec.Struct, frozen=True):
    """Nothing was changed. `why` is a sentence for whoever asked."""

    why: str
    is_known: bool = True


class Suppress(msgspec.Struct, frozen=True):
    """Put an address on the suppression list. → Suppression: the first one stands

    What waits for it becomes `suppressed` when its turn comes; what is on its way stays so.
    """

    address: str
    reason: str
    source: str


class Unsuppress(msgspec.Struct, frozen=True):
    """Take an address off the suppression list. → Unsuppressed"""

    address: str


class Unsuppressed(msgspec.Struct, frozen=True):
    """`was_suppressed`: it was on the list until now."""

    address: str
    was_suppressed: bool


class Purge(msgspec.Struct, frozen=True):
    """Delete what has been kept long enough, oldest first, up to `limit` of each. → Purged

    Messages that became final before `final_before` go with all that belongs to them, unless
    their key still holds; contents of those final before `bodies_before`; expired keys of final
    messages; attempts closed before `final_before`, but none of the last 24 h, which quotas
    count. What is not final is never touched, and the ledger still counts what is gone.
    """

    final_before: float
    bodies_before: float
    limit: int


class Purged(msgspec.Struct, frozen=True):
    """How many went. `has_more`: ask again soon; there is more, or space to be given back."""

    messages: int
    bodies: int
    has_more: bool
