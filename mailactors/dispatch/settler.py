"""The settler: finds out what became of messages that may have been accepted.

Owns the lot of uncertain messages of each provider, of which it looks at a bounded number at a
time; what one provider leaves open never waits for what another does. What is known of each is on
disk: a successor goes on where its predecessor was, and asks again what it did not write down.

Sends nothing itself: a repetition by key takes the provider's lane like any other attempt, and its
outcome goes to the dispatcher. Decides nothing itself either: see `dispatch.settling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

import msgspec
import trio

from mailactors.dispatch.desk import DispatchDesk, LookUpEnded
from mailactors.dispatch.lane import NEVER_S, Attempt, Lane
from mailactors.dispatch.record import lease_of
from mailactors.dispatch.routing import LaneView
from mailactors.dispatch.settling import (
    HELD_DELAY_BASE_S,
    HELD_DELAY_CAP_S,
    NOBODY,
    Conclude,
    LookUp,
    Repeat,
    Wait,
    after_repeat_at,
    count_look,
    decide_doubt,
    delay_s,
    look_up_at,
    next_at,
    resolve_of,
    resolve_of_look,
)
from mailactors.model.outcome import Reason
from mailactors.providers.port import Capabilities, Found, LookUpFailed, LookUpResult, Provider
from mailactors.runtime.ports import Ports
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.runtime.supervisor import describe
from mailactors.spool.actor import Write
from mailactors.spool.port import (
    ALONE_FROM,
    Command,
    Doubt,
    Doubts,
    FindDueDoubts,
    Postpone,
    Result,
)

SUSPECT_AGAIN_S: Final = 2.0
"""When a message that is suspected of killing its owner, and must go alone, asks for its turn."""
FAULT_AGAIN_S: Final = 300.0
"""When a doubt is seen to again that we failed at; a fault of ours, for the log."""
CLOCK_EVERY_S: Final = 10.0
"""How soon a step of the wall clock is noticed, which doubts are due by."""
LOOK_EVERY_S: Final = 1.0
"""The lot is looked at no more often than this."""
LOT_MAX: Final = 200
"""Of each provider, what one look takes in."""
REPEATS_MAX: Final = 8
"""Repetitions by key on their way at a time, at each provider: fresh messages need its lane."""
LOOK_UPS_MAX: Final = 32
"""Look-ups under way at a time, at each provider."""
LOOK_UP_WITHIN_S: Final = 30.0
"""The longest that a look-up may take."""
FAILURES_MAX: Final = 5
"""Look-ups in a row without an answer, after which a provider is not asked for a while."""
PAUSE_S: Final = 30.0
STEP_MIN_S: Final = 1.0
"""By so much the two clocks must disagree for the wall clock to have been set."""

_Key: TypeAlias = tuple[int, str]


@dataclass(eq=False)
class _Vendor:
    """Whether a provider answers look-ups."""

    failures: int = 0
    closed_until_s: float = NEVER_S


class SettlerActor:
    """The shell: one loop over due doubts, and a task a look-up."""

    def __init__(self, desk: DispatchDesk, ports: Ports) -> None:
        self._desk = desk
        self._ports = ports
        self._clock = ports.clock
        self._journal = ports.journal
        self._views: dict[str, LaneView] = {}
        self._vendors: dict[str, _Vendor] = {}
        self._looking: dict[_Key, str] = {}
        self._writing: dict[_Key, Reply[Result]] = {}
        self._overdue: Reply[Result] | None = None
        self._looked_s = NEVER_S
        self._spool_starts = desk.signals.starts.value
        self._ahead_s = ports.clock.wall_time() - ports.clock.now_s()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """See to what is due, again and again."""
        self._desk.doubt_at = 0.0
        mailbox = self._desk.looked
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                with trio.move_on_at(self._next_wake_s()):
                    await mailbox.wait()
                self._note_clock_steps()
                for looked in mailbox.take():
                    self._ports.faults.point("settler.looked")
                    await self._take_in(looked)
                await self._read_doubts(nursery)
                await self._ask()

    # The lot

    async def _ask(self) -> None:
        """Ask the spool for doubts that are due."""
        if self._spool_starts != self._desk.signals.starts.value:
            self._spool_starts = self._desk.signals.starts.value
            self._desk.doubt_at = 0.0  # what was asked of its predecessor may be lost
        now_s, now = self._clock.now_s(), self._clock.wall_time()
        is_time = self._desk.doubt_at <= now and now_s >= self._looked_s + LOOK_EVERY_S
        if self._overdue is None and is_time and not self._desk.is_draining:
            self._looked_s = now_s
            self._desk.doubt_at = float("inf")  # what becomes uncertain meanwhile lowers it again
            self._overdue = await self._write(FindDueDoubts(LOT_MAX))

    async def _read_doubts(self, nursery: trio.Nursery) -> None:
        """See to what the spool has answered."""
        self._writing = {key: reply for key, reply in self._writing.items() if not reply.is_done}
        if self._overdue is None or not self._overdue.is_done:
            return
        reply, self._overdue = self._overdue, None
        try:
            doubts = reply.result()
        except ActorCrashedError as error:
            self._journal.note("spool.answer_lost", level="error", error=str(error))
            self._desk.expect_doubt(0.0)
            return
        assert isinstance(doubts, Doubts)
        if doubts.next_due_at is not None:
            self._desk.expect_doubt(doubts.next_due_at)
        busy = self._busy()
        for doubt in doubts.doubts:
            if self._desk.is_draining:
                return
            self._ports.faults.point("settler.doubt")
            is_seen_to = (doubt.seq, doubt.attempt_id) not in busy
            try:
                is_seen_to = is_seen_to and await self._see_to(doubt, nursery)
            except Exception as error:  # one that we cannot handle must not stop the others
                self._journal.note(
                    "settler.fault", level="error", id=doubt.id, error=describe(error)
                )
                at = self._clock.wall_time() + FAULT_AGAIN_S
                await self._settle(doubt, self._postponed(doubt, at))
            if not is_seen_to:
                self._desk.expect_doubt(self._clock.wall_time())  # it is due still

    def _busy(self) -> set[_Key]:
        """Return the doubts for which something is under way."""
        attempts = [each for lane in self._desk.lanes.values() for each in lane.in_flight.values()]
        repeated = {(a.doubt.seq, a.doubt.attempt_id) for a in attempts if a.doubt is not None}
        return repeated | self._looking.keys() | self._writing.keys()

    async def _see_to(self, doubt: Doubt, nursery: trio.Nursery) -> bool:
        """Do what is to be done about a doubt; False when there is no room for that just now."""
        lane, now = self._desk.lanes.get(doubt.provider), self._clock.wall_time()
        able = NOBODY if lane is None else lane.out.capabilities
        move = decide_doubt(doubt, able, self._desk.plan(doubt.stream), self._desk.clock_steps, now)
        match move:
            case Wait(until):
                await self._settle(doubt, self._postponed(doubt, until))
            case Conclude():
                await self._conclude(doubt, able, move)
            case LookUp():
                assert lane is not None
                return await self._look_up(doubt, lane, nursery)
            case Repeat(not_after):
                assert lane is not None
                return await self._repeat(
                    msgspec.structs.replace(doubt, not_after=not_after), lane, now
                )
            case _:
                assert_never(move)
        return True

    async def _conclude(self, doubt: Doubt, able: Capabilities, conclusion: Conclude) -> None:
        now = self._clock.wall_time()
        looks_at = float("inf")
        if able.look_up_lag_s is not None:
            looks_at = max(now, look_up_at(doubt, able.look_up_lag_s, self._desk.clock_steps))
        await self._settle(doubt, resolve_of(doubt, conclusion, now, looks_at))
        self._desk.expect_doubt(looks_at)
        self._journal.note(
            "uncertain.settled",
            level="warning",
            id=doubt.id,
            provider=doubt.provider,
            rule=conclusion.rule,
        )

    async def _settle(self, doubt: Doubt, command: Command) -> None:
        """Have the spool change something about a doubt; until it has, the doubt is busy."""
        key = (doubt.seq, doubt.attempt_id)
        self._writing[key] = await self._write(command)

    def _postponed(self, doubt: Doubt, at: float, tries: int = 0) -> Postpone:
        self._desk.expect_doubt(at)
        return Postpone(doubt.seq, (doubt.attempt_id,), at, doubt.repeats + tries)

    async def _write(self, command: Command) -> Reply[Result]:
        reply: Reply[Result] = Reply(self._desk.looked.nudge)
        await self._desk.spool.put(Write(command, reply))
        return reply

    # By key

    async def _repeat(self, doubt: Doubt, lane: Lane, now: float) -> bool:
        """Send the same once more, under its key; later where the lane does not take it."""
        now_s = self._clock.now_s()
        view = self._views.get(lane.name)
        if view is None or view.lane is not lane:
            view = self._views[lane.name] = LaneView(lane)
        repeats = sum(each.doubt is not None for each in lane.in_flight.values())
        if doubt.crashes >= ALONE_FROM and self._desk.has_suspect_in_flight:
            # Not left due: many of them would hide the doubts behind them.
            await self._settle(doubt, self._postponed(doubt, now + SUSPECT_AGAIN_S))
            return True
        if repeats >= REPEATS_MAX:
            return False
        if view.opens_at_s() > now_s or now_s < self._desk.signals.full_until_s.value:
            plan, able = self._desk.plan(doubt.stream), lane.out.capabilities
            draw = self._ports.entropy.draw("again", doubt.id, doubt.repeats)
            at = after_repeat_at(doubt, able, plan, now, draw)
            await self._settle(doubt, self._postponed(doubt, at, 1))
            return True
        attempt_id = self._ports.ids.new_id()
        attempt = Attempt(attempt_id, lease_of(doubt, now), lane.name, doubt=doubt)
        view.used += 1
        lane.in_flight[attempt.id] = attempt
        lane.limiter.put_nowait(attempt)
        return True

    # By look-up

    async def _look_up(self, doubt: Doubt, lane: Lane, nursery: trio.Nursery) -> bool:
        """Ask the vendor; not while it answers nobody, and not about too many at once."""
        vendor = self._vendors.setdefault(lane.name, _Vendor())
        under_way = sum(name == lane.name for name in self._looking.values())
        is_failing = vendor.failures >= FAILURES_MAX
        if is_failing and (under_way or self._clock.now_s() < vendor.closed_until_s):
            reason = Reason("not asked: its look-ups are failing")
            await self._count(LookUpEnded(doubt, LookUpFailed(reason), self._clock.wall_time()))
            return True
        if under_way >= LOOK_UPS_MAX:
            return False
        self._looking[doubt.seq, doubt.attempt_id] = lane.name
        nursery.start_soon(self._ask_vendor, doubt, lane.out)
        return True

    async def _ask_vendor(self, doubt: Doubt, out: Provider) -> None:
        """Make one look-up; whatever happens, it comes back once."""
        asked_at = self._clock.wall_time()
        sighting: LookUpResult = LookUpFailed(Reason(f"no answer within {LOOK_UP_WITHIN_S:g} s"))
        with trio.move_on_after(LOOK_UP_WITHIN_S):
            try:
                sighting = await out.look_up(doubt.id)
            except Exception as error:  # a look-up's fault is its outcome
                sighting = LookUpFailed(Reason(f"our fault: {type(error).__name__}"))
                self._journal.note(
                    "lookup.fault", level="error", id=doubt.id, error=describe(error)
                )
        self._desk.looked.put_nowait(LookUpEnded(doubt, sighting, asked_at))

    async def _take_in(self, looked: LookUpEnded) -> None:
        doubt, sighting = looked.doubt, looked.sighting
        vendor = self._vendors.setdefault(doubt.provider, _Vendor())
        if isinstance(sighting, LookUpFailed):
            vendor.failures += 1
            vendor.closed_until_s = self._clock.now_s() + PAUSE_S
        else:
            vendor.failures = 0
        if isinstance(sighting, Found) and not doubt.is_sole:
            reason = Reason("it has the message, but perhaps for its other recipients")
            looked = msgspec.structs.replace(looked, sighting=LookUpFailed(reason))
        await self._count(looked)
        self._looking.pop((doubt.seq, doubt.attempt_id), None)

    async def _count(self, looked: LookUpEnded) -> None:
        """Write down what a look-up came to, and conclude if that is enough."""
        doubt, now = looked.doubt, self._clock.wall_time()
        lane = self._desk.lanes.get(doubt.provider)
        able = NOBODY if lane is None else lane.out.capabilities
        lag_s = able.look_up_lag_s or 0.0
        counts_from = look_up_at(doubt, lag_s, self._desk.clock_steps)
        looks = count_look(doubt.looks, looked.sighting, looked.asked_at, counts_from, now)
        after = msgspec.structs.replace(doubt, looks=looks)
        at = self._look_again_at(after, able, lag_s, now)
        command = resolve_of_look(doubt, looked.sighting, looks, now, at)
        await self._settle(doubt, command)
        self._journal.note("uncertain.looked_up", id=doubt.id, rule=command.rule)
        if isinstance(looked.sighting, Found):
            return
        self._desk.expect_doubt(at)
        move = decide_doubt(after, able, self._desk.plan(doubt.stream), self._desk.clock_steps, now)
        if isinstance(move, Conclude):
            await self._conclude(after, able, move)

    def _look_again_at(self, doubt: Doubt, able: Capabilities, lag_s: float, now: float) -> float:
        looks = doubt.looks
        draw = self._ports.entropy.draw("look", doubt.id, looks.count)
        if doubt.is_held:
            wait_s = delay_s(looks.count, draw, HELD_DELAY_BASE_S, HELD_DELAY_CAP_S)
            return max(now + wait_s, look_up_at(doubt, lag_s, self._desk.clock_steps))
        plan, wait_s = self._desk.plan(doubt.stream), delay_s(looks.failures, draw)
        if not looks.failures:
            wait_s = max(0.0, look_up_at(doubt, lag_s, self._desk.clock_steps) - now)
        return next_at(doubt, able, plan, self._desk.clock_steps, now, wait_s)

    # Time

    def _note_clock_steps(self) -> None:
        """Notice that the wall clock was set: times on disk are trusted that much less."""
        ahead_s = self._clock.wall_time() - self._clock.now_s()
        step_s = ahead_s - self._ahead_s
        if abs(step_s) < STEP_MIN_S:
            return
        self._ahead_s = ahead_s
        self._desk.clock_steps = self._desk.clock_steps.stepped(step_s, self._clock.wall_time())
        self._journal.note("clock.stepped", level="warning", step_s=round(step_s, 3))

    def _next_wake_s(self) -> float:
        """Return the earliest time at which something is to be done without being told."""
        if self._desk.is_draining or self._overdue is not None:
            return float("inf")
        now_s = self._clock.now_s()
        due_s = now_s + self._desk.doubt_at - self._clock.wall_time()
        return max(min(due_s, now_s + CLOCK_EVERY_S), self._looked_s + LOOK_EVERY_S)
