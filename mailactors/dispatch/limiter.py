"""The limiter of a lane: how fast a provider may be asked.

Owns the permits. Per second it is GCRA with a burst, a second's worth by default: in any window of
length L it never gives more than burst + L·rate permits. Per minute, hour and day it counts in
sliding windows, which have no burst. A 429 or a Retry-After closes it for the time asked, and a 429
teaches it a pace (`pacing`), at which permits are spaced evenly: where the provider refused, there
is no room for bursts.

Never refills by crashing: a successor counts the intents in the spool.

Source: GCRA, ITU-T I.371 annex A; https://brandur.org/rate-limiting.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Final, assert_never

import trio

from mailactors.dispatch.attempt import Attempt, Done, Stage
from mailactors.dispatch.lane import (
    NEVER_S,
    BreakerState,
    Lane,
    LimiterStatus,
    Pause,
    Reset,
    Resume,
    reply,
)
from mailactors.dispatch.pacing import (
    PacingState,
    forget,
    interval_at,
    is_forgotten,
    is_notable,
    learn,
    note_refused,
    note_served,
)
from mailactors.dispatch.quota import Quota
from mailactors.dispatch.subjects import subjects_of
from mailactors.model.outcome import (
    Deferred,
    NotAttempted,
    Outcome,
    Scope,
    Why,
    split_by_recipient,
)
from mailactors.runtime.ports import Ports
from mailactors.runtime.window import Window

THROTTLE_WAIT_S: Final = 1.0
"""How long to keep away from a provider that said "too fast" without a Retry-After."""
RETRY_AFTER_JITTER: Final = 0.1
RETRY_AFTER_MAX_S: Final = 3600.0
"""A longer Retry-After is kept for this long; then the provider is tried again."""


@dataclass
class Limiter:
    """What a limiter remembers. Times are monotonic."""

    interval_s: float
    """Between permits in the long run; 0 for no limit on the second."""
    burst_count: int
    """Permits that may be given at once after a pause."""
    windows: list[Window]
    theoretical_arrival_s: float = NEVER_S
    """GCRA's TAT: when all permits of the burst are there again."""
    base_s: float = NEVER_S
    """The TAT before the permits in `given_s`."""
    given_s: deque[float] = field(default_factory=deque)
    """When the latest permits were given, as many as a burst: those that can be given back."""
    spaced_until_s: float = NEVER_S
    """Before it a learnt pace gives no permit."""
    latest_s: float = NEVER_S
    """When the latest permit was given; at a learnt pace no two have the same time."""
    closed_until_s: float = NEVER_S
    is_paused: bool = False
    pacing: PacingState = field(default_factory=PacingState)
    blamed: frozenset[str] | None = None
    """The subjects of every refusal that taught the present pace; None before one did."""


def new_state(quota: Quota) -> Limiter:
    """Return a limiter that has given nothing yet."""
    lengths = ((60.0, quota.per_minute), (3600.0, quota.per_hour), (86400.0, quota.per_day))
    windows = [Window(length_s, count) for length_s, count in lengths if count is not None]
    return Limiter(1.0 / quota.per_s if quota.per_s else 0.0, quota.burst_count, windows)


def next_permit_s(state: Limiter, now_s: float) -> float:
    """Return when the next permit is available; not before now, `inf` when paused."""
    if state.is_paused:
        return float("inf")
    burst_s = (state.burst_count - 1) * state.interval_s
    earliest = max(now_s, state.theoretical_arrival_s - burst_s)
    earliest = max(earliest, state.spaced_until_s, state.closed_until_s)
    return max([earliest, *(window.opens_at_s(now_s) for window in state.windows)])


def decide_take(state: Limiter, now_s: float) -> float | None:
    """Take a permit: None, or the time at which asking again makes sense."""
    at_s = next_permit_s(state, now_s)
    if at_s > now_s:
        return at_s
    learn(state.pacing, now_s)
    if is_forgotten(state.pacing, now_s):
        forget_pace(state, now_s)
    state.spaced_until_s = now_s + interval_at(state.pacing, now_s)
    if state.interval_s:
        state.given_s.append(now_s)
        if len(state.given_s) > state.burst_count:
            state.base_s = after_permit(state, state.base_s, state.given_s.popleft())
        arrival_s = after_permit(state, state.theoretical_arrival_s, now_s)
        state.theoretical_arrival_s = arrival_s
    for window in state.windows:
        window.add(now_s, 1)
    state.latest_s = now_s
    return None


def after_permit(state: Limiter, arrival_s: float, permit_s: float) -> float:
    """Return the TAT after a permit, from the one before it."""
    return max(arrival_s, permit_s) + state.interval_s


def give_back(state: Limiter, permit_s: float, now_s: float) -> None:
    """Undo a permit as if it had never been given; one older than a burst stays given.

    A learnt pace is undone for the latest permit only: later ones were spaced from it.
    """
    if permit_s == state.latest_s:
        state.spaced_until_s = now_s
    if permit_s in state.given_s:
        state.given_s.remove(permit_s)
        after = partial(after_permit, state)
        state.theoretical_arrival_s = reduce(after, state.given_s, state.base_s)
    for window in state.windows:
        window.take_back(permit_s)


