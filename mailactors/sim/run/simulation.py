"""What every run is built of, whatever its policy, and the report at its end."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import trio

from mailactors.config import Config
from mailactors.runtime.ports import SystemClock
from mailactors.sim.report.report import Report, Violation, expectations_of, figures_of
from mailactors.sim.report.series import EventLog, Record, series_of, worst_messages
from mailactors.sim.scenario.file import Scenario
from mailactors.sim.scenario.incidents import Crash, Operation, ProcessPause, crash_times
from mailactors.sim.vendor.vendor import Vendor
from mailactors.sim.world.scheduling import JumpingClock, run_seeded
from mailactors.sim.world.truth import Truth
from mailactors.sim.world.world import make_world

Progress: TypeAlias = Callable[[int], None]
"""Receives the number of messages accepted so far."""


class Simulation(abc.ABC):
    """One run: a world, its vendors, the ground truth, and the system under test."""

    has_actors = True
    """False for a loop: it ignores crashes of actors, and every operation but a reload."""
    starts = 0
    """Processes that were started."""
    ended_s = 0.0

    def __init__(self, scenario: Scenario, config: Config, seed: int) -> None:
        self.wall_clock = SystemClock()
        self.begun_at = self.wall_clock.wall_time()
        self.scenario = scenario
        self.config = config
        self.seed = seed
        self.clock = JumpingClock()
        self.world = make_world(seed, self.clock, scenario)
        self.truth = Truth(tuple(config.providers))
        self.events = EventLog(self.world.clock, has_breakers=self.has_actors)
        self.world.journal.listen(self.events.on_event, EventLog.NOTED)
        self.vendors = {
            name: Vendor(name, plan, scenario.timeline(name), self.world, self.truth)
            for name, plan in scenario.providers.items()
        }
        self.risks: dict[int, int] = {}
        """Declared duplicate risks, by a message's number."""

    @abc.abstractmethod
    async def main(self, progress: Progress) -> None:
        """Run until every message is final, or the horizon."""

    @abc.abstractmethod
    async def crash(self, crash: Crash) -> None:
        """Let an actor or the process die now."""

    @abc.abstractmethod
    async def operate(self, index: int, operation: Operation) -> None:
        """Carry out an operation now; `index` is its place in the file."""

    @abc.abstractmethod
    def timeline_of(self, number: int) -> tuple[str, ...]:
        """Return a message's timeline as lines."""

    def inject_faults(self, nursery: trio.Nursery) -> None:
        """Start a task for each crash, operation and pause that concerns this system."""
        for index, crash in enumerate(self.scenario.crashes):
            if self.has_actors or crash.actor is None:
                nursery.start_soon(self._crash, index, crash)
        for index, operation in enumerate(self.scenario.operations):
            if self.has_actors or operation.verb == "reload":
                nursery.start_soon(self._operate, index, operation)
        for pause in self.scenario.pauses:
            nursery.start_soon(self._pause, pause)

    async def _crash(self, index: int, crash: Crash) -> None:
        times = crash_times(crash, index, self.world.entropy, self.scenario.duration_s)
        for at_s in times:
            await trio.sleep_until(at_s)
            await self.crash(crash)

    async def _operate(self, index: int, operation: Operation) -> None:
        await trio.sleep_until(operation.at_s)
        await self.operate(index, operation)

    async def _pause(self, pause: ProcessPause) -> None:
        await trio.sleep_until(pause.at_s)
        self.world.journal.note("world.pause", for_s=pause.for_s)
        self.world.leap(pause.for_s)

    def violations(self) -> tuple[Violation, ...]:
        """Return the violations of invariants."""
        return ()

    def facts(self) -> dict[str, Any]:
        """Return what only this kind of run measures, by the report's fields."""
        return {}

    def close(self) -> None:  # noqa: B027  # a loop has nothing to close
        """Close what the run holds open."""


def report_of(run: Simulation, name: str, policy: str, progress: Progress) -> Report:
    """Run a simulation to its end and return the report.

    The same scenario, configuration and seed give the same report in any process, but for the wall
    time.
    """
    with contextlib.closing(run):
        run_seeded(partial(run.main, progress), run.clock, run.seed)
        violations = run.violations()
        worst = worst_messages(run.truth, run.timeline_of)
    # The spool's memory is free again; the lists below need it.
    series = series_of(run.scenario, run.truth, run.events)
    figures = figures_of(run.scenario, run.truth, run.risks, run.world.entropy)
    wall_s = run.wall_clock.wall_time() - run.begun_at
    counts = run.world.journal.counts
    return Report(
        scenario=name,
        seed=run.seed,
        policy=policy,
        hash=run.world.journal.digest,
        breaker_moves=counts["breaker.moved"],
        panics=counts["attempt.panic"],
        starts=run.starts,
        ended_s=round(run.ended_s, 3),
        violations=violations,
        backlog_max=max(series.backlog, default=0),
        record=Record(run.scenario.story.strip(), series, worst),
        expectations=expectations_of(run.scenario.expect, figures),
        wall_s=round(wall_s, 3),
        messages_per_wall_s=round(figures["accepted"] / wall_s, 1) if wall_s > 0 else 0.0,
        **{"fault_points": {}, **run.facts(), **figures},
    )
