"""Runs a scenario: the gateway of the service, built on a world from a seed, under judges."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final, Self

import apsw
import msgspec
import trio

from mailactors.config import Config
from mailactors.model.lifecycle import State
from mailactors.runtime.ports import SystemClock
from mailactors.runtime.supervisor import RestartsExhaustedError
from mailactors.sim.check.invariants import Judges, ProcessWatch, Violation
from mailactors.sim.report.report import Report, expectations_of, figures_of
from mailactors.sim.report.series import EventLog, record_of, stories_of, story_lines
from mailactors.sim.run.injector import Fate
from mailactors.sim.run.node import FaultPoints, Life, Node
from mailactors.sim.run.stopwatch import Stopwatch
from mailactors.sim.scenario.file import Scenario, horizon_s
from mailactors.sim.scenario.incidents import POINTS
from mailactors.sim.vendor.client import Vendor
from mailactors.sim.world.scheduling import JumpingClock, run_seeded
from mailactors.sim.world.traffic import Clients
from mailactors.sim.world.truth import Truth
from mailactors.sim.world.world import EPOCH_S, World, make_world
from mailactors.spool.port import (
    Command,
    RecordDeliveryEvent,
    Result,
    SpoolBrokenError,
    SpoolError,
    SpoolFullError,
)
from mailactors.spool.sqlite import TEMPORARY, SqliteStore
from mailactors.wiring import Gateway, ProviderFactory

LOOK_EVERY_S: Final = 60.0
LOOK_EVERY_SHARE: Final = 0.05
"""How often the spool's ledger is compared, of the time so far: each look reads all of it."""
TICK_S: Final = 1.0
TIMELINE_MAX: Final = 50
DISK_WORDS: Final = (SpoolBrokenError.__name__, apsw.BusyError.__name__)
"""What a process says of its end when the disk is to blame."""
TESTIFY_AGAIN_S: Final = 5.0
"""When a vendor whose event nobody took tells it again."""
TESTIFY_TRIES_MAX: Final = 10

Progress = Callable[[float, int], None]
"""Is told the virtual time and the number of messages accepted so far."""
Prepare = Callable[[Gateway], None]
"""May change a gateway before it runs; tests plant their defects here."""


class WatchedStore(SqliteStore):
    """The spool as one process sees it, with someone who sees each commit."""

    judges: Judges | None = None
    process: ProcessWatch | None = None
    world: World | None = None

    def of_process(self, judges: Judges, process: ProcessWatch, world: World) -> Self:
        """Return the same spool for a process; what another one committed is there."""
        store = type(self)(TEMPORARY, self._db, None)
        store.judges, store.process, store.world = judges, process, world
        return store

    def delivery_state(self, seq: int) -> State | None:
        """Return where the only delivery of a message is; None if there is none."""
        state = self._db.execute("SELECT state FROM deliveries WHERE seq = ?", (seq,)).get
        return None if state is None else State(state)

    def apply(self, commands: Sequence[Command], now: float) -> list[Result]:
        """Execute commands, then show them; on a faulty disk fail as a real one makes us fail."""
        if self.process is not None:
            self.process.wrote()
        fault = None if self.world is None else self.world.disk.fault()
        if fault is not None and fault.what == "enospc":
            raise SpoolFullError("no room (simulated)")
        if fault is not None and fault.what == "eio":
            raise SpoolBrokenError("the disk failed (simulated)")
        try:
            results = super().apply(commands, now)
        except (SpoolFullError, SpoolBrokenError) as error:  # the world had its say above
            raise RuntimeError(f"this machine fails the simulator: {error}") from error
        if self.judges is not None:
            self.judges.committed(commands, results, now)
        return results