def decide_return(
    state: Limiter,
    permit_s: float | None,
    outcome: Outcome,
    now_s: float,
    draw: float,
    subjects: frozenset[str] = frozenset(),
    own: frozenset[str] = frozenset(),
) -> None:
    """Learn from an attempt's end; an ignored one gives back its permit, given at `permit_s`.

    What the provider asks for is a lower bound; jitter keeps many gateways from coming back in
    step. `own` are those of the attempt's `subjects` whose own limit it met: that teaches nothing
    of the lane, and a pace is forgotten that only they have taught.
    """
    if own:
        if state.blamed is not None and own & state.blamed:
            forget_pace(state, now_s)
    elif not isinstance(outcome, NotAttempted):
        asked_s = asked_wait_s(outcome)
        wait_s = asked_s * (1.0 + RETRY_AFTER_JITTER * draw)
        state.closed_until_s = max(state.closed_until_s, now_s + wait_s)
        if is_too_fast(outcome):
            state.blamed = subjects if state.blamed is None else state.blamed & subjects
            note_refused(state.pacing, now_s if permit_s is None else permit_s, asked_s, now_s)
        elif permit_s is not None:
            note_served(state.pacing, permit_s)
    elif permit_s is not None:
        give_back(state, permit_s, now_s)


def forget_provider(state: Limiter, now_s: float) -> None:
    """Forget the provider's Retry-After and the learnt pace; the quota stands."""
    state.closed_until_s = now_s
    forget_pace(state, now_s)


def forget_pace(state: Limiter, now_s: float) -> None:
    """Forget the learnt pace and who taught it."""
    state.spaced_until_s = now_s
    state.blamed = None
    forget(state.pacing)


def asked_wait_s(outcome: Outcome) -> float:
    """Return for how long a provider asks us to keep away, 0 for not at all.

    A `Retry-After: 0` with a "too fast" is not believed: the message would go out again at once.
    """
    if isinstance(outcome, NotAttempted):
        return 0.0
    longest_s = 0.0
    for each in (outcome, *outcome.refused.values()):
        if isinstance(each, Deferred) and each.scope is Scope.PROVIDER:
            throttle_s = THROTTLE_WAIT_S if each.throttled else 0.0
            longest_s = max(longest_s, throttle_s, each.retry_after_s or 0.0)
    return min(longest_s, RETRY_AFTER_MAX_S)


def is_too_fast(outcome: Outcome) -> bool:
    """Whether a provider refused an attempt, or a part of it, as too fast."""
    if isinstance(outcome, NotAttempted):
        return False
    parts = (outcome, *outcome.refused.values())
    return any(
        isinstance(each, Deferred) and each.scope is Scope.PROVIDER and each.throttled
        for each in parts
    )


def permits_now(state: Limiter, now_s: float) -> int:
    """Return how many permits the next opening gives before the state must be asked again."""
    if state.pacing.learnt is not None or state.pacing.lesson is not None:
        return 1
    room = [window.count_max - window.total for window in state.windows]
    if state.interval_s:
        lacking_s = max(0.0, state.theoretical_arrival_s - now_s)
        room.append(state.burst_count - math.ceil(lacking_s / state.interval_s))
    return max(1, min(room, default=LimiterStatus().permits))


async def count_given(
    state: Limiter,
    count_since: Callable[[float, float], Awaitable[dict[int, int]]],
    wall_now: float,
) -> int:
    """Return how many permits of the burst are not there, by the intents of its length.

    Before them the TAT was not later than now, so that each of them puts it off by one interval.
    """
    if not state.interval_s:
        return 0
    burst_s = state.burst_count * state.interval_s
    return min(state.burst_count, sum((await count_since(wall_now - burst_s, burst_s)).values()))


