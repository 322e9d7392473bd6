"""Commands beside the flow: deadlines, cancelling, retrying, suppressions, crashes, retention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailactors.spool.port.command import Command, Result

CRASHES_MAX: Final = 3
"""A message with so many crashes is given up: it never loops."""
ALONE_FROM: Final = CRASHES_MAX - 1
"""A message with so many crashes is sent while no other such message is in flight, so that the
next crash shows which message causes it. With fewer it is sent like any other."""


class Expire(Command, frozen=True):
    """End every ready, deferred or leased delivery that is past its deadline. → Expired"""

    limit: int


class Expired(Result, frozen=True):
    """What expired. `next_expiry_at`: the earliest deadline among pending messages, or None."""

    seqs: tuple[int, ...]
    ids: tuple[str, ...]
    next_expiry_at: float | None


class Cancel(Command, frozen=True):
    """Cancel a message's ready, deferred and leased deliveries. → Cancelled"""

    id: str


class Cancelled(Result, frozen=True):
    """How many deliveries are cancelled, and for how many it was too late."""

    is_known: bool
    cancelled_count: int
    too_late_count: int


class Recover(Command, frozen=True):
    """Take back the deliveries of a dead process or dispatcher. → Recovered

    Deliveries leased to `node` are ready again, but for those of `leases`, (seq, epoch). Those
    with an open intent become uncertain, never ready, unless their attempt is in `in_flight`;
    they are due `uncertain_wait_s` (by stream, `""` for the rest) after now. A crash is counted
    for messages that are `blamed`, or, if the process `died`, for all with an open intent.
    """

    node: str
    in_flight: frozenset[str]
    leases: frozenset[tuple[int, int]]
    uncertain_wait_s: Mapping[str, float]
    blamed: frozenset[int] = frozenset()
    died: bool = False


class Recovered(Result, frozen=True):
    """How many deliveries were leased, how many had an open intent, and which messages are held."""

    released_count: int
    uncertain_count: int
    held_ids: tuple[str, ...] = ()


class CountCrash(Command, frozen=True):
    """Record that an actor crashed on a message for the n-th time. → Recorded"""

    seq: int
    crashes: int


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


class Suppression(Result, frozen=True):
    """An address that gets no mail. `source` is who suppressed it: "bounce", "api", …"""

    address: str
    reason: str
    source: str
    created_at: float


class Suppress(Command, frozen=True):
    """Put an address on the suppression list. → Suppression: the first one stands

    Waiting deliveries become `suppressed` at their intent; those that are sending do not change.
    """

    address: str
    reason: str
    source: str


class Unsuppress(Command, frozen=True):
    """Take an address off the suppression list. → Unsuppressed"""

    address: str


class Unsuppressed(Result, frozen=True):
    """`was_suppressed`: the address was on the list."""

    address: str
    was_suppressed: bool


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
