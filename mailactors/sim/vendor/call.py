"""One message at a vendor, and the observer to which a client reports its attempts."""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(slots=True, eq=False)
class Call:
    """One message at a vendor. All times are fixed when it begins."""

    number: int
    marker: str
    recipients: tuple[str, ...]
    observer: AttemptObserver
    begun_s: float
    turn_s: float
    """When the vendor starts to serve it."""
    body_s: float = 0.0
    """When the vendor has the whole body."""
    taken_s: float = math.inf
    """When it accepts the message; infinite: never."""
    answer_s: float = math.inf
    """When it answers; infinite: never."""
    answer: Answer = BAD_KEY
    attempt: int = 0
    digest: int = 0
    id: str = ""
    keeps_abandoned: bool = False
    """Whether the vendor keeps it in its queue after the client has hung up."""
    is_over: bool = False
    """Whether it was accepted, or never will be."""


def number_of(mail: Mail) -> int:
    """Return a message's number in the traffic: its subject, which no policy changes."""
    return int(mail.content.subject)
