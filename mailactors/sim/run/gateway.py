"""A run of the gateway: the service's own actors in a simulated world, under the checks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import msgspec
import trio

from mailactors.config import Config
from mailactors.dispatch.flush import flush_deferred
from mailactors.runtime.supervisor import RestartsExhaustedError
from mailactors.sim.check.invariants import Invariants
from mailactors.sim.report.report import Report, Violation
from mailactors.sim.report.series import story_lines
from mailactors.sim.run.node import FaultPoints, Node, Process, ProcessDiedError
from mailactors.sim.run.observed import ObservedStore, ProcessObserver
from mailactors.sim.run.simulation import Progress, Simulation, report_of
from mailactors.sim.run.stopwatch import Stopwatch
from mailactors.sim.scenario.file import Scenario, horizon_s
from mailactors.sim.scenario.incidents import POINTS, Crash, Operation
from mailactors.sim.scenario.policies import DEFAULT
from mailactors.sim.vendor.client import client_of
from mailactors.sim.world.traffic import Clients
from mailactors.sim.world.world import EPOCH_S
from mailactors.spool.port import (
    Cancel,
    RecordDeliveryEvent,
    SpoolBrokenError,
    SpoolBusyError,
    SpoolError,
)
from mailactors.spool.sqlite import TEMPORARY
from mailactors.wiring import Gateway, ProviderFactory

CHECK_EVERY_S: Final = 60.0
CHECK_EVERY_SHARE: Final = 0.05
"""How often the ledger is checked, as a share of the time so far: each check reads all of it."""
TICK_S: Final = 1.0
TIMELINE_MAX: Final = 50
DISK_ERRORS: Final = (SpoolBrokenError.__name__, SpoolBusyError.__name__)
"""Errors by which a process dies of its disk."""
EVENT_RETRY_S: Final = 5.0
"""When a vendor sends a delivery event again that the gateway did not take."""
EVENT_TRIES_MAX: Final = 10
COMMITTED: Final = "spool.committed"
"""The fault point between two commits: the first is durable, and no reply was sent."""

Prepare = Callable[[Gateway], None]
"""May change a gateway before it runs; tests plant defects with it."""


class GatewayRun(Simulation):
    """One run of the gateway; its processes may die and are started again."""

    def __init__(
        self, scenario: Scenario, config: Config, seed: int, prepare: Prepare | None
    ) -> None:
        super().__init__(scenario, config, seed)
        self.store = ObservedStore.open(TEMPORARY)
        self.invariants = Invariants(
            self.truth, self.world.clock, self.store.audit, self.store.delivery_state
        )
        self.world.journal.listen(self.invariants.on_event, Invariants.NOTED)
        self.risks = self.invariants.deliveries.risks
        self.stopwatch = Stopwatch(self.world.clock)
        self.points = FaultPoints(self._is_poison if scenario.traffic.poison else None)
        self.node = Node(
            config, self.world.ports, self.points, self._parts, self._observe, self._on_death
        )
        if scenario.locks_spool_file:
            self.invariants.may_crash = ("spool",)
        self.all_submitted = trio.Event()
        self.is_complete = False
        self._prepare = prepare
        self._clients = Clients(
            scenario, self.node, self.world, self.truth, self.invariants.on_receipt
        )

    async def main(self, progress: Progress) -> None:
        """Serve, submit, wait until everything is final, stop, check the end."""
        async with trio.open_nursery() as nursery:
            self.world.spawn = nursery.start_soon
            for vendor in self.vendors.values():
                vendor.on_event = self._send_event
            await nursery.start(self.node.run)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as watching:
                    watching.start_soon(self._end_at, scope)
                    watching.start_soon(self._check_regularly, progress)
                    self.inject_faults(watching)
                    await self._clients.run()
                    self.all_submitted.set()
            self.ended_s = self.world.clock.now_s()
            self.world.finish()
            if not self.invariants.violations:
                gateway = await self.node.wait_serving()
                await gateway.stop()
                self.invariants.check_end(
                    is_complete=self.is_complete,
                    unfinished_max=self.scenario.expect.unfinished_max,
                )
            nursery.cancel_scope.cancel()  # pending delivery events
        self.starts = self.node.starts
        self.world.journal.note("world.ended", complete=self.is_complete)

    # Processes

    def _parts(self, process: Process) -> tuple[ObservedStore, ProviderFactory]:
        """Return the spool as a process sees it, and what makes its clients of the vendors."""
        observer = ProcessObserver(self.invariants, self.stopwatch.failed, lambda: process.is_over)
        store = self.store.of_process(self.invariants, observer, self.world)
        return store, lambda name, settings, _ports: client_of(
            self.vendors[name], observer, settings
        )

    def _observe(self, gateway: Gateway) -> None:
        self.invariants.observe(gateway)
        self.stopwatch.observe(gateway)
        if self._prepare is not None:
            self._prepare(gateway)

    def _on_death(self, why: str, is_planned: bool) -> bool:
        """Record a process's death; return whether the run goes on."""
        is_disk = bool(self.scenario.spool_faults) and any(word in why for word in DISK_ERRORS)
        # An actor that is crashed again and again uses up its restarts.
        is_exhausted = RestartsExhaustedError.__name__ in why and self.scenario.crashes_actors
        self.invariants.on_death(why, is_planned=is_planned or is_disk or is_exhausted)
        self.world.journal.note("world.process_died", why=why)
        return not self.invariants.violations

    def _is_poison(self, seq: int) -> bool:
        return self.truth.poison.get(self.invariants.deliveries.number(seq)) == "crash_actor"

    async def crash(self, crash: Crash) -> None:
        """Crash an actor or the process, now or at its next fault point."""
        self.world.journal.note("world.crash", what=crash.what)
        gateway = self.node.gateway
        if crash.actor is not None:
            if gateway is not None:
                gateway.supervisor.crash(crash.actor)
        elif crash.is_between_commits:
            self.points.kill_at = COMMITTED
        elif crash.point is not None:
            self.points.kill_at = crash.point
        else:
            self.node.process.end("killed")

    async def operate(self, index: int, operation: Operation) -> None:
        """Carry out an operation once a process serves."""
        gateway = await self.node.wait_serving()
        self.world.journal.note("world.operation", what=operation.what)
        match operation.verb:
            case "reload":
                for vendor in self.vendors.values():
                    vendor.reloaded()
                with contextlib.suppress(ProcessDiedError):  # the next one starts with the file
                    await gateway.reload(gateway.config)
            case "pause":
                gateway.lanes[operation.provider or ""].pause()
            case "resume":
                gateway.lanes[operation.provider or ""].resume()
            case "reset":
                gateway.lanes[operation.provider or ""].reset()
            case "flush":
                with contextlib.suppress(SpoolError):
                    streams, provider = gateway.config.streams, operation.provider or ""
                    await flush_deferred(gateway.spool, gateway.ports.clock, streams, provider)
            case "cancel":
                await self._cancel(index, operation.cancel_share or 0.0, gateway)

    async def _cancel(self, index: int, share: float, gateway: Gateway) -> None:
        """Cancel a share of the messages that are not final."""
        draw = self.world.entropy.draw
        for number in list(self.invariants.deliveries.pending()):
            id_ = self.truth.accepted.get(number)
            if id_ is None or draw("cancel", index, number) >= share:
                continue
            with contextlib.suppress(SpoolError):  # the checks see what was committed
                await gateway.spool.ask(Cancel(id_))

    # While it runs

    async def _send_event(self, event: RecordDeliveryEvent) -> None:
        """Send a delivery event to the gateway as a webhook would: retry until it is taken."""
        for _ in range(EVENT_TRIES_MAX):
            gateway = self.node.gateway
            if gateway is not None:
                with contextlib.suppress(SpoolError):
                    await gateway.record_delivery_event(event)
                    return
            await trio.sleep(EVENT_RETRY_S)

    async def _end_at(self, scope: trio.CancelScope) -> None:
        """Cancel the scope when everything is final, at a violation, or at the horizon."""
        with trio.move_on_at(horizon_s(self.scenario, self.config)):
            while not self.invariants.stopped.is_set():
                with trio.move_on_after(TICK_S):
                    await self.invariants.stopped.wait()
                if self.all_submitted.is_set() and not self.invariants.deliveries.open_count:
                    self.is_complete = True
                    break
        scope.cancel()

    async def _check_regularly(self, progress: Progress) -> None:
        check_at_s = CHECK_EVERY_S
        while True:
            now_s = self.world.clock.now_s()
            progress(len(self.truth.accepted))
            if now_s >= check_at_s and self.node.gateway is not None:
                self.invariants.check_ledger()
                check_at_s = now_s + max(CHECK_EVERY_S, CHECK_EVERY_SHARE * now_s)
            await trio.sleep(TICK_S)

    # Afterwards

    def violations(self) -> tuple[Violation, ...]:
        """Return the violations, each with its message's timeline."""
        found = []
        for violation in self.invariants.violations:
            seq = self.invariants.deliveries.seq(violation.number)
            events = () if seq is None else self.store.timeline(seq)[:TIMELINE_MAX]
            lines = tuple(f"{event.at:.3f} {event.kind} {event.facts}" for event in events)
            found.append(msgspec.structs.replace(violation, timeline=lines))
        return tuple(found)

    def timeline_of(self, number: int) -> tuple[str, ...]:
        """Return a message's timeline, read from the spool."""
        seq = self.invariants.deliveries.seq(number)
        return () if seq is None else story_lines(self.store.timeline(seq), EPOCH_S)

    def facts(self) -> dict[str, Any]:
        """Return the fault points that the run reached, and the decision times."""
        hits = {**dict.fromkeys(POINTS, 0), **self.points.hits}
        return {"fault_points": dict(sorted(hits.items())), "decision_us": self.stopwatch.times()}

    def close(self) -> None:
        self.store.close()


def run_scenario(
    name: str,
    scenario: Scenario,
    config: Config,
    seed: int | None = None,
    *,
    policy: str = DEFAULT,
    progress: Progress = lambda _accepted: None,
    prepare: Prepare | None = None,
) -> Report:
    """Run a scenario on the gateway; the seed is the scenario's unless one is given."""
    run = GatewayRun(scenario, config, scenario.seed if seed is None else seed, prepare)
    return report_of(run, name, policy, progress)
