"""One message at a vendor, and who watches."""

from __future__ import annotations

import math
from typing import Protocol

from mailactors.providers.port import Mail
from mailactors.sim.vendor.answers import BAD_KEY, Answer


class Watch(Protocol):
    """What a way to a vendor tells the judges."""

    def began(self, provider: str) -> None:
        """An attempt reached the provider: it is about to connect."""
        ...

    def unused(self, provider: str, began_s: float) -> None:
        """An attempt that began then gave its session back: nothing was sent."""
        ...

    def sending(self, provider: str, number: int) -> None:
        """The first byte of a message is about to go out."""
        ...

    def arrived(self, provider: str, number: int) -> None:
        """A message truly went out."""
        ...

    def throttled(self, provider: str, retry_after_s: float) -> None:
        """The provider has just said when to come back."""
        ...


class Call:
    """One message at a vendor, and what comes of it. Times are fixed when it begins."""

    __slots__ = (
        *("answer", "answer_s", "attempt", "begun_s", "body_s", "digest", "id", "is_over"),
        *("keeps_abandoned", "marker", "number", "out_s", "recipients", "turn_s", "watch"),
    )

    def __init__(
        self,
        number: int,
        marker: str,
        recipients: tuple[str, ...],
        watch: Watch | None,
        begun_s: float,
    ) -> None:
        self.number = number
        self.marker = marker
        self.recipients = recipients
        self.watch = watch
        self.begun_s = begun_s
        self.attempt = self.digest = 0
        self.id = ""
        self.answer: Answer = BAD_KEY
        self.answer_s = math.inf
        """When the vendor says it."""
        self.out_s = math.inf
        """When it takes the message over; infinite: never."""
        self.turn_s = self.body_s = begun_s
        """When it begins with it, and when it has the whole body."""
        self.keeps_abandoned = False
        """Whether the vendor goes on waiting in its own line for who has hung up."""
        self.is_over = False
        """Whether it is taken over, or never will be."""


def number_of(mail: Mail) -> int:
    """Return a message's number in the traffic: its subject, which no policy changes."""
    return int(mail.content.subject)
