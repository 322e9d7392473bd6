"""A node of a simulation: the gateway's process, which may die at any moment and is started again.

A process that dies loses its ports first and is cancelled then, so that no `finally` of it can
still write, send or say anything. The spool and the vendors outlive it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import trio

from mailactors.config import Config
from mailactors.dispatch.lane import Attempt
from mailactors.errors import MailactorsError
from mailactors.intake.submission import OverloadedError, Submission
from mailactors.runtime.ports import Executor, Faults, Journal, Ports
from mailactors.runtime.supervisor import InjectedCrashError
from mailactors.spool.port import Receipt, Store
from mailactors.wiring import Gateway, ProviderFactory, build

T = TypeVar("T")

RESTART_S: Final = 1.0
"""How long whoever watches the process takes to start it again."""
CONNECT_AGAIN_S: Final = 1.0
"""When a client whose connection was lost or refused tries again."""
LANE_POINTS: Final = ("limiter.attempt", "breaker.attempt", "provider.attempt")
"""Where a message may kill the actor that handles it."""


class ProcessDiedError(MailactorsError):
    """The process is dead; nothing that it does reaches the world any more."""


class Life:
    """One process, from its start to its end. Its ports ask whether it lives."""

    def __init__(self) -> None:
        self.is_over = False
        self.why = ""
        self.scope = trio.CancelScope()
        self._callers: dict[trio.CancelScope, None] = {}

    def end(self, why: str) -> None:
        """Die: the ports first, then every task, and the connections of clients break."""
        if self.is_over:
            return
        self.is_over, self.why = True, why
        self.scope.cancel()
        for caller in list(self._callers):
            caller.cancel()

    def check(self) -> None:
        """Raise ProcessDiedError after the end."""
        if self.is_over:
            raise ProcessDiedError(self.why)

    async def call(self, gateway: Gateway, submission: Submission) -> Receipt:
        """Submit as a client of this process. Raises: OverloadedError, when it dies meanwhile."""
        with trio.CancelScope() as scope:
            self._callers[scope] = None
            try:
                return await gateway.door.submit(submission)
            finally:
                del self._callers[scope]
        raise OverloadedError("the connection was lost", CONNECT_AGAIN_S)


class MortalExecutor:
    """Does nothing for a dead process: what it was about to write is not written."""

    def __init__(self, inner: Executor, life: Life) -> None:
        self._inner = inner
        self._life = life

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work`, unless the process is dead by then. Raises: ProcessDiedError."""

        def alive() -> T:
            self._life.check()
            return work()

        return await self._inner.run(alive)

    def close(self) -> None:
        """Nothing to give back."""


class MortalJournal:
    """Passes on what a living process says."""

    def __init__(self, inner: Journal, life: Life) -> None:
        self._inner = inner
        self._life = life

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        """Say it, unless the process is dead."""
        if not self._life.is_over:
            self._inner.note(event, level=level, **facts)


class FaultPoints:
    """What the fault port does in a simulation; outlives processes.

    Counts how often each point was reached, ends the process at the next `deadly` one, and makes
    poison crash the actor that has it in hand.
    """

    def __init__(self, is_poison: Callable[[int], bool] | None = None) -> None:
        self.hits: Counter[str] = Counter()
        self.deadly = ""
        self.is_poison = is_poison
        """By a message's place in the spool; None when there is none in the whole run."""

    def kill(self, name: str, life: Life) -> None:
        """End the process at its deadly point. Raises: ProcessDiedError."""
        self.deadly = ""
        life.end(f"killed at {name}")
        life.check()

    def poison(self, name: str, gateway: Gateway | None) -> None:
        """Crash the actor that comes by with poison in hand. Raises: InjectedCrashError."""
        if gateway is None or self.is_poison is None or name not in LANE_POINTS:
            return
        seq = seq_under_cursor(gateway, name)
        if seq is not None and self.is_poison(seq) and LANE_POINTS[seq % 3] == name:
            raise InjectedCrashError(f"{name}: poison")


