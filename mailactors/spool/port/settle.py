"""Uncertain deliveries: what is known of them, and the commands that settle them.

The commands are idempotent: what counts is written as it stands after the command, not as a
change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from mailactors.spool.port.command import Command, Result
from mailactors.spool.port.deliver import Progress, Step

NEVER_AT: Final = math.inf
"""`next_at` of a doubt that is not due until a command changes it."""


class LookUps(msgspec.Struct, frozen=True):
    """The results of a doubt's look-ups. Times are UTC seconds, 0 for never."""

    count: int = 0
    failures: int = 0
    """Consecutive latest look-ups without an answer."""
    negatives: int = 0
    """Look-ups that found nothing, were asked late enough, and a lag apart."""
    negative_at: float = 0.0
    """When the latest of the negatives was asked."""
    answered_at: float = 0.0


class Doubt(msgspec.Struct, frozen=True):
    """Deliveries of one message that became uncertain with the same attempt, as they stand.

    A repeat belongs to the doubt of the attempt that it repeats: `attempt_id` is the latest one.
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
    """When the first attempt was intended; the vendor may know the key since then."""
    since: float
    """When the first attempt became uncertain."""
    ended_at: float
    """When the latest attempt became uncertain."""
    repeats: int = 0
    looks: LookUps = LookUps()
    is_held: bool = False
    is_whole: bool = True
    """The recipients are those of the first intent, so that a repeat would be identical."""
    is_sole: bool = True
    """If the provider has the message, it has it for these recipients: it may not have accepted
    another attempt of the message for other recipients."""
    is_suppressed: bool = False
    """A recipient is on the suppression list by now: nothing is sent, not even a repeat."""
    evidence: tuple[tuple[int, str], ...] = ()
    """(n, "delivered" or "bounced") of each delivery event."""
    crashes: int = 0
    not_after: float = 0.0
    """Until when the attempt may be repeated by its key; the settler fills it in."""

    @property
    def ns(self) -> tuple[int, ...]:
        """The deliveries."""
        return tuple(n for n, _ in self.recipients)


class FindDueDoubts(Command, frozen=True):
    """Return doubts that are due, up to `limit` of each provider; changes nothing. → Doubts"""

    limit: int


class Doubts(Result, frozen=True):
    """By provider, the longest due first. `next_due_at`: the earliest of all others, or None."""

    doubts: tuple[Doubt, ...]
    next_due_at: float | None


class SettleDoubt(Command, frozen=True):
    """Record what was learnt of uncertain or held deliveries, and their next states. → Recorded

    Only deliveries of `attempt_id`, unless that is empty. A step to a delivery's present state
    leaves it there. `is_risk` declares and counts a resend, which may be a duplicate. Without
    `progress`, a message that is ready again starts a new round with the other providers.
    `next_at`: when the doubt is due again; without it, at the steps' times.
    """

    seq: int
    steps: tuple[Step, ...]
    progress: Progress | None
    rule: str
    facts: Mapping[str, Any]
    is_risk: bool = False
    attempt_id: str = ""
    looks: LookUps | None = None
    next_at: float | None = None


class Postpone(Command, frozen=True):
    """Make a doubt due at another time; nothing was learnt. → Recorded"""

    seq: int
    attempt_ids: tuple[str, ...]
    next_at: float
    repeats: int


class IntendAgain(Command, frozen=True):
    """Record the intent to repeat an attempt by its key, conditionally. → Intended | Withdrawn

    All its deliveries must still be `uncertain` with `repeat_of` under `epoch`, the payload must
    be the same, no recipient suppressed since, and neither the deadline nor `not_after` (when the
    vendor may forget the key) past. Otherwise nothing changes.
    """

    attempt_id: str
    seq: int
    epoch: int
    provider: str
    repeat_of: str
    not_after: float


class RecordDeliveryEvent(Command, frozen=True):
    """Record a delivery event: what a vendor reports after its answer. → Recorded

    It counts if that provider had an attempt of the message. "delivered" makes a delivery `sent`
    that is neither final nor sending. "bounced" makes it `bounced` if it is uncertain or held
    with that provider, which had accepted it. Any other event is kept as evidence.
    """

    marker: str
    provider: str
    recipient: str
    kind: Literal["delivered", "bounced"]
    at: float


class SettleByHand(Command, frozen=True):
    """Settle a message's uncertain and held deliveries by hand. → SettledByHand

    `resend` declares the risk of a duplicate; past the deadline it settles nothing.
    """

    id: str
    into: Literal["sent", "resend", "failed"]
    note: str = ""


class SettledByHand(Result, frozen=True):
    """`why` nothing was settled, or empty. `left`: deliveries that were not settled."""

    is_known: bool
    settled: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    why: str = ""
    stream: str = ""
    """The stream that has deliveries to send again, or empty."""
