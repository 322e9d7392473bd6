"""The dispatcher: leases what is due, offers it to lanes, and decides what follows each outcome.

Owns the messages in memory, which are those that may go out now; everything else waits on disk
with its time. It decides from what the lanes last published and the lanes decide for real: a lane
that must refuse answers `NotAttempted`, which costs nothing.

Never waits for a lane (it counts slots), never sets a timer for a message (one wake-up for the
earliest of a handful of times), never keeps a body. The settler sends repeats itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from mailactors.dispatch.attempt import Attempt, Done
from mailactors.dispatch.choosing import Chooser
from mailactors.dispatch.claims import Claims
from mailactors.dispatch.domains import Domains, hold_time_s
from mailactors.dispatch.lanes import Lanes
from mailactors.dispatch.parking import PARK_MIN_S, SUSPECTS_KEPT, Parking
from mailactors.dispatch.passing import passed_over
from mailactors.dispatch.queue import Choice
from mailactors.dispatch.record import attempt_facts, record_of, void_of, with_doubt_at
from mailactors.dispatch.recovery import is_recovered, recover_of
from mailactors.dispatch.retry import Decision, candidates, decide_next, outcome_word
from mailactors.dispatch.routing import Panics, Waiting, without_lane
from mailactors.dispatch.settling import first_at
from mailactors.dispatch.state import DispatcherState
from mailactors.dispatch.suspects import Suspects, count_crash
from mailactors.dispatch.waits import wait_within_s
from mailactors.model.lifecycle import State
from mailactors.model.outcome import Accepted, NotAttempted, Why
from mailactors.runtime.ports import Ports
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.runtime.timer import Timer
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import (
    ALONE_FROM,
    CRASHES_MAX,
    Claimed,
    Command,
    Expire,
    Expired,
    Lease,
    Release,
    Result,
)

UPKEEP_S: Final = 1.0
"""How often messages past their deadline are looked for."""
UPKEEP_LIMIT: Final = 500
"""Messages that one such look handles."""


class DispatcherActor:
    """One loop over outcomes, leases and times.

    Args:
        expect_doubt: tells the settler that something uncertain is due at a time (UTC).
    """

    def __init__(
        self,
        state: DispatcherState,
        lanes: Lanes,
        spool: SpoolClient,
        expect_doubt: Callable[[float], None],
        ports: Ports,
    ) -> None:
        self._state = state
        self._mailbox = state.mailbox
        self._lanes = lanes
        self._spool = spool
        self._signals = spool.signals
        self._expect_doubt = expect_doubt
        self._ports = ports
        self._clock = ports.clock
        self._journal = ports.journal
        self._claims = Claims(state.node, spool, self._mailbox.nudge)
        self._waiting = Waiting()
        self._chooser = Chooser(lanes, self._waiting)
        self._parking = Parking(self._waiting, lanes, self._claims)
        self._suspects = Suspects()
        self._domains = Domains(ports.journal)
        self._panics = Panics(ports.journal)
        self._changes_seen = -1
        self._spool_starts = 0
        self._upkeep_s = ports.clock.now_s()
        self._expire: Reply[Result] | None = None
        self._timer = Timer(self._mailbox.nudge, ports.clock)
        state.leases = self._leases

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Put right what a predecessor left, then dispatch."""
        while self._state.lost:
            self._lanes.lose(self._state.lost.pop())
        await self._reconfigure()
        await self._recover(task_status.started)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timer.run)
            await self._work()

    async def _work(self) -> None:
        while True:
            self._timer.set(self._next_wake_s())
            await self._mailbox.wait()
            if self._is_outdated or not self._claims.cover(self._signals.streams):
                await self._reconfigure()
            if self._lanes.blamed or self._spool_starts != self._signals.starts.value:
                await self._recover()
            for done in self._mailbox.take():
                self._ports.faults.point("dispatcher.outcome")
                await self._handle(done)
            self._domains.forget_at(self._signals.flushes.value)
            await self._read_replies()
            if self._dispatch():
                await self._make_room()
            await self._ask()
            if self._lanes.is_draining and not self._lanes.in_flight:
                self._lanes.drained.set()

    # Beginning

    @property
    def _is_outdated(self) -> bool:
        """Whether a reload has changed lanes or plans since they were taken in."""
        return self._changes_seen != self._lanes.changes.value

    async def _reconfigure(self) -> None:
        """Take in changed lanes and plans; every message in memory chooses again."""
        self._changes_seen = self._lanes.changes.value
        self._claims.add((*self._lanes.plans, *self._signals.streams))
        self._waiting.set_shares({name: self._lanes.plan(name).share for name in self._claims})
        for lease in (*self._waiting.take_all(), *self._suspects.take_all()):
            await self._push(lease)
        self._parking.expect(self._claims, self._clock.wall_time())

    async def _recover(self, asked: Callable[[], None] = lambda: None) -> None:
        """Put right what a dead dispatcher, settler or writer left behind.

        `asked` is called when the command is ahead of any that others send.
        """
        while True:
            self._spool_starts = self._signals.starts.value
            node, died = self._state.node, not self._state.has_recovered
            command = recover_of(node, self._lanes, self._leases(), self._claims, died=died)
            reply = await self._write(command)
            asked()
            if await is_recovered(reply, self._journal):
                break
        self._state.has_recovered = True
        self._lanes.blamed -= command.blamed
        self._expect_doubt(0.0)
        self._claims.expect_all()

    # Outcomes

    async def _handle(self, done: Done) -> None:
        attempt, outcome = done.attempt, done.outcome
        lane = self._lanes[attempt.lane]
        if not lane.end(attempt):
            return  # reported already, by the successor of an actor that died
        if isinstance(outcome, NotAttempted):
            await self._put_back(attempt, outcome)
            return
        plan, now = self._lanes.plan(attempt.lease.stream), self._clock.wall_time()
        draw = self._ports.entropy.draw("retry", attempt.lease.id, attempt.lease.attempts)
        decision = decide_next(
            attempt.lease,
            attempt.recipients,
            attempt.lane,
            outcome,
            plan,
            now,
            draw,
            is_own_limit=bool(attempt.own_limits),
        )
        decision = with_doubt_at(decision, first_at(lane.provider.capabilities, plan, now))
        lane.took_s.observe(done.ended_s - attempt.began_s)
        if not isinstance(outcome, Accepted):
            self._state.decided_s.observe(self._clock.now_s() - done.ended_s)
        await self._record(done, decision)
        self._lanes.attempts.add(attempt.lane, outcome_word(outcome))
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
        command = record_of(done.attempt, done.outcome, decision, duration_s)

        def recorded() -> None:
            if not isinstance(done.outcome, Accepted):
                self._state.recorded_s.observe(self._clock.now_s() - done.ended_s)

        await self._spool.send(command, recorded)

    def _expect(self, stream: str, decision: Decision) -> None:
        """Remember when the spool will have something for us again."""
        if decision.next_due_at is not None:
            self._claims.expect(stream, decision.next_due_at)
        if decision.next_doubt_at is not None:
            self._expect_doubt(decision.next_doubt_at)

    async def _put_back(self, attempt: Attempt, outcome: NotAttempted) -> None:
        """Nothing was sent: the message keeps its place, unless it was withdrawn meanwhile."""
        lease = attempt.lease
        if outcome.why is Why.WITHDRAWN:
            return
        if attempt.may_have_intent:
            await self._write(void_of(attempt, outcome))
        if outcome.why is Why.EXPIRED:
            await self._leave(lease, self._clock.wall_time() + UPKEEP_S)
            return
        if outcome.why is Why.CRASHED:
            crash = count_crash(lease, self._journal)
            await self._write(crash)
            if crash.crashes >= CRASHES_MAX:
                await self._leave(lease, 0.0, f"actors died on it {CRASHES_MAX} times")
                return
            lease = msgspec.structs.replace(lease, crashes=crash.crashes)
        if outcome.why is Why.UNABLE:
            lease = without_lane(lease, attempt.lane)
        elif outcome.until_s:
            self._lanes[attempt.lane].block(outcome.until_s)
        await self._push(lease, is_first=True)

    async def _leave(self, lease: Lease, due_at: float, error: str = "") -> None:
        """Let a message wait on the disk until `due_at`; with an `error` it has failed."""
        ns = tuple(n for n, _ in lease.recipients)
        await self._write(Release(lease.seq, ns, lease.epoch, due_at, error))
        if not error:
            self._claims.expect(lease.stream, due_at)

    # Leases and lanes

    async def _receive(self, lease: Lease) -> None:
        """Let a message wait for a lane; a retry to domains that take nothing now, on the disk."""
        left_s = lease.expires_at - self._clock.wall_time()
        deferring_s = self._domains.deferring_s(lease, self._clock.now_s(), left_s)
        if deferring_s is None:
            await self._push(lease)
            return
        draw = self._ports.entropy.draw("domain", lease.id, lease.epoch)
        hold_s = wait_within_s(hold_time_s(deferring_s, draw), left_s)
        due_at = self._clock.wall_time() + hold_s
        await self._leave(lease, due_at)

    async def _push(self, lease: Lease, *, is_first: bool = False) -> None:
        """Let a message wait for the lanes that may take it; without any it has failed."""
        plan = self._lanes.plan(lease.stream)
        able = plan.carrying(len(lease.recipients), lease.recipients_total)
        lanes = candidates(able, lease.progress)
        if lanes and lease.crashes >= ALONE_FROM:
            if self._suspects.count(lease.stream) < SUSPECTS_KEPT:
                self._suspects.push(lease, lanes)
            else:
                await self._leave(lease, self._clock.wall_time() + PARK_MIN_S)
        elif lanes:
            late_s = max(0.0, self._clock.wall_time() - lease.due_at)
            since_s = self._clock.now_s() - late_s
            self._waiting.push(lease, lanes, since_s=since_s, is_first=is_first)
        else:
            await self._leave(lease, 0.0, "no provider of its route can carry what is left of it")

    def _dispatch(self) -> bool:
        """Give lanes what they take now; False while the disk has no room for intents."""
        now_s = self._clock.now_s()
        is_full = now_s < self._signals.full_until_s.value
        if self._is_outdated or self._lanes.is_draining or is_full:
            return False  # outdated by a reload while this actor waited
        self._panics.look(lambda stream: self._lanes.plan(stream).route, self._lanes)

        def choose(lease: Lease, lanes: tuple[str, ...]) -> Choice | None:
            return self._chooser.choose(lease, lanes, now_s)

        if self._may_send_suspect() and (chosen := self._suspects.pop(choose)):
            self._send(*chosen, now_s)
        for _ in self._chooser.passes():
            while (chosen := self._waiting.pop(choose)) is not None:
                self._send(*chosen, now_s)
        return True

    async def _make_room(self) -> None:
        """Park what fills a stream's window beside a free lane; recall what one may take."""
        now_s, now = self._clock.now_s(), self._clock.wall_time()
        for lease, due_at in self._parking.cut(now_s, now):
            await self._leave(lease, due_at)
        for recall in self._parking.recalls(now_s, now):
            self._parking.sent(recall, await self._write(recall))

    def _send(self, lease: Lease, choice: Choice, now_s: float) -> None:
        id_, reply_to = self._ports.ids.new_id(), self._mailbox.put_nowait
        attempt = Attempt(id_, lease, choice.lane, reply_to, is_panic=choice.is_panic)
        plan, now = self._lanes.plan(lease.stream), self._clock.wall_time()
        attempt.passed_over = passed_over(lease, choice.lane, plan, self._lanes, now_s, now)
        if choice.is_panic:
            self._panics.enter(lease.stream)
            self._journal.note("attempt.panic", level="warning", id=lease.id, provider=choice.lane)
        self._lanes[choice.lane].offer(attempt, now_s)

    # The spool

    async def _write(self, command: Command) -> Reply[Result]:
        return await self._spool.send(command, self._mailbox.nudge)

    async def _ask(self) -> None:
        """Ask for leases where there is room, and for upkeep when it is time."""
        if self._lanes.is_draining:
            self._claims.withdraw_all()
        else:
            await self._claims.ask(self._clock.wall_time(), self._count)
        if self._clock.now_s() >= self._upkeep_s:
            self._upkeep_s = self._clock.now_s() + UPKEEP_S
            self._expire = self._expire or await self._write(Expire(UPKEEP_LIMIT))

    def _leases(self) -> frozenset[tuple[int, int]]:
        return self._waiting.leases() | self._suspects.leases()

    def _may_send_suspect(self) -> bool:
        return bool(self._suspects) and not self._lanes.has_suspect_in_flight

    def _count(self, stream: str) -> int:
        return self._waiting.count(stream) + self._suspects.count(stream)

    async def _read_replies(self) -> None:
        """Take in what the spool has answered."""
        self._parking.read_replies()
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
        """Return when something is to be done without any news (monotonic)."""
        if self._lanes.is_draining or self._is_outdated:
            return self._upkeep_s
        now_s, now = self._clock.now_s(), self._clock.wall_time()
        if now_s < self._signals.full_until_s.value:
            return self._signals.full_until_s.value
        times = [self._upkeep_s, now_s + self._claims.next_due_at(self._count) - now]
        groups = [*self._waiting.groups()]
        if self._may_send_suspect():
            groups += self._suspects.groups()
        times += (self._chooser.next_s(lease, lanes, now_s) for lease, lanes in groups)
        return min(times)
