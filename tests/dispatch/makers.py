"""What the tests of this room build again and again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import trio

from mailactors.dispatch.attempt import Attempt, Done
from mailactors.dispatch.lane import Lane, open_lane
from mailactors.providers.port import Provider
from mailactors.providers.simulated import SimulatedProvider, SimulatedSettings
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import Faults, NoFaults, Ports, SilentJournal, system_ports
from mailactors.runtime.supervisor import InjectedCrashError
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


class TrioClock:
    """Both clocks are Trio's, so that a mock clock moves dates as well."""

    def now_s(self) -> float:
        return trio.current_time()

    def wall_time(self) -> float:
        return NOW + trio.current_time()


class EvenEntropy:
    """Always the middle: latencies are medians, jitter is none."""

    def draw(self, *key: str | int) -> float:
        return 0.5


class CrashAt:
    """A fault port that makes an actor crash the next `times` times that it comes to a point."""

    def __init__(self, name: str, times: int = 1) -> None:
        self.name = name
        self.times = times

    def point(self, name: str) -> None:
        if name == self.name and self.times > 0:
            self.times -= 1
            raise InjectedCrashError(name)


def make_ports(faults: Faults | None = None) -> Ports:
    return dataclasses.replace(
        system_ports(SilentJournal()),
        clock=TrioClock(),
        entropy=EvenEntropy(),
        faults=faults or NoFaults(),
    )


def open_outcomes() -> Mailbox[Done]:
    return Mailbox("outcomes", 1000, lambda _done, _error: None)


def make_lane(
    name: str = "primary",
    concurrency_max: int = 8,
    provider: Provider | None = None,
) -> Lane:
    clock = TrioClock()
    provider = provider or SimulatedProvider(name, SimulatedSettings(), clock, EvenEntropy())
    return open_lane(name, concurrency_max, provider, clock)


def ignore(_done: Done) -> None:
    """Stand in for the owner of an attempt whose end does not matter."""


def make_attempt(
    lane: Lane,
    number: int = 1,
    *,
    is_panic: bool = False,
    reply_to: Callable[[Done], None] = ignore,
) -> Attempt:
    """Build an attempt that is in flight, as the dispatcher does."""
    attempt = Attempt(
        f"attempt-{number}", make_lease(number), lane.name, reply_to, is_panic=is_panic
    )
    lane.in_flight[attempt.id] = attempt
    return attempt


class NotingEntropy(EvenEntropy):
    """Keeps the keys that were drawn for."""

    def __init__(self) -> None:
        self.keys: list[tuple[str | int, ...]] = []

    def draw(self, *key: str | int) -> float:
        self.keys.append(key)
        return super().draw(*key)
