"""The settler: finds out what became of messages that may have been accepted.

Owns the repeats and look-ups under way, and looks at a bounded number of each provider's due
doubts at a time: what one provider leaves open never waits for another. What is known of each
doubt is on disk: a successor goes on from there, and asks again what was not written down.

A repeat takes the provider's lane like any other attempt, and its end comes back to this mailbox.
The rules are in `dispatch.settling`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, assert_never

import msgspec
import trio

from mailactors.dispatch.attempt import Attempt, Done
from mailactors.dispatch.clocks import ClockSteps
from mailactors.dispatch.lane import NEVER_S, Lane
from mailactors.dispatch.lanes import Lanes
from mailactors.dispatch.lookups import LOOK_UPS_MAX, DoubtKey, LookUpEnded, LookUpTasks
from mailactors.dispatch.record import end_of_repeat, lease_of
from mailactors.dispatch.retry import NextTry, decide_resend, outcome_word
from mailactors.dispatch.settling import (
    HELD_DELAY_BASE_S,
    HELD_DELAY_CAP_S,
    NO_PROVIDER,
    Conclude,
    LookUp,
    Repeat,
    Wait,
    after_repeat_at,
    count_look,
    decide_doubt,
    doubt_delay_s,
    look_up_at,
    next_at,
    poison_of,
    settle_of,
    settle_of_look,
)
from mailactors.dispatch.suspects import count_crash
from mailactors.model.outcome import NotAttempted, Reason, Why
from mailactors.providers.port import Capabilities, Found, LookUpFailed
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import Ports
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.runtime.supervisor import describe
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import (
    ALONE_FROM,
    CRASHES_MAX,
    Command,
    Doubt,
    Doubts,
    FindDueDoubts,
    Postpone,
    Result,
)

MAILBOX_CAPACITY: Final = 100_000
"""Repeats and look-ups are bounded at each provider; this is never reached."""
SUSPECT_AGAIN_S: Final = 2.0
"""When a repeat is tried again that must go alone, while another such message is in flight."""
FAULT_AGAIN_S: Final = 300.0
"""When a doubt is due again at which we failed; a fault of ours, for the log."""
CLOCK_EVERY_S: Final = 10.0
"""How soon a step of the wall clock is noticed; doubts are due by that clock."""
LOOK_EVERY_S: Final = 1.0
"""Due doubts are asked for no more often than this."""
DUE_MAX: Final = 200
"""Doubts of each provider that are taken at a time."""
REPEATS_MAX: Final = 8
"""Repeats in flight at each provider: fresh messages need its lane."""
STEP_MIN_S: Final = 1.0
"""The two clocks must disagree by this much for the wall clock to have been set."""


@dataclass(eq=False)
class SettlerState:
    """What survives a crash of the settler."""

    mailbox: Mailbox[Done | LookUpEnded] = field(init=False)
    lost: list[Attempt] = field(default_factory=list)
    """Repeats on whose end a settler died. A look-up that it died on is made again."""
    due_at: float = 0.0
    """UTC; when the next doubt is due, as far as is known."""
    clock_steps: ClockSteps = field(default_factory=ClockSteps)
    """What was noticed of the wall clock."""

    def __post_init__(self) -> None:
        self.mailbox = Mailbox("settler", MAILBOX_CAPACITY, self._on_crash)

    def expect(self, at: float) -> None:
        """Let the settler ask for due doubts at `at` (UTC) at the latest."""
        if at < self.due_at:
            self.due_at = at
            self.mailbox.nudge()

    def _on_crash(self, item: Done | LookUpEnded, _error: Exception) -> None:
        if isinstance(item, Done):
            self.lost.append(item.attempt)


class SettlerActor:
    """One loop over due doubts, ends of repeats and look-ups; a task for each look-up."""

    def __init__(self, state: SettlerState, lanes: Lanes, spool: SpoolClient, ports: Ports) -> None:
        self._state = state
        self._lanes = lanes
        self._spool = spool
        self._ports = ports
        self._clock = ports.clock
        self._journal = ports.journal
        self._look_ups = LookUpTasks(state.mailbox.put_nowait, ports, lanes.secrets)
        self._writing: dict[DoubtKey, Reply[Result]] = {}
        self._overdue: Reply[Result] | None = None
        self._looked_s = NEVER_S
        self._spool_starts = spool.signals.starts.value
        self._ahead_s = ports.clock.wall_time() - ports.clock.now_s()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Leave what a predecessor lost to the dispatcher's recovery, then act on what is due."""
        self._state.due_at = 0.0
        while self._state.lost:
            self._lanes.lose(self._state.lost.pop())
            self._lanes.wake()
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                await self._wait()
                self._note_clock_steps()
                for item in self._state.mailbox.take():
                    await self._take_in(item)
                await self._read_doubts(nursery)
                await self._ask()

    async def _wait(self) -> None:
        """Wait for something to do; a deadline that has passed needs no cancel scope."""
        wake_s, mailbox = self._next_wake_s(), self._state.mailbox
        if wake_s <= self._clock.now_s() and not mailbox.is_ready:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_at(wake_s):
            await mailbox.wait()

    async def _take_in(self, item: Done | LookUpEnded) -> None:
        if isinstance(item, Done):
            self._ports.faults.point("settler.outcome")
            await self._end_repeat(item)
        else:
            self._ports.faults.point("settler.looked")
            await self._end_look_up(item)

    # Due doubts

    async def _ask(self) -> None:
        """Ask the spool for doubts that are due."""
        if self._spool_starts != self._spool.signals.starts.value:
            self._spool_starts = self._spool.signals.starts.value
            self._state.due_at = 0.0  # what was asked of its predecessor may be lost
        now_s, now = self._clock.now_s(), self._clock.wall_time()
        is_time = self._state.due_at <= now and now_s >= self._looked_s + LOOK_EVERY_S
        if self._overdue is None and is_time and not self._lanes.is_draining:
            self._looked_s = now_s
            self._state.due_at = float("inf")  # what becomes uncertain meanwhile lowers it again
            self._overdue = await self._write(FindDueDoubts(DUE_MAX))

    async def _read_doubts(self, nursery: trio.Nursery) -> None:
        """Act on the due doubts that the spool has answered with."""
        self._writing = {key: reply for key, reply in self._writing.items() if not reply.is_done}
        if self._overdue is None or not self._overdue.is_done:
            return
        reply, self._overdue = self._overdue, None
        try:
            doubts = reply.result()
        except ActorCrashedError as error:
            self._journal.note("spool.answer_lost", level="error", error=str(error))
            self._state.expect(0.0)
            return
        assert isinstance(doubts, Doubts)
        if doubts.next_due_at is not None:
            self._state.expect(doubts.next_due_at)
        busy = self._busy()
        for doubt in doubts.doubts:
            if self._lanes.is_draining:
                return
            self._ports.faults.point("settler.doubt")
            is_done = (doubt.seq, doubt.attempt_id) not in busy
            try:
                is_done = is_done and await self._act_on(doubt, nursery)
            except Exception as error:  # one that we cannot handle must not stop the others
                self._journal.note(
                    "settler.fault", level="error", id=doubt.id, error=describe(error)
                )
                at = self._clock.wall_time() + FAULT_AGAIN_S
                await self._change(doubt, self._postponed(doubt, at))
            if not is_done:
                self._state.expect(self._clock.wall_time())  # it is still due

    def _busy(self) -> set[DoubtKey]:
        """Return the doubts for which something is under way."""
        repeats = [attempt.doubt for attempt in self._lanes.in_flight if attempt.doubt is not None]
        repeated = {(doubt.seq, doubt.attempt_id) for doubt in repeats}
        return repeated | self._look_ups.keys | self._writing.keys()

    async def _act_on(self, doubt: Doubt, nursery: trio.Nursery) -> bool:
        """Do what the rules say about a due doubt; False when there is no room for that now."""
        lane, now = self._lanes.get(doubt.provider), self._clock.wall_time()
        able = NO_PROVIDER if lane is None else lane.provider.capabilities
        move = decide_doubt(
            doubt, able, self._lanes.plan(doubt.stream), self._state.clock_steps, now
        )
        match move:
            case Wait(until):
                await self._change(doubt, self._postponed(doubt, until))
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
            looks_at = max(now, look_up_at(doubt, able, self._state.clock_steps))
        onward = self._resend_of(doubt) if conclusion.is_risk else None
        await self._change(doubt, settle_of(doubt, conclusion, now, looks_at, onward))
        self._state.expect(looks_at)
        self._journal.note(
            "uncertain.settled",
            level="warning",
            id=doubt.id,
            provider=doubt.provider,
            rule=conclusion.rule,
        )

    def _resend_of(self, doubt: Doubt) -> NextTry:
        plan = self._lanes.plan(doubt.stream)
        able = plan.carrying(len(doubt.recipients), doubt.recipients_total)
        draw = self._ports.entropy.draw("resend", doubt.id, doubt.attempts)
        return decide_resend(doubt.progress, doubt.provider, able, draw)

    async def _change(self, doubt: Doubt, command: Command) -> None:
        """Send a command about a doubt; until it is durable, the doubt is busy."""
        key = (doubt.seq, doubt.attempt_id)
        self._writing[key] = await self._write(command)

    def _postponed(self, doubt: Doubt, at: float, tries: int = 0) -> Postpone:
        self._state.expect(at)
        return Postpone(doubt.seq, (doubt.attempt_id,), at, doubt.repeats + tries)

    async def _write(self, command: Command) -> Reply[Result]:
        return await self._spool.send(command, self._state.mailbox.nudge)

    # Repeats

    async def _repeat(self, doubt: Doubt, lane: Lane, now: float) -> bool:
        """Send the same once more, under its key; later where the lane does not take it."""
        now_s = self._clock.now_s()
        if doubt.crashes >= ALONE_FROM and self._lanes.has_suspect_in_flight:
            # Not left due: many of them would hide the doubts behind them.
            await self._change(doubt, self._postponed(doubt, now + SUSPECT_AGAIN_S))
            return True
        if lane.repeats_in_flight >= REPEATS_MAX:
            return False
        if lane.opens_at_s() > now_s or now_s < self._spool.signals.full_until_s.value:
            at = self._repeat_again_at(doubt, lane, now)
            await self._change(doubt, self._postponed(doubt, at, 1))
            return True
        id_, reply_to = self._ports.ids.new_id(), self._state.mailbox.put_nowait
        attempt = Attempt(id_, lease_of(doubt, now), lane.name, reply_to, doubt=doubt)
        lane.offer(attempt, now_s)
        return True

    async def _end_repeat(self, done: Done) -> None:
        """Record how a repeat ended: it settled, or everything is as uncertain as before."""
        attempt, outcome, now = done.attempt, done.outcome, self._clock.wall_time()
        lane, doubt = self._lanes[attempt.lane], attempt.doubt
        assert doubt is not None
        if not lane.end(attempt):
            return  # reported already, by the successor of an actor that died
        at = self._repeat_again_at(doubt, lane, now)
        for command in end_of_repeat(done, doubt, at):
            await self._write(command)
        if not isinstance(outcome, NotAttempted):
            word = outcome_word(outcome)
            self._lanes.attempts.add(attempt.lane, word)
            facts = {"id": doubt.id, "provider": attempt.lane, "outcome": word}
            self._journal.note("uncertain.repeated", **facts, repeats=doubt.repeats + 1)
        elif outcome.why is Why.CRASHED:
            crash = count_crash(attempt.lease, self._journal)
            await self._write(crash)
            if crash.crashes >= CRASHES_MAX:
                await self._write(poison_of(doubt, now))
        self._state.expect(at)
        self._lanes.wake()  # a slot is free, or the last attempt has ended

    def _repeat_again_at(self, doubt: Doubt, lane: Lane, now: float) -> float:
        draw = self._ports.entropy.draw("again", doubt.id, doubt.repeats)
        plan = self._lanes.plan(doubt.stream)
        return after_repeat_at(doubt, lane.provider.capabilities, plan, now, draw)

    # Look-ups

    async def _look_up(self, doubt: Doubt, lane: Lane, nursery: trio.Nursery) -> bool:
        """Ask the provider, unless its look-ups fail; False when too many are under way."""
        if self._look_ups.is_paused(lane.name):
            reason = Reason("not asked: its look-ups are failing")
            await self._count(LookUpEnded(doubt, LookUpFailed(reason), self._clock.wall_time()))
            return True
        if self._look_ups.count(lane.name) >= LOOK_UPS_MAX:
            return False
        self._look_ups.start(doubt, lane.provider, nursery)
        return True

    async def _end_look_up(self, looked: LookUpEnded) -> None:
        self._look_ups.end(looked)
        if isinstance(looked.sighting, Found) and not looked.doubt.is_sole:
            reason = Reason("it has the message, but perhaps for its other recipients")
            looked = msgspec.structs.replace(looked, sighting=LookUpFailed(reason))
        await self._count(looked)

    async def _count(self, looked: LookUpEnded) -> None:
        """Record what a look-up found, and conclude if that is enough."""
        doubt, now = looked.doubt, self._clock.wall_time()
        lane = self._lanes.get(doubt.provider)
        able = NO_PROVIDER if lane is None else lane.provider.capabilities
        counts_from = look_up_at(doubt, able, self._state.clock_steps)
        looks = count_look(doubt.looks, looked.sighting, looked.asked_at, counts_from, now)
        after = msgspec.structs.replace(doubt, looks=looks)
        at = self._look_again_at(after, able, now)
        command = settle_of_look(doubt, looked.sighting, looks, now, at)
        await self._change(doubt, command)
        self._journal.note("uncertain.looked_up", id=doubt.id, rule=command.rule)
        if isinstance(looked.sighting, Found):
            return
        self._state.expect(at)
        move = decide_doubt(
            after, able, self._lanes.plan(doubt.stream), self._state.clock_steps, now
        )
        if isinstance(move, Conclude):
            await self._conclude(after, able, move)

    def _look_again_at(self, doubt: Doubt, able: Capabilities, now: float) -> float:
        looks = doubt.looks
        draw = self._ports.entropy.draw("look", doubt.id, looks.count)
        if doubt.is_held:
            wait_s = doubt_delay_s(looks.count, draw, HELD_DELAY_BASE_S, HELD_DELAY_CAP_S)
            return max(now + wait_s, look_up_at(doubt, able, self._state.clock_steps))
        plan, wait_s = self._lanes.plan(doubt.stream), doubt_delay_s(looks.failures, draw)
        if not looks.failures:
            wait_s = max(0.0, look_up_at(doubt, able, self._state.clock_steps) - now)
        return next_at(doubt, able, plan, self._state.clock_steps, now, wait_s)

    # Time

    def _note_clock_steps(self) -> None:
        """Notice that the wall clock was set: times on disk are trusted that much less."""
        ahead_s = self._clock.wall_time() - self._clock.now_s()
        step_s = ahead_s - self._ahead_s
        if abs(step_s) < STEP_MIN_S:
            return
        self._ahead_s = ahead_s
        self._state.clock_steps = self._state.clock_steps.stepped(step_s, self._clock.wall_time())
        self._journal.note("clock.stepped", level="warning", step_s=round(step_s, 3))

    def _next_wake_s(self) -> float:
        """Return when something is to be done without any news (monotonic)."""
        if self._lanes.is_draining or self._overdue is not None:
            return float("inf")
        now_s = self._clock.now_s()
        due_s = now_s + self._state.due_at - self._clock.wall_time()
        return max(min(due_s, now_s + CLOCK_EVERY_S), self._looked_s + LOOK_EVERY_S)
