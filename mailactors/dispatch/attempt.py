"""An attempt: one try of one message through one lane, how far it has come, and how it ended."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from mailactors.model.message import domain_of
from mailactors.model.outcome import Outcome
from mailactors.spool.port import Doubt, Lease


class Stage(enum.IntEnum):
    """How far an attempt has come; it decides what its loss means."""

    QUEUED = 0
    """In a mailbox of the lane: nothing happened."""
    CONNECTING = 1
    INTENDING = 2
    """The intent was asked for: the spool must learn how it ended, but nothing was sent."""
    SENDING = 3
    """The intent is durable and bytes may be out."""


class PassedOver(msgspec.Struct, frozen=True):
    """A lane that a route names before the one that took a message; `until` (UTC), if known."""

    provider: str
    why: str
    until: float | None = None


@dataclass(eq=False)
class Attempt:
    """One try of one message through one lane. Mutable: the lane's actors record its progress."""

    id: str
    lease: Lease
    lane: str
    reply_to: Callable[[Done], None]
    """Puts its end into the mailbox of the actor that offered it; must not block."""
    is_panic: bool = False
    recipients: tuple[tuple[int, str], ...] = ()
    """What the intent covers; the lease's recipients until then."""
    stage: Stage = Stage.QUEUED
    began_s: float = 0.0
    """Monotonic; when the provider actor began it."""
    sending_s: float = 0.0
    """Monotonic; when its intent was durable, so that the provider's own time began."""
    permit_s: float | None = None
    """Monotonic; when the limiter gave its permit. None before, and after its end came back."""
    doubt: Doubt | None = None
    """The uncertain attempt that it repeats under the same key; None for any other attempt."""
    domains: frozenset[str] = frozenset()
    """The lease's recipient domains."""
    own_limits: frozenset[str] = frozenset()
    """The subjects (`subjects`) by whose own limit it was refused as too fast."""
    passed_over: tuple[PassedOver, ...] = ()
    """Why no lane before this one took it, in the route's order."""

    def __post_init__(self) -> None:
        self.recipients = self.recipients or self.lease.recipients
        self.domains = frozenset(domain_of(address) for _, address in self.lease.recipients)

    @property
    def may_have_intent(self) -> bool:
        """Whether the spool must learn how it ended."""
        return self.stage >= Stage.INTENDING

    @property
    def expires_at(self) -> float:
        """When it must not go out any more, UTC: the message's deadline, or the key's end."""
        not_after = self.lease.expires_at if self.doubt is None else self.doubt.not_after
        return min(self.lease.expires_at, not_after)


class Done(msgspec.Struct, frozen=True):
    """The end of an attempt. `ended_s` (monotonic) is when the last byte or timeout was seen."""

    attempt: Attempt
    outcome: Outcome
    ended_s: float
