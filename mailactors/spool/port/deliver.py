"""The usual way of a delivery: claimed, intended, its outcome recorded; or released.

A delivery is addressed by (`seq`, `n`): its message's place in the order of acceptance, and its
own place in the message's envelope, from 0. Times are UTC seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mailactors.model.lifecycle import State
from mailactors.spool.port.command import Command, Result


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message's position on its route; written with each outcome, read with each lease.

    `round` counts passes over the route from 1; `tried` are this round's lanes so far. `barred`
    lanes refused the message itself and are not asked again. `prefer` is the lane to ask first
    (greylisting). `lane_tries` counts tries on the present lane in the `after_retries` mode,
    `throttles` refusals as too fast in a row for which the message kept its place.
    """

    round: int = 1
    tried: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()
    prefer: str = ""
    lane_tries: int = 0
    throttles: int = 0


class Claim(Command, frozen=True):
    """Lease up to `limit` messages of a stream with deliveries that are due. → Claimed

    Oldest due first, ties by seq. All due deliveries of a message come in the same lease; each
    is set to `leased` with a new epoch and this node.
    """

    stream: str
    limit: int
    node: str


class Lease(msgspec.Struct, frozen=True):
    """Temporary ownership of a message's due deliveries."""

    seq: int
    id: str
    stream: str
    recipients: tuple[tuple[int, str], ...]
    """(n, address) of each leased delivery, by n."""
    recipients_total: int
    """How many recipients the content was written for; a lease may have fewer of them."""
    epoch: int
    attempts: int
    """Attempts of this message so far, through any lane."""
    progress: Progress
    due_at: float
    accepted_at: float
    expires_at: float
    size_bytes: int
    crashes: int = 0
    """Crashes of its owner while the message was leased or sending."""
    sender: str = ""
    """The envelope's; empty where it is not known, as for a repeat."""


class Claimed(Result, frozen=True):
    """The leases. `next_due_at`: when the earliest other delivery of the stream is due, or None."""

    leases: tuple[Lease, ...]
    next_due_at: float | None


class Intend(Command, frozen=True):
    """Record the intent to send, conditionally. → Intended | Withdrawn

    Only deliveries that are still leased under `epoch` become `sending`. One that is past its
    deadline becomes `expired` in the same transaction, one whose address is on the suppression
    list `suppressed`; one cancelled meanwhile stays so. `Intended` has those that are left.
    """

    attempt_id: str
    seq: int
    ns: tuple[int, ...]
    epoch: int
    provider: str


class Intended(Result, frozen=True):
    """The intent is durable: the message may be sent. Has what the attempt needs to render it."""

    message_id: str
    date_s: float
    sender: str
    recipients: tuple[tuple[int, str], ...]
    packed: bytes


class Withdrawn(Result, frozen=True):
    """No delivery was left to send; no intent was recorded."""


class Step(msgspec.Struct, frozen=True):
    """A delivery's next state. `due_at` matters for ready, deferred and uncertain ones.

    `suppress`: the failure is the address's: a bounced one goes on the suppression list.
    """

    n: int
    state: State
    due_at: float = 0.0
    error: str = ""
    suppress: bool = False


class RecordOutcome(Command, frozen=True):
    """Record an attempt's outcome and the next steps, and close the attempt. → Recorded

    `is_attempt`: the attempt reached the provider and counts. `outcome` is a short word for
    tables; `facts` are the event's in the timeline, with the rule and its inputs.
    """

    attempt_id: str
    seq: int
    epoch: int
    provider: str
    steps: tuple[Step, ...]
    progress: Progress
    outcome: str
    facts: Mapping[str, Any]
    is_attempt: bool = True
    is_repeat: bool = False
    """The attempt repeats an uncertain one by its key: the progress does not change."""
    stream: str = ""
    """The message's, for the kept sums; where it is empty it is looked up."""


class Recorded(Result, frozen=True):
    """`is_stale`: the command came too late and changed no state; its evidence is kept."""

    is_stale: bool = False
    stream: str = ""
    """The stream that has deliveries to send again, or empty."""


class Release(Command, frozen=True):
    """Make leased deliveries ready again, or `failed` where there is an `error`. → Recorded"""

    seq: int
    ns: tuple[int, ...]
    epoch: int
    due_at: float
    error: str = ""
