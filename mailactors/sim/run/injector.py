"""The fault injector: crashes, operations and pauses, each at its time."""

from __future__ import annotations

from typing import Protocol

import trio

from mailactors.sim.scenario.file import Scenario
from mailactors.sim.scenario.incidents import Crash, Operation, crash_times
from mailactors.sim.world.world import World


class System(Protocol):
    """The system under test, to which the injector does things."""

    has_actors: bool
    """False for a loop: it ignores crashes of actors, and every operation but a reload."""

    async def crash(self, crash: Crash) -> None:
        """Let an actor or the process die now."""
        ...

    async def operate(self, index: int, operation: Operation) -> None:
        """Carry out an operation now; `index` is its place in the file."""
        ...


class FaultInjector:
    """Carries out a scenario's `[[crashes]]`, `[[operations]]` and pauses on a system."""

    def __init__(self, scenario: Scenario, world: World, system: System) -> None:
        self._scenario = scenario
        self._world = world
        self._system = system

    def start(self, nursery: trio.Nursery) -> None:
        """Start a task for each incident that concerns the system."""
        scenario, has_actors = self._scenario, self._system.has_actors
        for index, crash in enumerate(scenario.crashes):
            if has_actors or crash.actor is None:
                nursery.start_soon(self._crash, index, crash)
        for index, operation in enumerate(scenario.operations):
            if has_actors or operation.verb == "reload":
                nursery.start_soon(self._operate, index, operation)
        for pause in scenario.pauses:
            nursery.start_soon(self._pause, pause.at_s, pause.for_s)

    async def _crash(self, index: int, crash: Crash) -> None:
        entropy, end_s = self._world.entropy, self._scenario.duration_s
        for at_s in crash_times(crash, index, entropy, end_s):
            await trio.sleep_until(at_s)
            await self._system.crash(crash)

    async def _operate(self, index: int, operation: Operation) -> None:
        await trio.sleep_until(operation.at_s)
        await self._system.operate(index, operation)

    async def _pause(self, at_s: float, for_s: float) -> None:
        await trio.sleep_until(at_s)
        self._world.journal.note("world.pause", for_s=for_s)
        self._world.leap(for_s)
