"""The gateway's process in a simulation, which may die at any moment and is started again.

A process that dies loses its ports first and is cancelled then, so that no `finally` can still
write, send or log anything. The spool and the vendors outlive it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

import trio

from mailactors.config import Config
from mailactors.dispatch.attempt import Attempt
from mailactors.errors import MailactorsError
from mailactors.intake.submission import OverloadedError, Submission
from mailactors.runtime.ports import Executor, Faults, Journal, Ports
from mailactors.runtime.supervisor import InjectedCrashError
from mailactors.spool.port import Receipt, Store
from mailactors.wiring import Gateway, ProviderFactory, build

T = TypeVar("T")

RESTART_S: Final = 1.0
"""How long it takes to start the process again."""
CONNECT_AGAIN_S: Final = 1.0
"""When a client retries whose connection was lost or refused."""
LANE_POINTS: Final = ("limiter.attempt", "breaker.attempt", "provider.attempt")
"""The fault points at which a poisonous message crashes the actor."""


class ProcessDiedError(MailactorsError):
    """The process is dead; none of its actions has an effect."""


class Process:
    """One process of the gateway, from its start to its end."""

    def __init__(self) -> None:
        self.is_over = False
        self.why = ""
        self.scope = trio.CancelScope()
        self._callers: dict[trio.CancelScope, None] = {}

    def end(self, why: str) -> None:
        """End the ports, then every task and every client's connection."""
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
        """Submit to this process. Raises: OverloadedError if it dies meanwhile."""
        with trio.CancelScope() as scope:
            self._callers[scope] = None
            try:
                return await gateway.door.submit(submission)
            finally:
                del self._callers[scope]
        raise OverloadedError("the connection was lost", CONNECT_AGAIN_S)


@dataclasses.dataclass(frozen=True)
class ProcessExecutor:
    """Runs work for as long as the process lives: a dead process writes nothing."""

    inner: Executor
    process: Process

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work`, unless the process is dead by then. Raises: ProcessDiedError."""

        def alive() -> T:
            self.process.check()
            return work()

        return await self.inner.run(alive)

    def close(self) -> None:
        """Do nothing: there are no threads."""


@dataclasses.dataclass(frozen=True)
class ProcessJournal:
    """Logs for as long as the process lives."""

    inner: Journal
    process: Process

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        if not self.process.is_over:
            self.inner.note(event, level=level, **facts)


class FaultPoints:
    """The state of the fault port, which outlives processes.

    It counts how often each point is reached, kills the process at `kill_at`, and lets a poisonous
    message crash the actor that handles it.
    """

    def __init__(self, is_poison: Callable[[int], bool] | None = None) -> None:
        self.hits: Counter[str] = Counter()
        self.kill_at = ""
        self.is_poison = is_poison
        """Takes a message's place in the spool; None if the scenario has no poison."""

    def poison(self, name: str, gateway: Gateway | None) -> None:
        """Crash the actor at this point if it handles poison. Raises: InjectedCrashError."""
        if gateway is None or self.is_poison is None or name not in LANE_POINTS:
            return
        seq = seq_under_cursor(gateway, name)
        if seq is not None and self.is_poison(seq) and LANE_POINTS[seq % 3] == name:
            raise InjectedCrashError(f"{name}: poison")


class NodeFaults:
    """The fault port of one process."""

    def __init__(self, points: FaultPoints, process: Process) -> None:
        self.gateway: Gateway | None = None
        self._points = points
        self._process = process

    def point(self, name: str) -> None:
        """Pass a fault point. Raises: ProcessDiedError, InjectedCrashError."""
        process, points = self._process, self._points
        process.check()
        points.hits[name] += 1
        if name == points.kill_at:
            points.kill_at = ""
            process.end(f"killed at {name}")
            process.check()
        if points.is_poison is not None:
            points.poison(name, self.gateway)


def seq_under_cursor(gateway: Gateway, name: str) -> int | None:
    """Return the place in the spool of the message that the lane actor at a point handles."""
    kind = name.partition(".")[0]
    for lane in gateway.lanes.values():
        for item in getattr(lane, f"{kind}_mailbox").under_cursor:
            if isinstance(item, Attempt):
                return item.lease.seq
    return None


def process_ports(ports: Ports, process: Process, faults: Faults) -> Ports:
    """Return the world's ports, which stop working when the process dies."""
    return dataclasses.replace(
        ports,
        faults=faults,
        executor=lambda name: ProcessExecutor(ports.executor(name), process),
        journal=ProcessJournal(ports.journal, process),
    )


class Node:
    """Runs one process after the other, until one ends in order."""

    def __init__(
        self,
        config: Config,
        ports: Ports,
        points: FaultPoints,
        parts: Callable[[Process], tuple[Store, ProviderFactory]],
        observe: Callable[[Gateway], None],
        on_death: Callable[[str, bool], bool],
    ) -> None:
        """Take the parts of a process.

        Args:
            parts: returns the spool as this process sees it, and what makes its clients.
            observe: called with each gateway before it runs.
            on_death: called with why a process died and whether that was planned; returns whether
                to start another.
        """
        self.gateway: Gateway | None = None
        """The gateway that serves; None while there is none."""
        self.process = Process()
        self.starts = self.gateways = 0
        """Processes that were started, and those of them that served."""
        self.points = points
        self._is_serving = trio.Event()
        self._config = config
        self._ports = ports
        self._parts = parts
        self._observe = observe
        self._on_death = on_death

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run a process; when it dies, start another. Return after an orderly end."""
        while True:
            process = Process()
            faults = NodeFaults(self.points, process)
            ports = process_ports(self._ports, process, faults)
            gateway = faults.gateway = build(self._config, ports, *self._parts(process))
            self._observe(gateway)
            self.process, self.starts = process, self.starts + 1
            is_planned = await self._run_process(gateway, process, task_status)
            self.gateway, self._is_serving = None, trio.Event()
            if not process.is_over:
                return
            if not self._on_death(process.why, is_planned):
                if self.gateways == 0:
                    task_status.started()
                return
            await trio.sleep(RESTART_S)

    async def _run_process(
        self, gateway: Gateway, process: Process, task_status: trio.TaskStatus[None]
    ) -> bool:
        """Run one process to its end; return whether its end was planned."""
        is_planned = True
        with process.scope:
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(gateway.run)
                    if self.gateways == 0:
                        task_status.started()
                    self.gateways += 1
                    self.gateway = gateway
                    self._is_serving.set()
            except* Exception as errors:
                if not process.is_over:
                    is_planned = False
                    process.end(repr(errors))
        return is_planned

    async def wait_serving(self) -> Gateway:
        """Return the gateway that serves, once there is one."""
        while self.gateway is None:
            await self._is_serving.wait()
        return self.gateway

    async def submit(self, submission: Submission) -> Receipt:
        """Submit to the process that serves. Raises: OverloadedError; what the door raises."""
        if self.gateway is None:
            raise OverloadedError("no process serves", CONNECT_AGAIN_S)
        return await self.process.call(self.gateway, submission)
