"""The suppression list: addresses that get no mail."""

from __future__ import annotations

from mailactors.spool.port.command import Command, Result


class Suppression(Result, frozen=True):
    """An address that gets no mail. `source` is who suppressed it: "bounce", "api", …"""

    address: str
    reason: str
    source: str
    created_at: float


class Suppress(Command, frozen=True):
    """Put an address on the suppression list. → Suppression: the first one stands

    Waiting deliveries become `suppressed` at their intent; those that are sending do not change.
    """

    address: str
    reason: str
    source: str


class Unsuppress(Command, frozen=True):
    """Take an address off the suppression list. → Unsuppressed"""

    address: str


class Unsuppressed(Result, frozen=True):
    """`was_suppressed`: the address was on the list."""

    address: str
    was_suppressed: bool
