"""Commands that people and housekeeping give: retries by hand, suppressions, retention.

They are applied like those of `spool.port`, in the same groups, and are idempotent as well.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

CRASHES_MAX: Final = 3
"""A message on which actors or processes died this often is given up: poison never loops."""
ALONE_FROM: Final = CRASHES_MAX - 1
"""A message with so many is sent while no other such is on its way, so that the next death tells
which of them it was. With fewer it goes like any other: most deaths are nobody's fault."""


class CountCrash(msgspec.Struct, frozen=True):
    """Remember that an actor died on a message for the n-th time. → Recorded"""

    seq: int
    crashes: int


class RecordDeliveryEvent(msgspec.Struct, frozen=True):
    """Take in what a vendor reported of a delivery after its answer. → Recorded

    It counts for a message of which that provider had an attempt. What is not final and not on
    its way is `sent` when it was delivered; what is uncertain or held with that provider
    `bounced` when it bounced, for then it had been accepted. All else is kept as evidence.
    """

    __test__ = False  # no test, whatever its name begins with

    marker: str
    provider: str
    recipient: str
    kind: Literal["delivered", "bounced"]
    at: float


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
