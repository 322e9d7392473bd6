"""Keeps actors alive: ordered start, restart with a limit, stop in reverse.

A crashed actor is built anew and finds its mailboxes as they were (`runtime.mailbox`). What
crashes too often is a fault that a restart does not cure: the supervisor gives up, and with it the
process, so that whoever watches the process learns of it.

Source: the one_for_one strategy and restart intensity of Erlang/OTP's supervisor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec
import trio

from mailactors.errors import MailactorsError
from mailactors.runtime.mailbox import Mailbox, MailboxStatistics
from mailactors.runtime.ports import Clock, Journal


class RestartsExhaustedError(MailactorsError):
    """An actor crashed more often than its limit allows."""


class InjectedCrashError(MailactorsError):
    """A crash on purpose, by a test or the simulator."""


class Runnable(Protocol):
    """An actor's shell."""

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Call `task_status.started()` when ready for work, then work until cancelled."""
        ...


@dataclass(frozen=True)
class Restarts:
    """How often an actor may crash before the process gives up.

    The first restart is at once; each further one within the window waits `delay_s` times as
    often as there were crashes.
    """

    count_max: int
    within_s: float
    delay_s: float = 0.0


ACTOR_RESTARTS: Final = Restarts(count_max=5, within_s=30.0)
"""For actors of the mail path. OTP's default is 1 in 5 s; ours lose nothing, so more is fair."""

SERVER_RESTARTS: Final = Restarts(count_max=1_000_000, within_s=60.0, delay_s=0.5)
"""For listeners: after the first bind mail flows without them, so they are tried for ever."""


DELAY_MAX_S: Final = 30.0
"""The longest wait before a restart."""


class _Start:
    """Reports the first start to the supervisor; later starts of the same child are silent."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status
        self.is_over = False

    def started(self, value: None = None) -> None:
        """Say that the actor is ready."""
        if not self.is_over:
            self.is_over = True
            self._task_status.started()


@dataclass(frozen=True)
class Child:
    """An actor as the supervisor knows it: how to build it, and what outlives it."""

    name: str
    build: Callable[[], Runnable]
    mailboxes: tuple[Mailbox[Any], ...] = ()
    restarts: Restarts = ACTOR_RESTARTS
    fatal: tuple[type[Exception], ...] = ()
    """Errors after which a restart would do harm: the supervisor gives up at once."""


@dataclass
class _Kept:
    """A child's present run."""

    child: Child
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    crashes_at: deque[float] = field(default_factory=deque)
    crash_count: int = 0
    injected: Exception | None = None
    is_started: bool = False
    is_stopping: bool = False
    is_renewed: bool = False
    ended: trio.Event = field(default_factory=trio.Event)


class ChildStatistics(msgspec.Struct, frozen=True):
    """A snapshot for metrics."""

    name: str
    crash_count: int


