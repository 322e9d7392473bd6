"""One message at a vendor, and the observer to which a client reports its attempts."""

from __future__ import annotations

import math

from mailactors.providers.port import Mail
from mailactors.sim.vendor.answers import BAD_KEY, Answer


class AttemptObserver:
    """What a vendor and its clients report to the checks; this one ignores it."""

    def began(self, provider: str) -> None:
        """An attempt reached the provider: it is about to connect."""

    def unused(self, provider: str, began_s: float) -> None:
        """The attempt that began then returned its session: nothing was sent."""

    def sending(self, provider: str, number: int) -> None:
        """The first byte of a message is about to go out."""

    def failed(self, provider: str) -> None:
        """An attempt has just ended without an acceptance."""

    def arrived(self, provider: str, number: int) -> None:
        """The provider sent a message on, which it may do after the process is dead."""

    def throttled(self, provider: str, retry_after_s: float) -> None:
        """The provider has just asked for a pause."""


class Call:
    """One message at a vendor. All times are fixed when it begins."""

    __slots__ = (
        *("answer", "answer_s", "attempt", "begun_s", "body_s", "digest", "id", "is_over"),
        *("keeps_abandoned", "marker", "number", "observer", "recipients", "taken_s", "turn_s"),
    )

    def __init__(
        self,
        number: int,
        marker: str,
        recipients: tuple[str, ...],
        observer: AttemptObserver,
        begun_s: float,
    ) -> None:
        self.number = number
        self.marker = marker
        self.recipients = recipients
        self.observer = observer
        self.begun_s = begun_s
        self.attempt = self.digest = 0
        self.id = ""
        self.answer: Answer = BAD_KEY
        self.answer_s = math.inf
        """When the vendor answers; infinite: never."""
        self.taken_s = math.inf
        """When it accepts the message; infinite: never."""
        self.turn_s = self.body_s = begun_s
        """When the vendor starts to serve it, and when it has the whole body."""
        self.keeps_abandoned = False
        """Whether the vendor keeps it in its queue after the client has hung up."""
        self.is_over = False
        """Whether it was accepted, or never will be."""


def number_of(mail: Mail) -> int:
    """Return a message's number in the traffic: its subject, which no policy changes."""
    return int(mail.content.subject)
