"""What befalls the gateway from outside while a scenario runs: crashes, operations, pauses."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

import trio

from mailactors.sim.check.invariants import Judges
from mailactors.sim.run.node import Node
from mailactors.sim.scenario.file import Scenario
from mailactors.sim.scenario.incidents import Crash, Operation, crash_times
from mailactors.sim.vendor.client import Vendor
from mailactors.sim.world.world import World
from mailactors.spool.port import Cancel, SpoolError
from mailactors.spool.writer import SpoolWriter
from mailactors.wiring import Gateway

COMMITTED: Final = "spool.committed"
"""The fault point between two commits: the first is durable, and nobody was told of it."""


class Fate:
    """Carries out what a scenario's `[[crashes]]`, `[[operations]]` and pauses say."""

    def __init__(
        self,
        scenario: Scenario,
        world: World,
        node: Node,
        judges: Judges,
        vendors: Mapping[str, Vendor],
    ) -> None:
        self._scenario = scenario
        self._world = world
        self._node = node
        self._judges = judges
        self._vendors = vendors

    @property
    def crashes_actors(self) -> bool:
        """Whether actors are made to crash in this scenario."""
        scenario = self._scenario
        crashes = any(crash.actor is not None for crash in scenario.crashes)
        return crashes or scenario.traffic.poison is not None or self.locks_the_spool

    @property
    def locks_the_spool(self) -> bool:
        """Whether another process holds the spool's file, so that its writer gives up."""
        return any(fault.what == "busy" for fault in self._scenario.spool_faults)

    def begin(self, nursery: trio.Nursery) -> None:
        """Start whatever waits for its time."""
        for index, crash in enumerate(self._scenario.crashes):
            nursery.start_soon(self._crash_again, index, crash)
        for index, operation in enumerate(self._scenario.operations):
            nursery.start_soon(self._operate, index, operation)
        for pause in self._scenario.pauses:
            nursery.start_soon(self._pause, pause.at_s, pause.for_s)

    async def _crash_again(self, index: int, crash: Crash) -> None:
        entropy, end_s = self._world.entropy, self._scenario.duration_s
        for at_s in crash_times(crash, index, entropy, end_s):
            await trio.sleep_until(at_s)
            self._crash(crash)

    def _crash(self, crash: Crash) -> None:
        self._world.journal.note("world.crash", what=crash.what)
        gateway = self._node.gateway
        if crash.actor is not None:
            if gateway is not None:
                gateway.supervisor.crash(crash.actor)
        elif crash.is_between_commits:
            self._node.points.deadly = COMMITTED
        elif crash.point is not None:
            self._node.points.deadly = crash.point
        else:
            self._node.life.end("killed")

    async def _operate(self, index: int, operation: Operation) -> None:
        await trio.sleep_until(operation.at_s)
        gateway = await self._node.serving()
        self._world.journal.note("world.operation", what=operation.what)
        match operation.verb:
            case "reload":
                for vendor in self._vendors.values():
                    vendor.reloaded()
                await gateway.reload(gateway.config)
            case "pause":
                gateway.lanes[operation.provider or ""].pause()
            case "resume":
                gateway.lanes[operation.provider or ""].resume()
            case "reset":
                gateway.lanes[operation.provider or ""].reset()
            case "cancel":
                await self._cancel(index, operation.cancel_share or 0.0, gateway)

    async def _cancel(self, index: int, share: float, gateway: Gateway) -> None:
        """Cancel a share of what is not final."""
        writer, draw = SpoolWriter(gateway.writes), self._world.entropy.draw
        for number in list(self._judges.account.pending()):
            id_ = self._judges.receipt(number)
            if id_ is None or draw("cancel", index, number) >= share:
                continue
            with contextlib.suppress(SpoolError):  # the judges see what is committed
                await writer.ask(Cancel(id_))

    async def _pause(self, at_s: float, for_s: float) -> None:
        await trio.sleep_until(at_s)
        self._world.journal.note("world.pause", for_s=for_s)
        self._world.leap(for_s)