class Supervisor:
    """Runs its children until told to stop."""

    def __init__(self, children: Sequence[Child], clock: Clock, journal: Journal) -> None:
        self._kept = [_Kept(child) for child in children]
        self._nursery: trio.Nursery | None = None
        self._clock = clock
        self._journal = journal

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children in order, keep them, and return once all were stopped.

        Raises: RestartsExhaustedError (in a group); whatever a child's first start raises.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for kept in list(self._kept):
                if not kept.is_stopping:
                    await nursery.start(self._keep, kept)
            task_status.started()

    async def stop(self) -> None:
        """Stop the children one after the other, last started first."""
        for kept in reversed(self._kept):
            await self._stop_one(kept)

    def mailbox_statistics(self) -> list[MailboxStatistics]:
        """Return how full each child's mailboxes are."""
        return [box.statistics() for kept in self._kept for box in kept.child.mailboxes]

    def append(self, child: Child) -> None:
        """Add a child before `run`; it starts last and stops first."""
        assert self._nursery is None
        self._kept.append(_Kept(child))

    async def add(self, child: Child, *, before: str) -> None:
        """Start one more child; it stops after the child named `before`, as if started sooner."""
        assert self._nursery is not None
        kept = _Kept(child)
        self._kept.insert(self._kept.index(self._find(before)), kept)
        await self._nursery.start(self._keep, kept)

    async def remove(self, name: str) -> None:
        """Stop one child for good."""
        kept = self._find(name)
        await self._stop_one(kept)
        self._kept.remove(kept)

    def restart(self, name: str) -> None:
        """Let a child be built anew, as after a crash, but on purpose: it does not count."""
        kept = self._find(name)
        kept.is_renewed = True
        kept.scope.cancel()

    def crash(self, name: str) -> None:
        """Make a child crash where it stands (tests, the simulator)."""
        kept = self._find(name)
        kept.injected = InjectedCrashError(f"{name} was made to crash")
        kept.scope.cancel()

    def statistics(self) -> list[ChildStatistics]:
        """Return each child's name and how often it has crashed."""
        return [ChildStatistics(k.child.name, k.crash_count) for k in self._kept]

    def _find(self, name: str) -> _Kept:
        for kept in self._kept:
            if kept.child.name == name:
                return kept
        raise KeyError(name)

    async def _stop_one(self, kept: _Kept) -> None:
        kept.is_stopping = True
        kept.scope.cancel()
        if kept.is_started:
            await kept.ended.wait()

    async def _keep(self, kept: _Kept, task_status: trio.TaskStatus[None]) -> None:
        """Run one child again and again; only its first start may fail the whole."""
        start = _Start(task_status)
        kept.is_started = True
        try:
            while not kept.is_stopping:
                error = await self._run_once(kept, start)
                is_renewed, kept.is_renewed = kept.is_renewed, False
                if error is None and is_renewed:
                    continue
                if error is None:
                    return
                if not start.is_over or isinstance(error, kept.child.fatal):
                    raise error
                await self._after_crash(kept, error)
        finally:
            kept.ended.set()

    async def _run_once(self, kept: _Kept, start: _Start) -> Exception | None:
        """Run a child until it is stopped (None) or crashes (why)."""
        kept.injected = None
        kept.scope = trio.CancelScope()
        try:
            with kept.scope:
                await kept.child.build().run(start)
        except Exception as error:
            return error
        injected: Exception | None = kept.injected
        if injected is not None:
            return injected
        if kept.scope.cancelled_caught or kept.is_stopping:
            start.started()  # whoever was told to stop before it was ready has not failed
            return None
        return MailactorsError(f"{kept.child.name} ended by itself")

    async def _after_crash(self, kept: _Kept, error: Exception) -> None:
        """Count a crash, settle the mailboxes, and wait for as long as the table says."""
        kept.crash_count += 1
        self._journal.note(
            "actor.crashed", level="error", actor=kept.child.name, error=describe(error)
        )
        for mailbox in kept.child.mailboxes:
            mailbox.crash(error)
        now_s = self._clock.now_s()
        restarts = kept.child.restarts
        if not may_restart(kept.crashes_at, restarts, now_s):
            raise RestartsExhaustedError(
                f"{kept.child.name} crashed more than {restarts.count_max} times "
                f"in {restarts.within_s:g} s; the last time: {describe(error)}"
            ) from error
        if restarts.delay_s:
            kept.scope = trio.CancelScope()
            with kept.scope:
                await trio.sleep(min(DELAY_MAX_S, restarts.delay_s * len(kept.crashes_at)))


def may_restart(crashes_at: deque[float], restarts: Restarts, now_s: float) -> bool:
    """Record a crash at `now_s` and say whether the limit still allows a restart."""
    crashes_at.append(now_s)
    while crashes_at and crashes_at[0] <= now_s - restarts.within_s:
        crashes_at.popleft()
    return len(crashes_at) <= restarts.count_max


def describe(error: BaseException) -> str:
    """Return an exception in one line, groups unfolded to their leaves."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"
