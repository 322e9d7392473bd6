"""The spool's port: commands that change it, in groups that are durable together.

Commands are values, so that a group of them can be replayed one by one after a crash: each is
idempotent by the ids that it carries. A store executes them synchronously; `spool.actor` decides
when, and tells no one before the commit. All times are UTC seconds and come from the caller: a
store never asks for the time.

A delivery is addressed by (`seq`, `n`): its message's place in the order of acceptance, and its
own place in the message's envelope, from 0. Commands about what is uncertain are in
`spool.doubts`, those of people and housekeeping in `spool.operations`, questions in
`spool.questions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from mailactors.errors import MailactorsError
from mailactors.model.lifecycle import State
from mailactors.model.message import Message
from mailactors.spool.port.doubts import (
    Doubts,
    FindDueDoubts,
    IntendAgain,
    LookUps,
    Postpone,
    SettleByHand,
    SettledByHand,
)
from mailactors.spool.port.operations import (
    CountCrash,
    NotRetried,
    Purge,
    Purged,
    RecordDeliveryEvent,
    Retry,
    Suppress,
    Unsuppress,
    Unsuppressed,
)
from mailactors.spool.port.questions import Questions, Suppression


class SpoolError(MailactorsError):
    """The spool cannot do what it was asked."""


class SpoolFullError(SpoolError):
    """No room on the disk. Nothing was written; it is worth trying again later."""


class SpoolBrokenError(SpoolError):
    """The disk failed (EIO, a failed fsync, corruption). The handle must not be used again."""


class SpoolInUseError(SpoolError):
    """Another process has this spool open."""


class SpoolSchemaError(SpoolError):
    """The file is no spool, or one of a newer program, or a migration was tampered with."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a message has come on its route; written with each outcome, read with each lease.

    `round` counts passes over the route from 1; `tried` are this round's lanes so far. `barred`
    lanes refused the message itself and are not asked again. `prefer` is the lane to ask first
    (greylisting). `lane_tries` counts tries on the present lane in the `after_retries` mode.
    """

    round: int = 1
    tried: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()
    prefer: str = ""
    lane_tries: int = 0


class IdempotencyKey(msgspec.Struct, frozen=True):
    """An idempotency key, unique within its scope until `expires_at` (and its message is final)."""

    scope: str
    key: str
    fingerprint: str
    expires_at: float
    fingerprint_before: str = ""  # as versions before 0.2 made it; to be deleted in 0.3


class Accept(msgspec.Struct, frozen=True):
    """Store a message, its deliveries, its key and its first event. → Receipt | Conflict

    `client_id` is what the client calls it (the short form's `id`), or empty. A live key with
    the same fingerprint answers the first receipt again; with another fingerprint, Conflict.
    """

    message: Message
    packed: bytes
    digest: str
    key: IdempotencyKey
    client_id: str = ""


class Receipt(msgspec.Struct, frozen=True):
    """The message is durable. `is_replay`: it already was, under this key."""

    seq: int
    id: str
    message_id: str
    client_id: str
    accepted_at: float
    is_replay: bool
    stream: str = ""


class Conflict(msgspec.Struct, frozen=True):
    """The key belongs to a message with other content; `id` is that message."""

    id: str


class AcceptMany(msgspec.Struct, frozen=True):
    """Accept several in one transaction. → AcceptedMany"""

    accepts: tuple[Accept, ...]


class AcceptedMany(msgspec.Struct, frozen=True):
    """What each `Accept` would have answered, in order."""

    results: tuple[Receipt | Conflict, ...]


class Claim(msgspec.Struct, frozen=True):
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
    """Those that the content was written for: with fewer the envelope is a partial one."""
    epoch: int
    attempts: int
    """Attempts of this message so far, through any lane."""
    progress: Progress
    due_at: float
    accepted_at: float
    expires_at: float
    size_bytes: int
    crashes: int = 0
    """Times that its owner died while it was on its way."""


class Claimed(msgspec.Struct, frozen=True):
    """What was leased. `next_due_at`: when the earliest other one of the stream is due, or None."""

    leases: tuple[Lease, ...]
    next_due_at: float | None


class Intend(msgspec.Struct, frozen=True):
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


class Intended(msgspec.Struct, frozen=True):
    """The intent is durable: bytes may go out. Carries what the attempt needs to render."""

    message_id: str
    date_s: float
    sender: str
    recipients: tuple[tuple[int, str], ...]
    packed: bytes


class Withdrawn(msgspec.Struct, frozen=True):
    """No delivery was left to send; no intent was recorded."""


class Step(msgspec.Struct, frozen=True):
    """A delivery's next state. `due_at` matters for ready, deferred and uncertain ones.

    `suppress`: what was learned is about the address: a bounced one goes on the suppression list.
    """

    n: int
    state: State
    due_at: float = 0.0
    error: str = ""
    suppress: bool = False


class RecordOutcome(msgspec.Struct, frozen=True):
    """Record an outcome and the next step in one commit, closing the attempt. → Recorded

    `is_attempt`: the provider saw something of it, so that it counts. `outcome` is a short word
    for tables; `facts` go into the timeline's event with the rule and its inputs.
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
    """Of an attempt that repeated an uncertain one by its key: the progress stays as it is."""


class Recorded(msgspec.Struct, frozen=True):
    """`is_stale`: it came too late to change what it meant to; evidence is kept, and counts."""

    is_stale: bool = False
    stream: str = ""
    """Where there is something to send again, or empty."""


class Release(msgspec.Struct, frozen=True):
    """Give leased deliveries back as they were, or `failed` where `error` says why. → Recorded"""

    seq: int
    ns: tuple[int, ...]
    epoch: int
    due_at: float
    error: str = ""


class Expire(msgspec.Struct, frozen=True):
    """End every ready, deferred or leased delivery that is past its deadline. → Expired"""

    limit: int


class Expired(msgspec.Struct, frozen=True):
    """What expired; `next_expiry_at`: the earliest deadline among messages still pending."""

    seqs: tuple[int, ...]
    ids: tuple[str, ...]
    next_expiry_at: float | None


class SettleDoubt(msgspec.Struct, frozen=True):
    """Record what was found out of uncertain or held deliveries, and move them on. → Recorded

    Only those of `attempt_id`, unless that is empty. A step to the state that a delivery is in
    keeps it there. `is_risk` declares that sending again may repeat the message: it is counted.
    Without `progress` the message keeps its own, but begins a round anew, with other providers,
    where it is ready again.
    `next_at`: when to see to what is not settled; without it, at the steps' times.
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


class Cancel(msgspec.Struct, frozen=True):
    """Cancel what is not yet on its way. → Cancelled"""

    id: str


class Cancelled(msgspec.Struct, frozen=True):
    """How many deliveries were cancelled, and how many were not because it was too late."""

    is_known: bool
    cancelled_count: int
    too_late_count: int


class Recover(msgspec.Struct, frozen=True):
    """Put right what a dead process or dispatcher left behind. → Recovered

    Deliveries leased to this node are ready again. Those of an open intent become uncertain,
    never ready, unless their attempt is in `in_flight`; their wait ends `uncertain_wait_s` (by
    stream, with `""` for the rest) after now. `leases`, (seq, epoch), stay. Suspects are messages
    with such an intent that are `blamed`, or all of them if the process `died`.
    """

    node: str
    in_flight: frozenset[str]
    leases: frozenset[tuple[int, int]]
    uncertain_wait_s: Mapping[str, float]
    blamed: frozenset[int] = frozenset()
    died: bool = False


class Recovered(msgspec.Struct, frozen=True):
    """How many deliveries were found leased and how many with an open intent; who is held now."""

    released_count: int
    uncertain_count: int
    held_ids: tuple[str, ...] = ()


Command: TypeAlias = (
    Accept
    | AcceptMany
    | Claim
    | Intend
    | RecordOutcome
    | Release
    | Expire
    | FindDueDoubts
    | Postpone
    | IntendAgain
    | SettleDoubt
    | SettleByHand
    | RecordDeliveryEvent
    | CountCrash
    | Cancel
    | Recover
    | Retry
    | Suppress
    | Unsuppress
    | Purge
)
Result: TypeAlias = (
    Receipt
    | Conflict
    | AcceptedMany
    | Claimed
    | Intended
    | Withdrawn
    | Recorded
    | Expired
    | Doubts
    | Cancelled
    | Recovered
    | SettledByHand
    | NotRetried
    | Suppression
    | Unsuppressed
    | Purged
)


class Store(Questions, Protocol):
    """A spool's storage: synchronous, used by one caller at a time."""

    def apply(self, commands: Sequence[Command], now: float) -> list[Result]:
        """Execute commands in order in one durable transaction; results in the same order.

        All or nothing: an exception means that none of them happened.

        Raises: SpoolFullError, SpoolBrokenError; anything else is a bug.
        """
        ...

    def reader(self) -> Questions:
        """Return a second view for questions, usable from another thread; maybe `self`."""
        ...

    def backup(self, path: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy all that is committed when it begins to a new file; the writer goes on meanwhile.

        May run on another thread than `apply`. `progress` is told pages done and in all.

        Raises: SpoolError if the file exists, or cannot be written; then there is none.
        """
        ...

    def close(self) -> None:
        """Close the file and give up its lock."""
        ...
