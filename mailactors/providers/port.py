"""The port that every provider implements: connect, then send.

The gateway commits its intent between the two. So `connect` sends no part of the message, and
`send` begins with the first byte that could make the provider accept it (MAIL FROM, or the request
line). Neither raises for a fault of the network or the provider: refusals and lost connections are
values (`model.outcome`). What this process itself lacks is `NotAttempted(Why.RESOURCES)`.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeAlias

import msgspec

from mailactors.model.message import Content, Envelope, fingerprint
from mailactors.model.outcome import NotAttempted, Outcome, Reason, Refusal


class Mail(msgspec.Struct, frozen=True):
    """What a provider gets of one attempt.

    `envelope` holds only the recipients of this attempt. `is_partial`: the message has others, so
    a provider that takes the recipients from the visible headers must not send it. `marker` is the
    message's id; `message_id` (no brackets) and `date_s` go into the headers. `deadline_s`
    (monotonic) is when the message expires: where a session knows that it was not accepted yet, it
    ends the attempt then.
    """

    marker: str
    message_id: str
    date_s: float
    envelope: Envelope
    content: Content
    is_partial: bool = False
    deadline_s: float = math.inf

    @property
    def key(self) -> str:
        """The idempotency key for a vendor that recognises repeats.

        It is the marker. For a partial envelope a hash of the recipients is added: otherwise the
        vendor would take it for the mail to the other recipients, and not send it.
        """
        if not self.is_partial:
            return self.marker
        return f"{self.marker}-{fingerprint(self.envelope.recipients)[:16]}"


class Capabilities(msgspec.Struct, frozen=True):
    """What a provider can do beyond sending; providers declare it, policies read it."""

    own_envelope: bool
    """Takes recipients apart from the headers: can send to some of them only, and raw MIME."""
    idempotency_window_s: float = 0.0
    """For how long after a send the vendor recognises `Mail.key`; 0: not at all. Within it a
    message may be repeated and goes out once."""
    look_up_lag_s: float | None = None
    """How long after the vendor accepted a message `look_up` may still miss it; None: there is no
    look-up."""
    work_max_s: float = 120.0
    """The vendor's longest work: how long after the connection is gone it may still accept."""
    delivery_events: bool = False
    """The vendor reports what became of a message it accepted, and the gateway is given that."""

    @property
    def gives_evidence(self) -> bool:
        """Whether anything can tell what became of a message whose answer was lost."""
        can_be_asked = self.look_up_lag_s is not None
        return can_be_asked or self.delivery_events or self.idempotency_window_s > 0


class Found(msgspec.Struct, frozen=True):
    """The vendor has the message."""

    provider_message_id: str


class NotFound(msgspec.Struct, frozen=True):
    """The vendor does not have it, or not yet: proves something only after its look-up lag."""


class LookUpFailed(msgspec.Struct, frozen=True):
    """The vendor did not answer; nothing is known."""

    reason: Reason


LookUpResult: TypeAlias = Found | NotFound | LookUpFailed


class Session(Protocol):
    """An open, authenticated connection to the provider, for one attempt."""

    async def send(self, mail: Mail) -> Outcome:
        """Send and return the outcome; the session goes back to its pool or is closed.

        Every phase has its own timeout. Cancellation closes the session.
        """
        ...

    async def aclose(self) -> None:
        """Return the session to its pool unused, or close it."""
        ...


class Provider(Protocol):
    """One outbound path."""

    @property
    def capabilities(self) -> Capabilities:
        """What this provider can do."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """What it sends that nobody may read in an answer: passwords, and tokens so far."""
        ...

    async def connect(self) -> Session | Refusal | NotAttempted:
        """Return a session, pooled or new, or why there is none; nothing was sent."""
        ...

    def take_ready(self) -> Session | None:
        """Return a session that stands ready, or None where `connect` has to be awaited."""
        ...

    async def look_up(self, marker: str) -> LookUpResult:
        """Ask the vendor whether it has the message with this marker (`Mail.marker`).

        `LookUpFailed` where `capabilities.look_up_lag_s` is None. Has its own timeout, and raises
        for no fault of the network or the vendor.
        """
        ...

    async def release(self) -> None:
        """Close what is idle: this process lacks descriptors or memory, perhaps for others."""
        ...

    async def aclose(self) -> None:
        """Close pooled sessions."""
        ...