class _Run:
    """One run, while it runs."""

    def __init__(
        self,
        scenario: Scenario,
        config: Config,
        seed: int,
        store: WatchedStore,
        clock: JumpingClock,
        prepare: Prepare | None,
    ) -> None:
        self.scenario = scenario
        self.config = config
        self.store = store
        self.world: World = make_world(seed, clock, scenario)
        self.truth = Truth(tuple(config.providers))
        self.judges = Judges(self.truth, self.world.clock, store)
        self.events = EventLog(self.world.clock)
        self.stopwatch = Stopwatch(self.world.clock)
        self.world.journal.listen(self.judges.noted, Judges.NOTED)
        self.world.journal.listen(self.events.noted, EventLog.NOTED)
        self.vendors = {
            name: Vendor(name, plan, scenario.timeline(name), self.world, self.truth)
            for name, plan in scenario.providers.items()
        }
        self.points = FaultPoints(self._is_poison if scenario.traffic.poison else None)
        self.node = Node(
            config,
            self.world.ports,
            self.points,
            self._open_store,
            self._factory,
            self._attend,
            self._died,
        )
        self.fate = Fate(scenario, self.world, self.node, self.judges, self.vendors)
        if self.fate.locks_the_spool:
            self.judges.may_crash = ("spool",)
        self.is_over = trio.Event()
        self.is_complete = False
        self.ended_s = 0.0
        self._prepare = prepare
        self._clients = Clients(scenario, self.node, self.world, self.truth, self.judges.told)

    async def main(self, progress: Progress | None) -> None:
        """Serve, send, wait until all is final, stop, conclude."""
        async with trio.open_nursery() as nursery:
            self.world.spawn = nursery.start_soon
            for vendor in self.vendors.values():
                vendor.testify = self._testify
            await nursery.start(self.node.keep)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as watching:
                    watching.start_soon(self._end_at, scope)
                    watching.start_soon(self._look_and_tell, progress)
                    self.fate.begin(watching)
                    await self._clients.run()
                    self.is_over.set()
            self.ended_s = self.world.clock.now_s()
            self.world.finish()
            if not self.judges.violations:
                await self._stop()
            nursery.cancel_scope.cancel()  # what vendors would still have told
        self.world.journal.note("world.ended", complete=self.is_complete)

    async def _stop(self) -> None:
        """Let the process that serves, or the next one, end in order; then judge."""
        gateway = await self.node.serving()
        await gateway.stop()
        self.judges.conclude(is_complete=self.is_complete)

    # Processes

    def _open_store(self, life: Life) -> WatchedStore:
        watch = ProcessWatch(self.judges, life, self.world.clock)
        return self.store.of_process(self.judges, watch, self.world)

    def _factory(self, life: Life) -> ProviderFactory:
        watch = ProcessWatch(self.judges, life, self.world.clock)
        return self.stopwatch.around(self.world.factory(self.vendors, watch))

    def _attend(self, gateway: Gateway, _life: Life) -> None:
        self.judges.attend(gateway)
        self.stopwatch.attend(gateway)
        if self._prepare is not None:
            self._prepare(gateway)

    def _died(self, why: str, is_planned: bool) -> bool:
        """Let the judges know; say whether the run goes on."""
        is_disks = bool(self.scenario.spool_faults) and any(word in why for word in DISK_WORDS)
        # Whatever crashes an actor over and over uses up its restarts.
        is_worn_out = RestartsExhaustedError.__name__ in why and self.fate.crashes_actors
        self.judges.died(why, is_planned=is_planned or is_disks or is_worn_out)
        self.world.journal.note("world.process_died", why=why)
        return not self.judges.violations

    def _is_poison(self, seq: int) -> bool:
        return self._clients.poison(self.judges.account.number(seq)) == "crash_actor"

    # While it runs

    async def _testify(self, event: RecordDeliveryEvent) -> None:
        """Bring a vendor's event to the gateway, as its webhook would: again until it is taken."""
        for _ in range(TESTIFY_TRIES_MAX):
            gateway = self.node.gateway
            if gateway is not None:
                with contextlib.suppress(SpoolError):
                    await gateway.testify(event)
                    return
            await trio.sleep(TESTIFY_AGAIN_S)

    async def _end_at(self, scope: trio.CancelScope) -> None:
        """End when all is final, at a violation, and at the horizon."""
        with trio.move_on_at(horizon_s(self.scenario, self.config)):
            while not self.judges.stopped.is_set():
                with trio.move_on_after(TICK_S):
                    await self.judges.stopped.wait()
                if self.is_over.is_set() and not self.judges.account.open_count:
                    self.is_complete = True
                    break
        scope.cancel()

    async def _look_and_tell(self, progress: Progress | None) -> None:
        look_at_s = LOOK_EVERY_S
        while True:
            now_s = self.world.clock.now_s()
            if progress is not None:
                progress(now_s, len(self.truth.accepted))
            if now_s >= look_at_s and self.node.gateway is not None:
                self.judges.look()
                look_at_s = now_s + max(LOOK_EVERY_S, LOOK_EVERY_SHARE * now_s)
            await trio.sleep(TICK_S)

    def violations(self) -> tuple[Violation, ...]:
        """Return what was wrong, each with its message's timeline."""
        found = []
        for violation in self.judges.violations:
            seq = self.judges.account.seq(violation.number)
            events = () if seq is None else self.store.timeline(seq)[:TIMELINE_MAX]
            lines = tuple(f"{event.at:.3f} {event.kind} {event.facts}" for event in events)
            found.append(msgspec.structs.replace(violation, timeline=lines))
        return tuple(found)

    def story_of(self, number: int) -> tuple[str, ...]:
        """Return a message's timeline, for the record."""
        seq = self.judges.account.seq(number)
        return () if seq is None else story_lines(self.store.timeline(seq), EPOCH_S)


def run_scenario(
    name: str,
    scenario: Scenario,
    config: Config,
    seed: int | None = None,
    *,
    progress: Progress | None = None,
    prepare: Prepare | None = None,
) -> Report:
    """Run a scenario to its end and return what came of it.

    The same scenario, configuration and seed give the same report, but for the wall time, in
    another process, too.
    """
    seed = scenario.seed if seed is None else seed
    stopwatch = SystemClock()
    begun_at = stopwatch.wall_time()
    clock = JumpingClock()
    store = WatchedStore.open(TEMPORARY, journal_mode="memory")

    async def main() -> _Run:
        run = _Run(scenario, config, seed, store, clock, prepare)
        await run.main(progress)
        return run

    with contextlib.closing(store):
        run = run_seeded(main, clock, seed)
        violations = run.violations()
        worst = stories_of(run.truth, run.story_of)
    # The spool has given its memory back: from here on there is room for lists.
    record = record_of(scenario, run.truth, run.events, worst)
    figures = figures_of(scenario, run.truth, run.judges.account.risks, run.world.entropy)
    wall_s = stopwatch.wall_time() - begun_at
    counts = run.world.journal.counts
    return Report(
        scenario=name,
        seed=seed,
        hash=run.world.journal.digest,
        breaker_moves=counts["breaker.moved"],
        panics=counts["attempt.panic"],
        starts=run.node.starts,
        fault_points=dict(sorted({**dict.fromkeys(POINTS, 0), **run.points.hits}.items())),
        ended_s=round(run.ended_s, 3),
        violations=violations,
        record=record,
        decision_us=run.stopwatch.times(),
        expectations=expectations_of(scenario.expect, figures),
        wall_s=round(wall_s, 3),
        messages_per_wall_s=round(figures["accepted"] / wall_s, 1) if wall_s > 0 else 0.0,
        **figures,
    )
