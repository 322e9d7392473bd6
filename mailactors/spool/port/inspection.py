"""What a watchdog asks of the spool: the heads of its queues, and whatever does not add up.

One look reads along indices, a bounded part of each, whatever the backlog: what is first in a
queue and stays there is what is stuck. It judges nothing: it returns the messages that are worth
a judgement, as they stand in one snapshot. All times are UTC seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mailactors.spool.port.commands import Progress


class LeaseOwner(msgspec.Struct, frozen=True):
    """What the one who works on this spool knows of, at a time before the look.

    `attempts` are those in flight, `flying` the leases (seq, epoch) that they are made under.
    `waiting` are the other leases that it has, or None if it cannot say.
    """

    node: str
    attempts: frozenset[str] = frozenset()
    flying: frozenset[tuple[int, int]] = frozenset()
    waiting: frozenset[tuple[int, int]] | None = None

    def knows_lease(self, seq: int, epoch: int, node: str) -> bool:
        """Whether it has this lease in hand."""
        lease = (seq, epoch)
        is_kept = self.waiting is None or lease in self.waiting or lease in self.flying
        return node == self.node and is_kept


class InspectionQuery(msgspec.Struct, frozen=True):
    """Where to look. The two marks are what the look before returned."""

    now: float
    owner: LeaseOwner
    seqs: tuple[int, ...] = ()
    """Messages that are under suspicion already, to be looked at again."""
    expiry_mark: float = 0.0
    audit_mark: int = 0


class DeliveryFacts(msgspec.Struct, frozen=True):
    """A delivery's row. `state` is as it is written, which may be no state at all."""

    n: int
    state: str
    due_at: float
    updated_at: float
    epoch: int
    node: str
    attempt_id: str
    provider: str = ""
    doubt_at: float | None = None
    """When somebody will see to what is in doubt; infinite: nobody, None: there is no doubt."""


class MessageFacts(msgspec.Struct, frozen=True):
    """A message's row and its deliveries'; `written_for` recipients is its content."""

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
    """What a look saw. `taken` counts messages by stream that are leased or sending."""

    messages: tuple[MessageFacts, ...]
    taken: Mapping[str, int] = {}
    strays: tuple[int, ...] = ()
    """Seqs of deliveries without a message."""
    purged_imbalance: int = 0
    """Accepted deliveries that retention took, less those that it counted in a state."""
    expiry_mark: float = 0.0
    audit_mark: int = 0
