"""The commands that settle uncertain deliveries.

The commands are idempotent: what counts is written as it stands after the command, not as a
change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mailactors.spool.port.command import Command, Result
from mailactors.spool.port.deliver import Progress, Step
from mailactors.spool.port.doubts import LookUps


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
