"""Runs a scenario: the gateway of the service, built on a world from a seed, under judges."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec
import trio

from mailactors.config import Config, ProviderSettings
from mailactors.runtime.ports import Ports, SystemClock
from mailactors.sim.judges import Judges, Violation
from mailactors.sim.providers import WorldProvider
from mailactors.sim.report import Report, expectations_of, figures_of
from mailactors.sim.scenario import Scenario, horizon_s
from mailactors.sim.traffic import Clients
from mailactors.sim.truth import Truth
from mailactors.sim.world import JumpingClock, World, make_world, seeded_scheduling
from mailactors.spool.port import Command, Result
from mailactors.spool.sqlite import MEMORY, SqliteStore
from mailactors.wiring import Gateway, build

LOOK_EVERY_S: Final = 60.0
"""How often the spool's ledger is compared; each look reads all of it."""
TICK_S: Final = 1.0
TIMELINE_MAX: Final = 50

Progress = Callable[[float, int], None]
"""Is told the virtual time and the number of messages accepted so far."""
Prepare = Callable[[Gateway], None]
"""May change a gateway before it runs; tests plant their defects here."""


class WatchedStore(SqliteStore):
    """The spool in memory, with someone who sees each commit."""

    watch: Callable[[Sequence[Command], list[Result], float], None] | None = None

    def apply(self, commands: Sequence[Command], now: float) -> list[Result]:
        """Execute commands, then show them."""
        results = super().apply(commands, now)
        if self.watch is not None:
            self.watch(commands, results, now)
        return results


class _Run:
    """One run, while it runs."""

    def __init__(self, scenario: Scenario, config: Config, seed: int, store: WatchedStore) -> None:
        self.scenario = scenario
        self.config = config
        self.world: World = make_world(seed)
        self.truth = Truth(tuple(config.providers))
        self.judges = Judges(self.truth, self.world.clock)
        self.store = store
        store.watch = self.judges.committed
        self.world.journal.listeners.append(self.judges.noted)
        self.gateway = build(config, self.world.ports, store, self._provider)
        self.judges.attend(self.gateway)
        self.is_over = trio.Event()
        self.is_complete = False
        self.ended_s = 0.0

    def _provider(self, name: str, _settings: ProviderSettings, _ports: Ports) -> WorldProvider:
        plan, faults = self.scenario.providers[name], self.scenario.timeline(name)
        provider = WorldProvider(name, plan, faults, self.world, self.truth)
        provider.watch = self.judges
        return provider

    async def main(self, progress: Progress | None) -> None:
        """Serve, send, wait until all is final, stop, conclude."""
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(_start, self.gateway))
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as watching:
                    watching.start_soon(self._end_at, scope)
                    watching.start_soon(self._look_and_tell, progress)
                    await self._traffic()
                    self.is_over.set()
            self.ended_s = self.world.clock.now_s()
            if self.judges.violations:
                nursery.cancel_scope.cancel()  # as it stands: nothing after it counts
            else:
                await self.gateway.stop()
                await self.judges.conclude(self.is_complete)
        self.world.journal.note("world.ended", complete=self.is_complete)

    async def _traffic(self) -> None:
        clients = Clients(
            self.scenario, self.gateway.door, self.world, self.truth, self.judges.told
        )
        await clients.run()

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
            if now_s >= look_at_s:
                await self.judges.look()
                look_at_s = now_s + LOOK_EVERY_S
            await trio.sleep(TICK_S)

    def violations(self) -> tuple[Violation, ...]:
        """Return what was wrong, each with its message's timeline."""
        found = []
        for violation in self.judges.violations:
            seq = self.judges.account.seq_of.get(violation.number)
            events = () if seq is None else self.store.timeline(seq)[:TIMELINE_MAX]
            lines = tuple(f"{event.at:.3f} {event.kind} {event.facts}" for event in events)
            found.append(msgspec.structs.replace(violation, timeline=lines))
        return tuple(found)


async def _start(
    gateway: Gateway, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    await gateway.run(task_status=task_status)


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
    store = WatchedStore.open(MEMORY, expect_journal="memory")

    async def main() -> _Run:
        run = _Run(scenario, config, seed, store)
        if prepare is not None:
            prepare(run.gateway)
        await run.main(progress)
        return run

    with contextlib.closing(store), seeded_scheduling(seed):
        run = trio.run(main, clock=JumpingClock())
        violations = run.violations()
    figures = figures_of(scenario, run.truth, run.judges.account.risks)
    wall_s = stopwatch.wall_time() - begun_at
    counts = run.world.journal.counts
    return Report(
        scenario=name,
        seed=seed,
        hash=run.world.journal.digest,
        breaker_moves=counts["breaker.moved"],
        panics=counts["attempt.panic"],
        ended_s=round(run.ended_s, 3),
        violations=violations,
        expectations=expectations_of(scenario.expect, figures),
        wall_s=round(wall_s, 3),
        messages_per_wall_s=round(figures["accepted"] / wall_s, 1) if wall_s > 0 else 0.0,
        **figures,
    )
