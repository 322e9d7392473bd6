"""What may be asked of the spool, beside the writer: none of it changes anything.

All times are UTC seconds. Each question is one snapshot and has an ORDER BY.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from mailactors.model.lifecycle import State


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


class Event(msgspec.Struct, frozen=True):
    """One line of a message's timeline."""

    seq: int
    at: float
    kind: str
    facts: dict[str, Any]


class Ledger(msgspec.Struct, frozen=True):
    """Accepted deliveries and where they are: `accepted == sum(states.values())`, always.

    `accepted` is counted when a message is accepted, on its own row, so the identity can fail.
    """

    accepted: int
    states: dict[str, int]
    declared_risks: int

    @property
    def is_balanced(self) -> bool:
        """Whether every accepted delivery is in exactly one state."""
        return self.accepted == sum(self.states.values())


class Questions(Protocol):
    """What may be asked of the spool; none of it changes anything. Each has an ORDER BY."""

    def status(self, name: str) -> tuple[MessageStatus, ...]:
        """Return the messages that this name means: our id, or the client's (newest first)."""
        ...

    def statuses(self, limit: int, before_seq: int | None) -> tuple[MessageStatus, ...]:
        """Return up to `limit` messages, newest first, older than `before_seq` if given."""
        ...

    def timeline(self, seq: int) -> tuple[Event, ...]:
        """Return a message's events, oldest first."""
        ...

    def ledger(self) -> Ledger:
        """Return the accounting identity over all deliveries."""
        ...

    def pending_counts(self) -> dict[str, dict[str, int]]:
        """Return the number of pending deliveries by stream, then by state."""
        ...

    def attempt_counts(self, provider: str, since: float, bucket_s: float) -> dict[int, int]:
        """Return intents of a provider since a time, by floor(started_at / bucket_s)."""
        ...
