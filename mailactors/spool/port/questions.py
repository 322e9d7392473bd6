"""What may be asked of the spool, beside the writer: none of it changes anything.

All times are UTC seconds. Each question is one snapshot and has an ORDER BY.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from mailactors.model.lifecycle import State, Status, status_of
from mailactors.spool.port.inspection import Inspection, InspectionQuery


class DeliveryStatus(msgspec.Struct, frozen=True):
    """One recipient's fate as it stands."""

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
    """The message of which this one is a retry by hand."""
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}

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
    """One line of all timelines together, with the message that it is about."""

    id: str
    stream: str
    client_id: str = ""
    message_id: str = ""


class Suppression(msgspec.Struct, frozen=True):
    """An address that gets no mail. `source` is who says so: "bounce", "api", …"""

    address: str
    reason: str
    source: str
    created_at: float


class Filters(msgspec.Struct, frozen=True):
    """Which messages to list; what is empty does not matter.

    Stream, status and recipient are those of one and the same delivery: "the mail to this address
    that bounced". `recipient` and `tag` are exact. Accepted from `since` on, and before `until`.
    `now` separates scheduled deliveries from queued ones.
    """

    stream: str = ""
    status: Status | None = None
    recipient: str = ""
    tag: str = ""
    since: float | None = None
    until: float | None = None
    now: float = 0.0


class Page(msgspec.Struct, frozen=True):
    """Messages, newest first. `next_before_seq`: ask again with it; None at the end of the list.

    A page may be short, even empty, before the end: an answer looks at a bounded number of rows.
    """

    messages: tuple[MessageStatus, ...]
    next_before_seq: int | None


class Risk(msgspec.Struct, frozen=True):
    """How many deliveries of a stream were sent again although `provider` may have had them."""

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
    waits_since: float
    """When the oldest message among them began to wait."""
    unmoved_since: float
    """When the delivery among them that moved least recently did, or began to wait."""


class Ledger(msgspec.Struct, frozen=True):
    """Accepted deliveries and where they are: `accepted == sum(states.values())`, always.

    `accepted` is counted when a message is accepted, on its own row, so the identity can fail.
    All of it includes the deliveries whose messages retention has deleted: `purged` of them.
    `risks` are the declared ones by stream and provider, as far as they were counted so.
    """

    accepted: int
    states: dict[str, int]
    declared_risks: int
    purged: int = 0
    risks: tuple[Risk, ...] = ()

    @property
    def imbalance(self) -> int:
        """Accepted deliveries less those in a state: above 0 some are lost, below 0 made up."""
        return self.accepted - sum(self.states.values())

    @property
    def is_balanced(self) -> bool:
        """Whether every accepted delivery is in exactly one state."""
        return self.imbalance == 0


class Questions(Protocol):
    """What may be asked of the spool; none of it changes anything. Each has an ORDER BY."""

    def status(self, name: str) -> tuple[MessageStatus, ...]:
        """Return the messages that this name means: our id, or the client's (newest first)."""
        ...

    def statuses(self, limit: int, before_seq: int | None) -> tuple[MessageStatus, ...]:
        """Return up to `limit` messages, newest first, older than `before_seq` if given."""
        ...

    def messages(self, filters: Filters, limit: int, before_seq: int | None) -> Page:
        """Return up to `limit` messages that the filters let through, older than `before_seq`."""
        ...

    def timeline(self, seq: int) -> tuple[Event, ...]:
        """Return a message's events, oldest first."""
        ...

    def events_after(self, seq: int, limit: int) -> tuple[FeedEvent, ...]:
        """Return the next events of all messages after event `seq`, oldest first.

        An event that is committed later has a higher seq: who goes on from the last one misses
        none, but those of messages that were purged meanwhile.
        """
        ...

    def failures_after(self, seq: int, limit: int) -> tuple[FeedEvent, ...]:
        """Return the next reports of what finally failed after event `seq`, oldest first."""
        ...

    def latest_event_seq(self) -> int:
        """Return the seq of the latest event ever, or 0: what comes after it is new."""
        ...

    def suppressions(self, limit: int, after: str = "") -> tuple[Suppression, ...]:
        """Return suppressed addresses in their order, those after `after`."""
        ...

    def ledger(self) -> Ledger:
        """Return the accounting identity over all deliveries."""
        ...

    def pending_counts(self) -> dict[str, dict[str, int]]:
        """Return the number of pending deliveries by stream, then by state."""
        ...

    def pending(self, now: float) -> tuple[Pending, ...]:
        """Return what is not final by stream and status, in that order."""
        ...

    def attempt_counts(self, provider: str, since: float, bucket_s: float) -> dict[int, int]:
        """Return intents of a provider since a time, by floor(started_at / bucket_s)."""
        ...

    def inspect(self, look: InspectionQuery) -> Inspection:
        """Return what a watchdog should judge; reads a bounded part, along indices."""
        ...