class NodeFaults:
    """The fault port of one process."""

    def __init__(self, points: FaultPoints, life: Life) -> None:
        self.gateway: Gateway | None = None
        self._points = points
        self._life = life

    def point(self, name: str) -> None:
        """Come by a point. Raises: ProcessDiedError, InjectedCrashError."""
        life, points = self._life, self._points
        if life.is_over:
            life.check()
        points.hits[name] += 1
        if name == points.deadly:
            points.kill(name, life)
        if points.is_poison is not None:
            points.poison(name, self.gateway)


def seq_under_cursor(gateway: Gateway, name: str) -> int | None:
    """Return which message the lane actor that came by a point has in hand."""
    kind = name.partition(".")[0]
    for lane in gateway.lanes.values():
        for item in getattr(lane, kind).under_cursor:
            if isinstance(item, Attempt):
                return item.lease.seq
    return None


def mortal_ports(ports: Ports, life: Life, faults: Faults) -> Ports:
    """Return the ports of one process: the world's, for as long as it lives."""
    return dataclasses.replace(
        ports,
        faults=faults,
        executor=lambda name: MortalExecutor(ports.executor(name), life),
        journal=MortalJournal(ports.journal, life),
    )


class Node:
    """Keeps one process after the other running, until it is told to stop."""

    def __init__(
        self,
        config: Config,
        ports: Ports,
        points: FaultPoints,
        open_store: Callable[[Life], Store],
        factory: Callable[[Life], ProviderFactory],
        attend: Callable[[Gateway, Life], None],
        died: Callable[[str, bool], bool],
    ) -> None:
        """Say how to make a process.

        Args:
            open_store: the spool as this process sees it.
            factory: the ways to the vendors from this process.
            attend: is shown each gateway before it runs.
            died: is told why a process died, and whether somebody killed it; says whether to
                start another.
        """
        self.gateway: Gateway | None = None
        """The one that serves, or None while there is none."""
        self.life = Life()
        self.starts = self.gateways = 0
        """Processes that began, and those of them that came to serve."""
        self.points = points
        self._came = trio.Event()
        self._config = config
        self._ports = ports
        self._open_store = open_store
        self._factory = factory
        self._attend = attend
        self._died = died

    async def keep(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run a process; when it dies, start another. Return after an orderly end."""
        while True:
            life = Life()
            faults = NodeFaults(self.points, life)
            ports = mortal_ports(self._ports, life, faults)
            store, factory = self._open_store(life), self._factory(life)
            gateway = faults.gateway = build(self._config, ports, store, factory)
            self._attend(gateway, life)
            self.life, self.starts = life, self.starts + 1
            is_planned = await self._live(gateway, life, task_status)
            self.gateway, self._came = None, trio.Event()
            if not life.is_over:
                return
            if not self._died(life.why, is_planned):
                if self.gateways == 0:
                    task_status.started()
                return
            await trio.sleep(RESTART_S)

    async def _live(self, gateway: Gateway, life: Life, task_status: trio.TaskStatus[None]) -> bool:
        """Run one process to its end; return whether it ended as it should."""
        is_planned = True
        with life.scope:
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(partial(_run, gateway))
                    if self.gateways == 0:
                        task_status.started()
                    self.gateways += 1
                    self.gateway = gateway
                    self._came.set()
            except* Exception as errors:
                if not life.is_over:
                    is_planned = False
                    life.end(repr(errors))
        return is_planned

    async def serving(self) -> Gateway:
        """Return the gateway that serves, once there is one."""
        while self.gateway is None:
            await self._came.wait()
        return self.gateway

    async def submit(self, submission: Submission) -> Receipt:
        """Take a client's submission to the process that serves now.

        Raises: what the door raises; OverloadedError when nobody listens or the connection broke.
        """
        if self.gateway is None:
            raise OverloadedError("nobody listens", CONNECT_AGAIN_S)
        return await self.life.call(self.gateway, submission)


async def _run(
    gateway: Gateway, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    await gateway.run(task_status=task_status)
