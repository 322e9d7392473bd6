"""Commands beside the flow: deadlines, cancelling, recovery, crashes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from mailactors.spool.port.command import Command, Result

CRASHES_MAX: Final = 3
"""A message with so many crashes is given up: it never loops."""
ALONE_FROM: Final = CRASHES_MAX - 1
"""A message with so many crashes is sent while no other such message is in flight, so that the
next crash shows which message causes it. With fewer it is sent like any other."""


class Expire(Command, frozen=True):
    """End every ready, deferred or leased delivery that is past its deadline. → Expired"""

    limit: int


class Expired(Result, frozen=True):
    """What expired. `next_expiry_at`: the earliest deadline among pending messages, or None."""

    seqs: tuple[int, ...]
    ids: tuple[str, ...]
    next_expiry_at: float | None


class Flush(Command, frozen=True):
    """Make deferred deliveries of a stream due now, before their time. → Flushed

    All that wait for a later time than `since`, but for those whose message's `send_at` has not
    come. With a `provider` only those that it had last. Looks at up to `limit` deliveries, in the
    order of their due times up to `until`, after the place `after`; what is flushed lies before it.

    A recall is of what was released to wait, which no provider deferred, and leaves no event.
    """

    stream: str
    provider: str
    since: float
    limit: int
    after: tuple[float, int, int] | None = None
    until: float = math.inf
    is_recall: bool = False


class Flushed(Result, frozen=True):
    """How many are due now. `after`: where the next command goes on, or None at the end."""

    count: int
    after: tuple[float, int, int] | None
    stream: str = ""
    """The stream, if something of it is due, or empty."""


class Cancel(Command, frozen=True):
    """Cancel a message's ready, deferred and leased deliveries. → Cancelled"""

    id: str


class Cancelled(Result, frozen=True):
    """How many deliveries are cancelled, and for how many it was too late."""

    is_known: bool
    cancelled_count: int
    too_late_count: int


class Recover(Command, frozen=True):
    """Take back the deliveries of a dead process or dispatcher. → Recovered

    Deliveries leased to `node` are ready again, but for those of `leases`, (seq, epoch). Those
    with an open intent become uncertain, never ready, unless their attempt is in `in_flight`;
    they are due `uncertain_wait_s` (by stream, `""` for the rest) after now. A crash is counted
    for messages that are `blamed`, or, if the process `died`, for all with an open intent.
    """

    node: str
    in_flight: frozenset[str]
    leases: frozenset[tuple[int, int]]
    uncertain_wait_s: Mapping[str, float]
    blamed: frozenset[int] = frozenset()
    died: bool = False


class Recovered(Result, frozen=True):
    """How many deliveries were leased, how many had an open intent, and which messages are held."""

    released_count: int
    uncertain_count: int
    held_ids: tuple[str, ...] = ()


class CountCrash(Command, frozen=True):
    """Record that an actor crashed on a message for the n-th time. → Recorded"""

    seq: int
    crashes: int
