"""The watchdog: looks every few seconds at what should move, and raises an alarm for what does not.

It changes no mail and repairs nothing. One loop looks into the spool; the other looks at the
process, and notices when the first gets no answer. What they find is kept in `WatchdogStatus`, so
that a successor raises no alarm twice. An alarm is a log record when it is raised and another when
it is over, a metric by kind, and an entry in the ledger's answer. It is no event of its message:
events are committed by the writer, which may be what is stuck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from mailactors.dispatch.claims import LOW_WATER
from mailactors.dispatch.lanes import Lanes
from mailactors.dispatch.settler import REPEATS_MAX
from mailactors.dispatch.state import DispatcherState
from mailactors.observe.alarms import (
    RULES,
    Alarm,
    AlarmRegister,
    Finding,
    Snapshot,
    decide_changes,
    is_free,
    process_faults,
    spool_faults,
)
from mailactors.runtime.belief import BelievedClock
from mailactors.runtime.mailbox import MailboxStatistics
from mailactors.runtime.ports import Ports
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import InspectionQuery, LeaseOwner, SpoolError

LOOK_EVERY_S: Final = 5.0
JUMP_TOLD_S: Final = 60.0
"""A jump of the clock is told for this long, though it lasted for a second only."""
LOOK_JITTER: Final = 0.2
"""Looks are not evenly spaced: in step with a lane's permits they would always see it free."""
AT_REST_S: Final = 2.0
"""How long after the disk was full nothing is expected to move."""


@dataclass(eq=False)
class WatchdogStatus:
    """The watchdog's memory, which outlives it; the metrics and the ledger read it."""

    spool: AlarmRegister = field(default_factory=AlarmRegister)
    process: AlarmRegister = field(default_factory=AlarmRegister)
    looked_s: float | None = None
    """Monotonic; when the latest look into the spool was answered."""
    lag_s: float = 0.0
    """How late the event loop started the latest look."""

    def alarms(self) -> list[Alarm]:
        """Return the present alarms, the oldest first."""
        alarms = [*self.spool.alarms.values(), *self.process.alarms.values()]
        return sorted(alarms, key=lambda each: each.raised_s)

    def counts(self, now_s: float) -> dict[str, int]:
        """Return the number of lasting findings by kind, listed or not; every kind is there."""
        process = self.process.counts(now_s)
        return {kind: n + process[kind] for kind, n in self.spool.counts(now_s).items()}

    def raised(self) -> dict[tuple[str, ...], int]:
        """Return the number of alarms ever raised, by kind; every kind is there."""
        none: dict[tuple[str, ...], int] = {(kind.value,): 0 for kind in RULES}
        return none | self.spool.raised.counts | self.process.raised.counts  # no kind is in both