class LimiterActor:
    """Takes permits for attempts that go to the provider, and learns from their ends."""

    def __init__(
        self,
        lane: Lane,
        quota: Quota,
        count_attempts: Callable[[str, float, float], Awaitable[dict[int, int]]],
        ports: Ports,
    ) -> None:
        self._lane = lane
        self._state = new_state(quota)
        self._count_attempts = count_attempts
        self._clock = ports.clock
        self._entropy = ports.entropy
        self._faults = ports.faults
        self._journal = ports.journal
        self._noted = lane.limiter_status.value.learnt
        """The learnt pace that the journal has."""

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Restore what was given before, then serve."""
        await self._restore()
        self._publish()
        task_status.started()
        while True:
            await self._lane.limiter_mailbox.wait()
            try:
                self._take_turn()
            finally:
                self._publish()  # once, and before any reader of what was passed on has its turn

    def _take_turn(self) -> None:
        """Handle what is there; nobody else runs meanwhile."""
        for item in self._lane.limiter_mailbox.take():
            self._faults.point(f"limiter.{type(item).__name__.lower()}")
            match item:
                case Attempt():
                    self._go_down(item)
                case Done():
                    self._come_up(item)
                case Pause() | Resume():
                    self._lane.is_paused = isinstance(item, Pause)
                    self._state.is_paused = self._lane.is_paused
                    self._publish()
                    item.done.resolve(None)
                case Reset():
                    forget_provider(self._state, self._clock.now_s())
                    self._lane.subjects.clear()
                    self._publish()
                    item.done.resolve(None)
                case _:
                    assert_never(item)

    async def _restore(self) -> None:
        """Count the intents of the past: neither a crash nor a restart refills a quota.

        Attempts that are past the limiter but maybe not yet in the spool count too, as of now.
        What the provider asked for stands as a predecessor published it.
        """
        wall_now, now_s = self._clock.wall_time(), self._clock.now_s()
        count_since = partial(self._count_attempts, self._lane.name)
        granted = [a for a in self._lane.in_flight.values() if a.permit_s is not None]
        unsent = [a for a in granted if a.stage is not Stage.SENDING]
        for window in self._state.windows:
            since = wall_now - window.length_s
            counts = await count_since(since, window.bucket_s)
            for number, count in sorted(counts.items()):
                ended_ago_s = max(0.0, wall_now - (number + 1) * window.bucket_s)
                window.add(now_s - ended_ago_s, count)
            window.add(now_s, len(unsent))
        for attempt in granted:
            attempt.permit_s = now_s if attempt in unsent else None
        lacking = await count_given(self._state, count_since, wall_now) + len(unsent)
        lacking = min(lacking, self._state.burst_count)
        self._state.base_s = now_s + lacking * self._state.interval_s
        self._state.theoretical_arrival_s = self._state.base_s
        self._state.is_paused = self._lane.is_paused
        self._state.closed_until_s = self._lane.asked_until_s
        self._state.pacing.learnt = self._lane.limiter_status.value.learnt

    def _go_down(self, attempt: Attempt) -> None:
        now_s = self._clock.now_s()
        breaker = self._lane.breaker_status.value
        is_shut = (
            breaker.state in {BreakerState.OPEN, BreakerState.DISABLED} and now_s < breaker.until_s
        )
        if is_shut and not attempt.is_panic:
            self._refuse(attempt, NotAttempted(Why.BREAKER, breaker.until_s), now_s)
            return
        until_s = decide_take(self._state, now_s)
        if until_s is None:
            attempt.permit_s = now_s
            self._lane.breaker_mailbox.put_nowait(attempt)
        else:
            why = Why.PAUSED if self._state.is_paused else Why.LIMITER
            self._refuse(attempt, NotAttempted(why, until_s), now_s)

    def _come_up(self, done: Done) -> None:
        attempt, now_s = done.attempt, self._clock.now_s()
        permit_s, attempt.permit_s = attempt.permit_s, None
        draw = self._entropy.draw("limiter", self._lane.name, attempt.id)
        addresses, sender = [address for _, address in attempt.recipients], attempt.lease.sender
        own: frozenset[str] = frozenset()
        if permit_s is not None:
            apart = split_by_recipient(done.outcome, addresses)
            own = self._lane.subjects.note(apart, sender, permit_s, now_s)
        attempt.own_limits = own
        subjects = subjects_of(addresses, sender)
        if isinstance(done.outcome, NotAttempted):
            self._publish()  # a permit that was taken and given back in one turn is news, too
        decide_return(self._state, permit_s, done.outcome, now_s, draw, subjects, own)
        reply(done)

    def _refuse(self, attempt: Attempt, outcome: NotAttempted, now_s: float) -> None:
        reply(Done(attempt, outcome, now_s))

    def _publish(self) -> None:
        now_s = self._clock.now_s()
        self._lane.asked_until_s = self._state.closed_until_s
        at_s = next_permit_s(self._state, now_s)
        self._lane.limiter_status.publish(
            LimiterStatus(
                # A time that has passed is always the same one: else each publication was news.
                next_permit_s=at_s if at_s > now_s else NEVER_S,
                permits=permits_now(self._state, max(at_s, now_s)),
                full_s=self._state.theoretical_arrival_s,
                is_paused=self._state.is_paused,
                learnt=self._state.pacing.learnt,
            )
        )
        self._tell()

    def _tell(self) -> None:
        """Note in the journal a learnt pace that changed by much."""
        learnt = self._state.pacing.learnt
        if not is_notable(self._noted, learnt):
            return
        self._noted = learnt
        if learnt is None:
            self._journal.note("pace.forgotten", provider=self._lane.name)
        else:
            self._journal.note(
                "pace.learnt",
                level="warning",
                provider=self._lane.name,
                per_s=round(learnt.per_s, 3),
                refused_at_per_s=round(learnt.limit_per_s, 3),
                for_s=learnt.patience_s,
            )
