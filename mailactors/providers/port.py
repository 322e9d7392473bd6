"""The port that every provider fulfils: connect, then send, with room for an intent between.

The gateway commits its intent between the two steps, so `connect` must not let a provider see any
of the message, and `send` begins with the first byte that could matter (MAIL FROM, or the request
line). Neither raises for what the world does: refusals and losses are values (`model.outcome`).
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

from mailactors.model.message import Content, Envelope, fingerprint
from mailactors.model.outcome import Outcome, Reason, Refusal


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

    @property
    def key(self) -> str:
        """What names this very mail to a vendor that recognises repetitions.

        The marker; for a partial envelope its recipients with it, or the vendor would take it for
        the mail that went to others of them, and not send it.
        """
        if not self.is_partial:
            return self.marker
        return f"{self.marker}-{fingerprint(self.envelope.recipients)[:16]}"


class Capabilities(msgspec.Struct, frozen=True):
    """What a provider can do beyond sending; policy reads it, adapters declare it."""

    own_envelope: bool
    """Carries recipients apart from the headers: may send to some recipients only, and raw MIME."""
    idempotency_window_s: float = 0.0
    """How long after a send the vendor recognises `Mail.key` as a repeated one; 0: it does not.
    Within it the same message may be sent again and goes out once."""
    look_up_lag_s: float | None = None
    """How long after a send `look_up` may still miss it; None: the vendor cannot be asked."""


class Found(msgspec.Struct, frozen=True):
    """The vendor has the message."""

    provider_message_id: str


class NotFound(msgspec.Struct, frozen=True):
    """The vendor does not have it, or not yet: means something only after its indexing lag."""


class LookUpFailed(msgspec.Struct, frozen=True):
    """The vendor did not answer the question: nothing is known."""

    reason: Reason


LookUpResult: TypeAlias = Found | NotFound | LookUpFailed


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

    async def look_up(self, marker: str) -> LookUpResult:
        """Ask the vendor whether it has the message with this marker (`Mail.marker`).

        `LookUpFailed` where `capabilities.look_up_lag_s` is None. Has its own timeout, never raises
        for what the world does.
        """
        ...

    async def aclose(self) -> None:
        """Close pooled sessions."""
        ...
