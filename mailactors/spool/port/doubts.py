"""Commands that settle what is uncertain: what is known of it, and what was found out.

They are applied like those of `spool.port`, in the same groups, and are idempotent as well: what
counts is written as it stands after the command, not as a change.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec

NEVER_AT: Final = math.inf
"""A doubt's time when nobody will see to it unless told to."""


class LookUps(msgspec.Struct, frozen=True):
    """What the look-ups of a doubt came to. Times are UTC seconds, 0 for never."""

    count: int = 0
    failures: int = 0
    """The latest in a row that had no answer."""
    negatives: int = 0
    """Those that found nothing, were asked late enough, and a lag apart."""
    negative_at: float = 0.0
    """When the latest of those was asked."""
    answered_at: float = 0.0


class Doubt(msgspec.Struct, frozen=True):
    """Deliveries of one message that became uncertain with the same attempt, as they stand.

    A repetition by key belongs to the doubt that it repeats: `attempt_id` is the latest attempt.
    """

    seq: int
    id: str
    stream: str
    provider: str
    attempt_id: str
    recipients: tuple[tuple[int, str], ...]
    """(n, address) of those that are still uncertain or held."""
    recipients_total: int
    epoch: int
    attempts: int
    accepted_at: float
    expires_at: float
    size_bytes: int
    began_at: float
    """The first intent: from then on the vendor may have remembered the key."""
    since: float
    """When the first attempt was lost."""
    ended_at: float
    """When the latest attempt was lost."""
    repeats: int = 0
    looks: LookUps = LookUps()
    is_held: bool = False
    is_whole: bool = True
    """The recipients are those of the first intent, so that a repetition would be identical."""
    is_sole: bool = True
    """Where the provider has the message, it has it for these recipients: no other attempt that it
    may have accepted was for others of them."""
    is_suppressed: bool = False
    """A recipient has come on the suppression list: nothing goes out, not even by key."""
    evidence: tuple[tuple[int, str], ...] = ()
    """(n, "delivered" or "bounced") where a delivery event told."""
    crashes: int = 0
    not_after: float = 0.0
    """Until when it may be repeated by its key; for who repeats it."""

    @property
    def ns(self) -> tuple[int, ...]:
        """The deliveries."""
        return tuple(n for n, _ in self.recipients)


class FindDueDoubts(msgspec.Struct, frozen=True):
    """Ask for doubts that are due, up to `limit` of each provider; changes nothing. → Doubts"""

    limit: int


class Doubts(msgspec.Struct, frozen=True):
    """Each provider's own, the longest due first. `next_due_at`: of those not in it, or None."""

    doubts: tuple[Doubt, ...]
    next_due_at: float | None


class Postpone(msgspec.Struct, frozen=True):
    """See to a doubt at another time; nothing was found out. → Recorded"""

    seq: int
    attempt_ids: tuple[str, ...]
    next_at: float
    repeats: int


class IntendAgain(msgspec.Struct, frozen=True):
    """Record the intent to repeat an attempt by its key, conditionally. → Intended | Withdrawn

    All its deliveries must be `uncertain` still with `repeat_of` under `epoch`, the payload the
    same, no recipient suppressed since, the deadline and `not_after` (when the vendor may forget
    the key) ahead. Otherwise nothing changes.
    """

    attempt_id: str
    seq: int
    epoch: int
    provider: str
    repeat_of: str
    not_after: float


class SettleByHand(msgspec.Struct, frozen=True):
    """Settle by a person's word what of a message is uncertain or held. → RecordedByHand

    `resend` declares the risk of a duplicate. Past the deadline it settles nothing.
    """

    id: str
    into: Literal["sent", "resend", "failed"]
    note: str = ""


class SettledByHand(msgspec.Struct, frozen=True):
    """`why` says why nothing was settled. `left`: deliveries that had no need to be."""

    is_known: bool
    settled: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    why: str = ""
    stream: str = ""
    """Where there is something to send again, or empty."""
