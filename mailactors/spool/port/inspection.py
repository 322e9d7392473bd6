"""What a watchdog asks of the spool: the head of each queue, and rows that do not add up.

One inspection reads along indices, a bounded part of each, whatever the backlog: a message that
stays at the head of a queue is stuck. The spool judges nothing: it returns the messages that the
watchdog should judge, in one snapshot. Times are UTC seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mailactors.spool.port.deliver import Progress


class LeaseOwner(msgspec.Struct, frozen=True):
    """What the dispatcher of this spool has in flight, at a time before the inspection.

    `attempts` are in flight, under the leases `flying`, (seq, epoch). `waiting` are its other
    leases, or None if it does not know them.
    """

    node: str
    attempts: frozenset[str] = frozenset()
    flying: frozenset[tuple[int, int]] = frozenset()
    waiting: frozenset[tuple[int, int]] | None = None

    def knows_lease(self, seq: int, epoch: int, node: str) -> bool:
        """Whether the owner holds this lease."""
        lease = (seq, epoch)
        is_kept = self.waiting is None or lease in self.waiting or lease in self.flying
        return node == self.node and is_kept


class InspectionQuery(msgspec.Struct, frozen=True):
    """What to inspect. The two marks come from the previous inspection."""

    now: float
    owner: LeaseOwner
    seqs: tuple[int, ...] = ()
    """Messages that are suspected already, to be read again."""
    expiry_mark: float = 0.0
    audit_mark: int = 0


class DeliveryFacts(msgspec.Struct, frozen=True):
    """A delivery's row. `state` is the stored text, which may not be a valid state."""

    n: int
    state: str
    due_at: float
    updated_at: float
    epoch: int
    node: str
    attempt_id: str
    provider: str = ""
    doubt_at: float | None = None
    """When its doubt is due; infinite: never by itself, None: there is no doubt."""


class MessageFacts(msgspec.Struct, frozen=True):
    """A message's row and those of its deliveries. Its content is `written_for` so many."""

    seq: int
    id: str
    stream: str
    accepted_at: float
    expires_at: float
    final_at: float | None
    recipients_total: int
    open_count: int
    written_for: int
    crashes: int
    progress: Progress
    deliveries: tuple[DeliveryFacts, ...]


class Inspection(msgspec.Struct, frozen=True):
    """The result. `taken` counts messages by stream that are leased or sending."""

    messages: tuple[MessageFacts, ...]
    taken: Mapping[str, int] = {}
    strays: tuple[int, ...] = ()
    """Seqs of deliveries without a message."""
    purged_imbalance: int = 0
    """Accepted deliveries that retention deleted, less those that it counted in a state."""
    expiry_mark: float = 0.0
    audit_mark: int = 0