class WatchdogActor:
    """Runs both loops; each sleeps, looks, and applies what it found."""

    def __init__(
        self,
        watch: WatchdogStatus,
        lanes: Lanes,
        dispatcher: DispatcherState,
        spool: SpoolClient,
        mailboxes: Callable[[], list[MailboxStatistics]],
        ports: Ports,
        belief: BelievedClock | None = None,
    ) -> None:
        self._belief = belief
        self._watch = watch
        self._lanes = lanes
        self._dispatcher = dispatcher
        self._spool = spool
        self._mailboxes = mailboxes
        self._ports = ports
        self._clock = ports.clock
        self._look_began_s: float | None = None
        self._expiry_mark = 0.0
        self._audit_mark = 0
        self._looks: dict[str, int] = {}

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Run both loops."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_spool)
            nursery.start_soon(self._watch_process)

    async def _watch_spool(self) -> None:
        while True:
            await self._pause("spool")
            if self._is_idle():
                self._watch.spool.forget_suspicions()
                continue
            self._look_began_s = self._clock.now_s()
            try:
                faults = await self._look()
            except SpoolError:
                continue  # the writer meets the same disk, and logs it
            finally:
                self._look_began_s = None
            self._watch.looked_s = self._clock.now_s()
            self._apply(self._watch.spool, faults)

    async def _watch_process(self) -> None:
        while True:
            self._watch.lag_s = await self._pause("process")
            if self._is_idle():
                self._watch.process.forget_suspicions()
                continue
            facts = (self._watch.lag_s, self._look_began_s, self._jump_s())
            shortages = self._lanes.shortages.recent()
            faults = process_faults(self._mailboxes(), self._lanes.values(), *facts, shortages)
            self._apply(self._watch.process, list(faults))

    async def _look(self) -> list[Finding]:
        """Ask the spool, and judge its answer by what the process knew before it asked."""
        now_s, now = self._clock.now_s(), self._clock.wall_time()
        lanes, owner = list(self._lanes.values()), self._owner()
        free = frozenset(lane.name for lane in lanes if is_free(lane, now_s))
        idle = frozenset(lane.name for lane in lanes if lane.name in free and not lane.in_flight)
        healthy = frozenset(lane.name for lane in lanes if lane.is_well)
        repeating = frozenset(lane.name for lane in lanes if lane.repeats_in_flight >= REPEATS_MAX)
        is_alone = self._lanes.has_suspect_in_flight
        look = InspectionQuery(
            now, owner, self._watch.spool.seqs(), self._expiry_mark, self._audit_mark
        )
        inspection = await self._spool.read(lambda spool: spool.inspect(look))
        self._expiry_mark, self._audit_mark = inspection.expiry_mark, inspection.audit_mark
        plans = {each.stream: self._lanes.plan(each.stream) for each in inspection.messages}
        known = Snapshot(now, owner, plans, free, healthy, LOW_WATER, repeating, is_alone, idle)
        return list(spool_faults(inspection, known))

    def _owner(self) -> LeaseOwner:
        attempts = self._lanes.in_flight
        return LeaseOwner(
            self._dispatcher.node,
            frozenset(each.id for each in attempts),
            frozenset((each.lease.seq, each.lease.epoch) for each in attempts),
            None if self._dispatcher.leases is None else self._dispatcher.leases(),
        )

    async def _pause(self, name: str) -> float:
        """Sleep until the next look; return how late the event loop woke this task."""
        self._looks[name] = count = self._looks.get(name, 0) + 1
        draw = self._ports.entropy.draw("watchdog", name, count)
        until_s = self._clock.now_s() + LOOK_EVERY_S * (1.0 + LOOK_JITTER * (2.0 * draw - 1.0))
        await trio.sleep_until(until_s)
        return max(0.0, self._clock.now_s() - until_s)

    def _jump_s(self) -> float:
        """Return how far the wall clock was set of late, as long as that is to be told."""
        belief = self._belief
        is_told = belief is not None and self._clock.now_s() < belief.jumped_at_s + JUMP_TOLD_S
        return belief.jump_s if belief is not None and is_told else 0.0

    def _is_idle(self) -> bool:
        """Whether nothing has to move: the gateway stops, or its disk is full."""
        full = self._spool.signals.full_until_s
        is_full = full.version > 0 and self._clock.now_s() < full.value + AT_REST_S
        return self._lanes.is_draining or is_full

    def _apply(self, register: AlarmRegister, faults: list[Finding]) -> None:
        now_s, now = self._clock.now_s(), self._clock.wall_time()
        changes = decide_changes(register, faults, now_s, now)
        note = self._ports.journal.note
        for alarm in changes.raised:
            note("watchdog.alarm", level="error", **facts_of(alarm, now))
        for alarm in changes.cleared:
            lasted_s = round(now_s - alarm.raised_s, 1)
            note("watchdog.cleared", level="warning", **facts_of(alarm, now), lasted_s=lasted_s)


def facts_of(alarm: Alarm, now: float) -> dict[str, str | float]:
    """Return an alarm's facts for the log; those that are not known are left out."""
    fault = alarm.fault
    facts: dict[str, str | float] = {
        "kind": fault.kind.value,
        "id" if fault.seq else "about": fault.subject,
        "stream": fault.stream,
        "state": fault.state,
        "detail": fault.detail,
        "expected": alarm.expected,
    }
    if fault.since is not None:
        facts["age_s"] = round(max(0.0, now - fault.since), 1)
    return {name: value for name, value in facts.items() if value != ""}
