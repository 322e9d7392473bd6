"""What is known of uncertain attempts, and the question for those that are due."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from mailactors.spool.port.command import Command, Result
from mailactors.spool.port.deliver import Progress

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
    progress: Progress = Progress()
    """The message's, with the lanes that had it in this round."""
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
