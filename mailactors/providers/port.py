"""The port that every provider fulfils: connect, then send, with room for an intent between.

The gateway commits its intent between the two steps, so `connect` must not let a provider see any
of the message, and `send` begins with the first byte that could matter (MAIL FROM, or the request
line). Neither raises for what the world does: refusals and losses are values (`model.outcome`).
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from mailactors.model.message import Content, Envelope
from mailactors.model.outcome import Outcome, Refusal


class Mail(msgspec.Struct, frozen=True):
    """What one attempt hands to a provider.

    `envelope` holds only the recipients of this attempt; `is_partial` says that the message has
    others, so that a provider which derives recipients from visible headers must not send it.
    `marker` is the message's own id; `message_id` (no brackets) and `date_s` go into the headers.
    """

    marker: str
    message_id: str
    date_s: float
    envelope: Envelope
    content: Content
    is_partial: bool = False


class Capabilities(msgspec.Struct, frozen=True):
    """What a provider can do beyond sending; policy reads it, adapters declare it."""

    own_envelope: bool
    """Carries recipients apart from the headers: may send to some recipients only, and raw MIME."""
    idempotency_window_s: float = 0.0
    """How long the vendor recognises a repeated key; 0: it does not."""


class Session(Protocol):
    """A way to the provider that is open and authenticated, for one attempt."""

    async def send(self, mail: Mail) -> Outcome:
        """Send and return what became of it; the session goes back to its pool or is closed.

        Every phase has its own timeout. Cancellation closes the session.
        """
        ...

    async def aclose(self) -> None:
        """Give the session back unused."""
        ...


class Provider(Protocol):
    """One outbound path."""

    @property
    def capabilities(self) -> Capabilities:
        """What this provider can do."""
        ...

    async def connect(self) -> Session | Refusal:
        """Return a session, pooled or new, or why there is none (certainly nothing was sent)."""
        ...

    async def aclose(self) -> None:
        """Close pooled sessions."""
        ...
