"""Keeps actors alive: ordered start, restart with a limit, stop in reverse.

A crashed actor is built anew and finds its mailboxes as they were (`runtime.mailbox`). A restart
does not cure an actor that crashes too often: the supervisor gives up and the process ends with an
error, which its process manager can see.

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
    """An actor, as the supervisor runs it."""

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Call `task_status.started()` when ready for work, then work until cancelled."""
        ...


@dataclass(frozen=True)
class Restarts:
    """How often an actor may crash before the process gives up.

    Before a restart the supervisor waits `delay_s` times the crashes within the window.
    """

    count_max: int
    within_s: float
    delay_s: float = 0.0


ACTOR_RESTARTS: Final = Restarts(count_max=5, within_s=30.0)
"""For actors of the mail path. OTP's default is 1 in 5 s; ours lose nothing, so more is fair."""

SERVER_RESTARTS: Final = Restarts(count_max=1_000_000, within_s=60.0, delay_s=0.5)
"""For listeners: after the first bind mail flows without them, so they may always restart."""
DELAY_MAX_S: Final = 30.0
"""Upper bound of the wait before a restart."""


class _Start:
    """Reports the first start to the supervisor; later starts of the same child are silent."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status
        self.is_over = False

    def started(self, value: None = None) -> None:
        if not self.is_over:
            self.is_over = True
            self._task_status.started()


@dataclass(frozen=True)
class Child:
    """How to build an actor, and what outlives it."""

    name: str
    build: Callable[[], Runnable]
    mailboxes: tuple[Mailbox[Any], ...] = ()
    restarts: Restarts = ACTOR_RESTARTS
    fatal: tuple[type[Exception], ...] = ()
    """After one of these errors a restart would do harm: the supervisor gives up at once."""


@dataclass
class _Running:
    """A child's present run, and its crashes so far."""

    child: Child
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    crashes_at: deque[float] = field(default_factory=deque)
    crash_count: int = 0
    injected: Exception | None = None
    is_started: bool = False
    is_stopping: bool = False
    is_restarting: bool = False
    ended: trio.Event = field(default_factory=trio.Event)


class ChildStatistics(msgspec.Struct, frozen=True):
    """A snapshot for metrics."""

    name: str
    crash_count: int


class Supervisor:
    """Runs its children until `stop`."""

    def __init__(self, children: Sequence[Child], clock: Clock, journal: Journal) -> None:
        self._running = [_Running(child) for child in children]
        self._nursery: trio.Nursery | None = None
        self._clock = clock
        self._journal = journal

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children in order, restart those that crash, return once all are stopped.

        Raises: RestartsExhaustedError (in a group); whatever a child's first start raises.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for running in list(self._running):
                if not running.is_stopping:
                    await nursery.start(self._supervise, running)
            task_status.started()

    async def stop(self) -> None:
        """Stop the children one after the other, last started first."""
        for running in reversed(self._running):
            await self._stop_one(running)

    def mailbox_statistics(self) -> list[MailboxStatistics]:
        """Return how full each child's mailboxes are."""
        return [box.statistics() for running in self._running for box in running.child.mailboxes]

    def append(self, child: Child) -> None:
        """Add a child before `run`; it starts last and stops first."""
        assert self._nursery is None
        self._running.append(_Running(child))

    async def add(self, child: Child, *, before: str) -> None:
        """Start one more child; it stops after the child named `before`, as if started sooner."""
        assert self._nursery is not None
        running = _Running(child)
        self._running.insert(self._running.index(self._find(before)), running)
        await self._nursery.start(self._supervise, running)

    async def remove(self, name: str) -> None:
        """Stop one child for good."""
        running = self._find(name)
        await self._stop_one(running)
        self._running.remove(running)

    def restart(self, name: str) -> None:
        """Build a child anew, as after a crash; it does not count as one."""
        running = self._find(name)
        running.is_restarting = True
        running.scope.cancel()

    def crash(self, name: str) -> None:
        """Make a child crash at its present checkpoint (tests, the simulator)."""
        running = self._find(name)
        running.injected = InjectedCrashError(f"{name} was made to crash")
        running.scope.cancel()

    def statistics(self) -> list[ChildStatistics]:
        """Return each child's name and how often it has crashed."""
        return [ChildStatistics(k.child.name, k.crash_count) for k in self._running]

    def _find(self, name: str) -> _Running:
        for running in self._running:
            if running.child.name == name:
                return running
        raise KeyError(name)

    async def _stop_one(self, running: _Running) -> None:
        running.is_stopping = True
        running.scope.cancel()
        if running.is_started:
            await running.ended.wait()

    async def _supervise(self, running: _Running, task_status: trio.TaskStatus[None]) -> None:
        """Run one child again and again; a failure of its first start is raised."""
        start = _Start(task_status)
        running.is_started = True
        try:
            while not running.is_stopping:
                error = await self._run_once(running, start)
                is_restarting, running.is_restarting = running.is_restarting, False
                if error is not None:
                    if not start.is_over or isinstance(error, running.child.fatal):
                        raise error
                    await self._after_crash(running, error)
                elif not is_restarting:
                    return
        finally:
            running.ended.set()

    async def _run_once(self, running: _Running, start: _Start) -> Exception | None:
        """Run a child. Return the error that it crashed of, or None when it was stopped."""
        running.injected = None
        running.scope = trio.CancelScope()
        try:
            with running.scope:
                await running.child.build().run(start)
        except Exception as error:
            return error
        injected: Exception | None = running.injected
        if injected is not None:
            return injected
        if running.scope.cancelled_caught or running.is_stopping:
            start.started()  # stopped before it was ready: no failure
            return None
        return MailactorsError(f"{running.child.name} ended by itself")

    async def _after_crash(self, running: _Running, error: Exception) -> None:
        """Count a crash, deal with its mailboxes, and wait before the restart."""
        running.crash_count += 1
        self._journal.note(
            "actor.crashed", level="error", actor=running.child.name, error=describe(error)
        )
        for mailbox in running.child.mailboxes:
            mailbox.crash(error)
        now_s = self._clock.now_s()
        restarts = running.child.restarts
        if not may_restart(running.crashes_at, restarts, now_s):
            raise RestartsExhaustedError(
                f"{running.child.name} crashed more than {restarts.count_max} times "
                f"in {restarts.within_s:g} s; the last time: {describe(error)}"
            ) from error
        if restarts.delay_s:
            running.scope = trio.CancelScope()
            with running.scope:
                await trio.sleep(min(DELAY_MAX_S, restarts.delay_s * len(running.crashes_at)))


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
