"""Read-only questions to the spool. Each answer is one snapshot. Times are UTC seconds."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from mailactors.model.lifecycle import State, Status, status_of
from mailactors.spool.port.accept import Conflict, IdempotencyKey, Receipt
from mailactors.spool.port.acts import Act
from mailactors.spool.port.deliver import Progress
from mailactors.spool.port.inspection import Inspection, InspectionQuery
from mailactors.spool.port.lists import Filters
from mailactors.spool.port.suppressions import Suppression


class DeliveryStatus(msgspec.Struct, frozen=True):
    """One recipient's delivery as it stands."""

    n: int
    recipient: str
    state: State
    provider: str
    attempts: int
    due_at: float
    updated_at: float
    error: str


class MessageStatus(msgspec.Struct, frozen=True):
    """A message and its deliveries as they stand. `declared_risks` counts deliveries resent."""

    seq: int
    id: str
    client_id: str
    message_id: str
    stream: str
    sender: str
    subject: str
    accepted_at: float
    not_before: float
    expires_at: float
    attempts: int
    declared_risks: int
    deliveries: tuple[DeliveryStatus, ...]
    retry_of: str = ""
    """The id of the message that this one retries by hand, or empty."""
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    progress: Progress = Progress()
    """Its position on its route."""

    def delivery_status(self, delivery: DeliveryStatus, now: float) -> Status:
        """Return what the public reads of one of the deliveries at `now`."""
        return status_of(delivery.state, is_scheduled=now < self.not_before)


class Event(msgspec.Struct, frozen=True):
    """One line of a message's timeline."""

    seq: int
    at: float
    kind: str
    facts: dict[str, Any]


class FeedEvent(Event, frozen=True):
    """One event of the whole spool's feed, with its message."""

    id: str
    stream: str
    client_id: str = ""
    message_id: str = ""


class Risk(msgspec.Struct, frozen=True):
    """How many deliveries of a stream were resent although `provider` may have accepted them."""

    stream: str
    provider: str
    count: int


class Pending(msgspec.Struct, frozen=True):
    """A stream's deliveries of one status that is not final, and the oldest of them.

    A message with a `send_at` begins to wait at that time, any other at its acceptance.
    """

    stream: str
    status: Status
    count: int
    waits_since: float | None
    """When the oldest message among them began to wait; None if it was not found."""
    unmoved_since: float | None
    """When the delivery among them that moved least recently did, or began to wait; or None."""


class Ledger(msgspec.Struct, frozen=True):
    """Accepted deliveries by state: `accepted == sum(states.values())`, always.

    `accepted` is counted when a message is accepted, apart from its deliveries, so the identity
    can fail. The figures include the `purged` deliveries, whose messages retention has deleted.
    `risks` are the declared risks by stream and provider, since they are counted so.
    """

    accepted: int
    states: dict[str, int]
    declared_risks: int
    purged: int = 0
    risks: tuple[Risk, ...] = ()

    @property
    def imbalance(self) -> int:
        """Accepted deliveries less those in a state: above 0 some are lost, below 0 invented."""
        return self.accepted - sum(self.states.values())

    @property
    def is_balanced(self) -> bool:
        """Whether every accepted delivery is in exactly one state."""
        return self.imbalance == 0


class Audit(msgspec.Struct, frozen=True):
    """The ledger by the kept sums, and by counting every row, at one moment."""

    kept: Ledger
    counted: Ledger

    @property
    def differences(self) -> dict[str, tuple[int, int]]:
        """What is kept and what is counted, by name, where they differ; in a sound spool none."""
        kept, counted = ({**each.states, **_whole(each)} for each in (self.kept, self.counted))
        pairs = {name: (kept.get(name, 0), counted.get(name, 0)) for name in kept | counted}
        return {name: pair for name, pair in sorted(pairs.items()) if pair[0] != pair[1]}


def _whole(ledger: Ledger) -> dict[str, int]:
    return {"accepted": ledger.accepted, "declared_risks": ledger.declared_risks}


class Page(msgspec.Struct, frozen=True):
    """Messages, newest first. `next_before_seq` continues the list; None at its end.

    A page may be short, even empty, before the end: an answer reads a bounded number of rows.
    """

    messages: tuple[MessageStatus, ...]
    next_before_seq: int | None


class Questions(Protocol):
    """Read-only questions to the spool; the order of each answer is defined."""

    def status(self, name: str) -> tuple[MessageStatus, ...]:
        """Return the messages with this id, ours or the client's, or this key, newest first."""
        ...

    def statuses(self, limit: int, before_seq: int | None) -> tuple[MessageStatus, ...]:
        """Return up to `limit` messages, newest first, older than `before_seq` if given."""
        ...

    def messages(self, filters: Filters, limit: int, before_seq: int | None) -> Page:
        """Return up to `limit` messages that the filters let through, older than `before_seq`."""
        ...

    def find_known(self, key: IdempotencyKey, now: float) -> Receipt | Conflict | None:
        """Return what was accepted under a key that is live, or that its content was another."""
        ...

    def timeline(self, seq: int) -> tuple[Event, ...]:
        """Return a message's events, oldest first."""
        ...

    def events_after(self, seq: int, limit: int) -> tuple[FeedEvent, ...]:
        """Return the next events of all messages after event `seq`, oldest first.

        A reader that continues from the last seq misses no event, but for those of messages
        that were purged meanwhile. For that a store, however many write to it, keeps this rule:
        **an event's seq is higher than those of all events that were visible before it.** A
        store therefore assigns seqs under a lock that it holds until the commit is visible.
        Numbers may be left out: a transaction that is rolled back takes its own with it.
        """
        ...

    def failures_after(self, seq: int, limit: int) -> tuple[FeedEvent, ...]:
        """Return the next reports of final failures after event `seq`, oldest first."""
        ...

    def newest_at(self) -> float:
        """Return the time (UTC) of the latest event, or of a later open intent; 0 if there is none.

        The event that was written last, not the one with the highest time: a clock that was ahead
        for a while is forgotten once it was put right.
        """
        ...

    def latest_event_seq(self) -> int:
        """Return the seq of the latest visible event ever, or 0: later events are new."""
        ...

    def suppressions(self, limit: int, after: str = "") -> tuple[Suppression, ...]:
        """Return the next suppressed addresses after `after`, in their order."""
        ...

    def acts_after(self, seq: int, limit: int) -> tuple[Act, ...]:
        """Return the next acts of operators after act `seq`, oldest first."""
        ...

    def paused(self) -> frozenset[str]:
        """Return the providers that an operator paused."""
        ...

    def ledger(self) -> Ledger:
        """Return the accounting identity over all deliveries, by the sums that are kept."""
        ...

    def audit(self) -> Audit:
        """Return the same beside what counting every row gives: seconds for a million messages."""
        ...

    def pending_counts(self) -> dict[str, dict[str, int]]:
        """Return the number of pending deliveries by stream, then by state."""
        ...

    def backlog(self, now: float) -> int:
        """Return the number of deliveries on their way: neither final nor scheduled for later."""
        ...

    def pending(self, now: float) -> tuple[Pending, ...]:
        """Return what is not final by stream and status, in that order.

        All are counted. Ages are exact up to 500 deliveries of a queue; of a longer
        backlog they are those of what is due first and of what has the earliest deadlines.
        """
        ...

    def attempt_counts(self, provider: str, since: float, bucket_s: float) -> dict[int, int]:
        """Return intents of a provider since a time, by floor(started_at / bucket_s)."""
        ...

    def inspect(self, look: InspectionQuery) -> Inspection:
        """Return the messages that a watchdog should judge; reads a bounded part, along indices."""
        ...
