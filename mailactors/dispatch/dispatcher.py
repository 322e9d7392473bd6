"""The dispatcher: leases what is due, gives it to lanes, and decides what follows each outcome.

Owns the messages in memory, which are those that may go out now; everything else waits on disk
with its time. It decides from what the lanes last published and the lanes decide for real: a lane
that must refuse answers `NotAttempted`, which costs nothing.

Never waits for a lane (credits), never sets a timer for a message (one wake-up for the earliest of
a handful of times), never keeps a body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from mailactors.dispatch.claims import Claims
from mailactors.dispatch.desk import DispatchDesk
from mailactors.dispatch.domains import Domains, hold_time_s
from mailactors.dispatch.lane import Attempt, Done, Lane, Stage
from mailactors.dispatch.record import (
    attempt_facts,
    end_of_repeat,
    settle_of,
    unsettled,
    with_doubt_at,
)
from mailactors.dispatch.recovery import recover_of, recovered_by
from mailactors.dispatch.retry import Decision, candidates, decide_next, outcome_word
from mailactors.dispatch.routing import (
    Choice,
    LaneView,
    Panics,
    Waiting,
    choose_lane,
    next_choice_s,
    within_reach,
)
from mailactors.dispatch.settling import after_repeat_at, first_at, poison_of
from mailactors.dispatch.suspects import Suspects
from mailactors.model.lifecycle import State
from mailactors.model.outcome import Accepted, NotAttempted, Why
from mailactors.runtime.ports import Ports
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.runtime.timer import Timer
from mailactors.spool.actor import Write
from mailactors.spool.port import (
    ALONE_FROM,
    CRASHES_MAX,
    Claimed,
    Command,
    CountCrash,
    Doubt,
    Expire,
    Expired,
    Lease,
    Release,
    Result,
)

UPKEEP_S: Final = 1.0
"""How often deadlines are looked after."""
UPKEEP_LIMIT: Final = 500
"""Messages that one look handles."""


class DispatcherActor:
    """The shell: one loop over outcomes, leases and times."""

    def __init__(self, desk: DispatchDesk, ports: Ports) -> None:
        self._desk = desk
        self._ports = ports
        self._clock = ports.clock
        self._journal = ports.journal
        self._views: dict[str, LaneView] = {}
        self._claims = Claims(desk)
        self._waiting = Waiting()
        self._suspects = Suspects()
        self._domains = Domains(ports.journal)
        self._panics = Panics(ports.journal)
        self._changes_seen = -1
        self._spool_starts = 0
        self._upkeep_s = ports.clock.now_s()
        self._expire: Reply[Result] | None = None
        desk.leases = lambda: self._waiting.leases() | self._suspects.leases()
        self._alarm = Timer(desk.outcomes.nudge, ports.clock)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Settle what a predecessor left, then dispatch."""
        await self._reconfigure()
        await self._recover(task_status.started)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._alarm.run)
            await self._work()

    async def _work(self) -> None:
        mailbox = self._desk.outcomes
        while True:
            self._alarm.set(self._next_wake_s())
            await mailbox.wait()
            is_news = not self._claims.cover(self._desk.signals.streams)
            if is_news or self._changes_seen != self._desk.changes.value:
                await self._reconfigure()
            if self._spool_starts != self._desk.signals.starts.value:
                await self._recover()
            for done in mailbox.take():
                self._ports.faults.point("dispatcher.outcome")
                await self._handle(done)
            await self._read_replies()
            self._dispatch()
            await self._ask()
            if self._desk.is_draining and not self._desk.in_flight:
                self._desk.drained.set()

    # Beginning

    async def _reconfigure(self) -> None:
        """Take in lanes and plans that came, went or changed; who waits chooses again."""
        self._changes_seen = self._desk.changes.value
        lanes, plans = self._desk.lanes, self._desk.plans
        self._views = {name: self._view(lane) for name, lane in lanes.items()}
        self._claims.add((*plans, *self._desk.signals.streams))
        self._waiting.set_shares({name: self._desk.plan(name).share for name in self._claims})
        for lease in (*self._waiting.take_all(), *self._suspects.take_all()):
            await self._push(lease)

    async def _recover(self, asked: Callable[[], None] = lambda: None) -> None:
        """Settle what a dead predecessor, of ours or of the writer's, left behind.

        Leases that nobody here knows of are ready again; intents whose attempt is not in flight
        are uncertain. `asked` is called when the command is ahead of any that others send.
        """
        while True:
            self._spool_starts = self._desk.signals.starts.value
            leases = self._waiting.leases() | self._suspects.leases()
            command = recover_of(self._desk, leases, self._claims)
            reply = await self._write(command)
            asked()
            if (recovered := await recovered_by(reply, self._journal)) is not None:
                break
        self._desk.has_recovered = True
        self._desk.blamed -= command.blamed
        for message_id in recovered.held_ids:
            self._journal.note("message.poison", level="error", id=message_id, state="held")
        if recovered.released_count or recovered.uncertain_count:
            self._journal.note(
                "spool.recovered",
                level="warning",
                released=recovered.released_count,
                uncertain=recovered.uncertain_count,
            )
        self._desk.expect_doubt(0.0)
        self._claims.expect_all()

    # Outcomes

    async def _handle(self, done: Done) -> None:
        attempt, outcome = done.attempt, done.outcome
        lane = self._desk.lanes[attempt.lane]
        if lane.in_flight.pop(attempt.id, None) is None:
            return  # the attempt was settled already, from what its dead actor had left
        lane.note_end()
        if attempt.doubt is not None:
            await self._end_repeat(done, attempt.doubt)
            return
        if isinstance(outcome, NotAttempted):
            await self._put_back(attempt, outcome)
            return
        plan, now = self._desk.plan(attempt.lease.stream), self._clock.wall_time()
        draw = self._ports.entropy.draw("retry", attempt.lease.id, attempt.lease.attempts)
        decision = decide_next(
            attempt.lease, attempt.recipients, attempt.lane, outcome, plan, now, draw
        )
        decision = with_doubt_at(decision, first_at(lane.out.capabilities, plan, now))
        if not isinstance(outcome, Accepted):
            self._desk.decided_s.observe(self._clock.now_s() - done.ended_s)
        await self._record(done, decision)
        self._desk.attempts.add(attempt.lane, outcome_word(outcome))
        level = "info" if isinstance(outcome, Accepted) else "warning"
        self._journal.note("attempt.done", level=level, **attempt_facts(attempt, outcome, decision))
        self._expect(attempt.lease.stream, decision)
        await self._go_on(attempt.lease, decision)
        self._domains.note(done)

    async def _go_on(self, lease: Lease, decision: Decision) -> None:
        """Keep the deliveries that another lane may take at once."""
        kept = {step.n for step in decision.steps if step.state is State.LEASED}
        if kept:
            onward = msgspec.structs.replace(
                lease,
                recipients=tuple(each for each in lease.recipients if each[0] in kept),
                attempts=lease.attempts + 1,
                progress=decision.progress,
                crashes=0,
            )
            await self._push(onward, is_first=True)

    async def _record(self, done: Done, decision: Decision) -> None:
        """Have outcome and decision made durable; measure how long that takes."""
        duration_s = done.ended_s - done.attempt.began_s
        command = settle_of(done.attempt, done.outcome, decision, duration_s)

        def recorded() -> None:
            if not isinstance(done.outcome, Accepted):
                self._desk.recorded_s.observe(self._clock.now_s() - done.ended_s)

        await self._desk.spool.put(Write(command, Reply(recorded)))

    def _expect(self, stream: str, decision: Decision) -> None:
        """Remember when the spool will have something for us again."""
        if decision.next_due_at is not None:
            self._claims.expect(stream, decision.next_due_at)
        if decision.next_doubt_at is not None:
            self._desk.expect_doubt(decision.next_doubt_at)

    async def _end_repeat(self, done: Done, doubt: Doubt) -> None:
        """Record how a repetition by key ended: it settled, or all is as uncertain as it was."""
        attempt, outcome, now = done.attempt, done.outcome, self._clock.wall_time()
        plan, able = self._desk.plan(doubt.stream), self._desk.lanes[attempt.lane].out.capabilities
        draw = self._ports.entropy.draw("again", doubt.id, doubt.repeats)
        at = after_repeat_at(doubt, able, plan, now, draw)
        for command in end_of_repeat(done, doubt, at):
            await self._write(command)
        if not isinstance(outcome, NotAttempted):
            word = outcome_word(outcome)
            self._desk.attempts.add(attempt.lane, word)
            facts = {"id": doubt.id, "provider": attempt.lane, "outcome": word}
            self._journal.note("uncertain.repeated", **facts, repeats=doubt.repeats + 1)
        elif outcome.why is Why.CRASHED and await self._blame(attempt.lease):
            await self._write(poison_of(doubt, now))
        self._desk.expect_doubt(at)

    async def _put_back(self, attempt: Attempt, outcome: NotAttempted) -> None:
        """Nothing was sent: the message keeps its place, unless it has no business any more."""
        lease = attempt.lease
        if outcome.why is Why.WITHDRAWN:
            return
        if attempt.stage is Stage.INTENDING:
            await self._write(unsettled(attempt))
        if outcome.why is Why.CRASHED:
            if await self._blame(lease):
                await self._fail(lease, f"actors died on it {CRASHES_MAX} times")
                return
            lease = msgspec.structs.replace(lease, crashes=lease.crashes + 1)
        if outcome.why is Why.UNABLE:
            barred = (*lease.progress.barred, attempt.lane)
            progress = msgspec.structs.replace(lease.progress, barred=barred)
            lease = msgspec.structs.replace(lease, progress=progress)
        elif outcome.until_s:
            view = self._views[attempt.lane]
            view.refresh()
            view.blocked_until_s = max(view.blocked_until_s, outcome.until_s)
        await self._push(lease, is_first=True)

    async def _blame(self, lease: Lease) -> bool:
        """Remember that an actor died on this very message; say whether that was too often."""
        crashes = lease.crashes + 1
        await self._write(CountCrash(lease.seq, crashes))
        if crashes >= CRASHES_MAX:
            self._journal.note("message.poison", level="error", id=lease.id, crashes=crashes)
        return crashes >= CRASHES_MAX

    async def _fail(self, lease: Lease, error: str) -> None:
        ns = tuple(n for n, _ in lease.recipients)
        await self._write(Release(lease.seq, ns, lease.epoch, 0.0, error))

    # Leases and lanes

    async def _receive(self, lease: Lease) -> None:
        """Let a message wait for a lane; a retry to domains that take nothing now, on the disk."""
        deferring_s = self._domains.deferring_s(lease, self._clock.now_s())
        if deferring_s is None:
            await self._push(lease)
            return
        draw = self._ports.entropy.draw("domain", lease.id, lease.epoch)
        due_at = self._clock.wall_time() + hold_time_s(deferring_s, draw)
        ns = tuple(n for n, _ in lease.recipients)
        await self._write(Release(lease.seq, ns, lease.epoch, due_at))
        self._claims.expect(lease.stream, due_at)

    async def _push(self, lease: Lease, *, is_first: bool = False) -> None:
        """Let a message wait for the lanes that may take it; without any it has failed."""
        plan = self._desk.plan(lease.stream)
        able = plan.carrying(len(lease.recipients), lease.recipients_total)
        lanes = candidates(able, lease.progress)
        if lanes and lease.crashes >= ALONE_FROM:
            self._suspects.push(lease, lanes)
        elif lanes:
            self._waiting.push(lease, lanes, is_first=is_first)
        else:
            await self._fail(lease, "no provider of its route can carry what is left of it")

    def _view(self, lane: Lane) -> LaneView:
        """Return what is known of a lane; of one that came back under its old name, nothing."""
        view = self._views.get(lane.name)
        return view if view is not None and view.lane is lane else LaneView(lane)

    def _dispatch(self) -> None:
        """Give lanes what they take now; nothing while the disk has no room for intents."""
        now_s = self._clock.now_s()
        is_behind = self._changes_seen != self._desk.changes.value  # a reload, while we waited
        if is_behind or self._desk.is_draining or now_s < self._desk.signals.full_until_s.value:
            return
        self._panics.look(lambda stream: self._desk.plan(stream).route, self._views)

        def choose(lease: Lease, lanes: tuple[str, ...]) -> Choice | None:
            return choose_lane(*self._reach(lease.stream, lanes), self._views, now_s)

        if self._may_send_suspect() and (chosen := self._suspects.pop(choose)):
            self._send(*chosen, now_s)
        while (chosen := self._waiting.pop(choose)) is not None:
            self._send(*chosen, now_s)

    def _send(self, lease: Lease, choice: Choice, now_s: float) -> None:
        view = self._views[choice.lane]
        attempt = Attempt(self._ports.ids.new_id(), lease, choice.lane, choice.is_panic)
        view.used += 1
        if choice.is_panic:
            view.panicked_s = now_s
            self._panics.enter(lease.stream)
            self._journal.note("attempt.panic", level="warning", id=lease.id, provider=choice.lane)
        view.lane.in_flight[attempt.id] = attempt
        view.lane.limiter.put_nowait(attempt)

    # The spool

    async def _write(self, command: Command) -> Reply[Result]:
        reply: Reply[Result] = Reply(self._desk.outcomes.nudge)
        await self._desk.spool.put(Write(command, reply))
        return reply

    async def _ask(self) -> None:
        """Ask for leases where there is room, and for upkeep when it is time."""
        for write in self._claims.take_due(self._clock.wall_time(), self._count):
            await self._desk.spool.put(write)
        if self._clock.now_s() >= self._upkeep_s:
            self._upkeep_s = self._clock.now_s() + UPKEEP_S
            self._expire = self._expire or await self._write(Expire(UPKEEP_LIMIT))

    def _may_send_suspect(self) -> bool:
        return bool(self._suspects) and not self._desk.has_suspect_in_flight

    def _count(self, stream: str) -> int:
        return self._waiting.count(stream) + self._suspects.count(stream)

    async def _read_replies(self) -> None:
        """Take in what the spool has answered."""
        for name, reply in self._claims.answered():
            if isinstance(claimed := self._answer(reply), Claimed):
                await self._take_in(name, claimed)
        if self._expire is not None and self._expire.is_done:
            expired, self._expire = self._answer(self._expire), None
            if isinstance(expired, Expired):
                self._forget(expired)

    def _answer(self, reply: Reply[Result]) -> Result | None:
        """Return what the spool answered, or None if the writer died on the question.

        Nothing is lost: a successor's start makes us recover, and then ask again.
        """
        try:
            return reply.result()
        except ActorCrashedError as error:
            self._journal.note("spool.answer_lost", level="error", error=str(error))
            return None

    async def _take_in(self, stream: str, claimed: Claimed) -> None:
        for lease in claimed.leases:
            await self._receive(lease)
        if claimed.next_due_at is not None:
            self._claims.expect(stream, claimed.next_due_at)

    def _forget(self, expired: Expired) -> None:
        if expired.seqs:
            self._waiting.remove(frozenset(expired.seqs))
            self._suspects.remove(frozenset(expired.seqs))
            for message_id in expired.ids:
                self._journal.note("message.expired", level="warning", id=message_id)

    # Time

    def _next_wake_s(self) -> float:
        """Return the earliest time at which something is to be done without being told."""
        if self._desk.is_draining or self._changes_seen != self._desk.changes.value:
            return self._upkeep_s
        now_s, now = self._clock.now_s(), self._clock.wall_time()
        if now_s < self._desk.signals.full_until_s.value:
            return self._desk.signals.full_until_s.value
        times = [self._upkeep_s, now_s + self._claims.next_due_at(self._count) - now]
        groups = [*self._waiting.groups()]
        if self._may_send_suspect():
            groups += self._suspects.groups()
        for stream_name, lanes in groups:
            times.append(next_choice_s(*self._reach(stream_name, lanes), self._views, now_s))
        return min(times)

    def _reach(self, stream: str, lanes: tuple[str, ...]) -> tuple[Sequence[str], Sequence[str]]:
        """Return the lanes that messages may take now, and their whole route."""
        plan = self._desk.plan(stream)
        return within_reach(lanes, self._views, is_patient=plan.is_patient), plan.route
