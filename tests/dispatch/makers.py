"""What the tests of this room build again and again."""

from __future__ import annotations

import trio

from mailactors.dispatch.lane import Done, Lane, open_lane
from mailactors.providers.port import Capabilities
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import SystemClock
from mailactors.spool.port import Lease, Progress

NOW = 1_800_000_000.0
"""A date for decisions that need one."""


def make_lease(
    seq: int = 1,
    *,
    stream: str = "bulk",
    progress: Progress | None = None,
    recipients: int = 1,
    due_at: float = NOW,
) -> Lease:
    return Lease(
        seq=seq,
        id=f"message-{seq}",
        stream=stream,
        recipients=tuple((n, f"r{n}@x.example") for n in range(recipients)),
        recipients_total=recipients,
        epoch=1,
        attempts=0,
        progress=progress or Progress(),
        due_at=due_at,
        accepted_at=NOW,
        expires_at=NOW + 172_800.0,
        size_bytes=1000,
    )


def open_outcomes() -> Mailbox[Done]:
    return Mailbox("outcomes", 1000, lambda _done, _error: None)


def make_lane(name: str = "primary", concurrency_max: int = 8) -> Lane:
    return open_lane(name, concurrency_max, Capabilities(True), open_outcomes(), SystemClock())


class HandClock:
    """A clock that a plain test moves by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def now_s(self) -> float:
        return self.now

    def wall_time(self) -> float:
        return NOW + self.now


class TrioClock:
    """Both clocks are Trio's, so that a mock clock moves dates as well."""

    def now_s(self) -> float:
        return trio.current_time()

    def wall_time(self) -> float:
        return NOW + trio.current_time()
