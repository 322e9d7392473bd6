"""How fast a provider may be asked: never above a quota in any window, hardly ever below it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailactors.dispatch.attempt import Attempt, Done, Stage
from mailactors.dispatch.lane import (
    BreakerState,
    BreakerStatus,
    LaneMessage,
    LearntPace,
    Pause,
    Reset,
    Resume,
)
from mailactors.dispatch.limiter import (
    RETRY_AFTER_MAX_S,
    THROTTLE_WAIT_S,
    Limiter,
    LimiterActor,
    decide_return,
    decide_take,
    is_too_fast,
    new_state,
    next_permit_s,
    permits_now,
)
from mailactors.dispatch.pacing import SHARE
from mailactors.dispatch.quota import Quota
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Reason,
    Rejected,
    Scope,
    Why,
)
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import Faults, SilentJournal
from mailactors.runtime.supervisor import Child, Supervisor
from tests.dispatch.makers import (
    NOW,
    CrashAt,
    NotingEntropy,
    TrioClock,
    make_attempt,
    make_lane,
    make_ports,
    open_outcomes,
)

SENT = Accepted("42")
IGNORED = NotAttempted(Why.CRASHED)
REASON = Reason("slow down", 429)
TOO_FAST = Deferred(Scope.PROVIDER, REASON, throttled=True)

LENGTHS_S = {"per_minute": 60.0, "per_hour": 3600.0, "per_day": 86400.0}


# Properties of the decisions


class Op(NamedTuple):
    """What happens next: wait, then take a few permits, or let one that is out come back."""

    gap: float | Literal["opening", "before"]
    takes: int
    back: Outcome | None
    which: int


gaps = st.one_of(
    st.sampled_from(["opening", "before"]),  # to the very moment of the next permit
    st.sampled_from([0.0, 0.1, 1.0, 59.0, 60.0, 61.0, 1440.0, 3600.0, 86400.0]),
    st.floats(0.0, 100.0),
)
ops = st.builds(
    Op,
    gap=gaps,
    takes=st.integers(0, 12),
    back=st.sampled_from([None, SENT, IGNORED, IGNORED, TOO_FAST]),
    which=st.integers(0, 100),
)
quotas = st.builds(
    Quota,
    per_s=st.none() | st.sampled_from([0.3, 1.0, 3.0, 10.0]) | st.floats(0.1, 100.0),
    burst=st.none() | st.integers(1, 5),
    per_minute=st.none() | st.integers(1, 20),
    per_hour=st.none() | st.integers(1, 40),
    per_day=st.none() | st.integers(1, 60),
)


def moment_after(state: Limiter, now_s: float, gap: float | str) -> float:
    if not isinstance(gap, str):
        return now_s + gap
    opening_s = next_permit_s(state, now_s)
    return opening_s if gap == "opening" else max(now_s, math.nextafter(opening_s, 0.0))


def drive(state: Limiter, begin_s: float, script: Sequence[Op]) -> list[float]:
    """Play a script; return when the permits were given that did not come back ignored."""
    now_s, out, used = begin_s, list[float](), list[float]()
    for op in script:
        now_s = moment_after(state, now_s, op.gap)
        for _ in range(op.takes):
            if decide_take(state, now_s) is None:
                out.append(now_s)
        if op.back is not None and out:
            permit_s = out.pop(op.which % len(out))
            decide_return(state, permit_s, op.back, now_s, 0.0)
            if op.back != IGNORED:
                used.append(permit_s)
    return sorted(used + out)


def most_in_any_window(times_s: Sequence[float], length_s: float) -> int:
    most = first = 0
    for last, at_s in enumerate(times_s):
        while times_s[first] <= at_s - length_s:
            first += 1
        most = max(most, last - first + 1)
    return most


def assert_within(quota: Quota, times_s: Sequence[float]) -> None:
    for name, length_s in LENGTHS_S.items():
        count_max = getattr(quota, name)
        if count_max is not None:
            assert most_in_any_window(times_s, length_s) <= count_max
    if quota.per_s is not None:
        assert highest_level(times_s, quota.per_s) <= quota.burst_count + 1e-6


def highest_level(times_s: Sequence[float], per_s: float) -> float:
    """Return the most of (permits in a window) - (rate · its length), over all windows."""
    level = highest = 0.0
    for earlier_s, later_s in itertools.pairwise([-math.inf, *times_s]):
        level = max(0.0, level - per_s * (later_s - earlier_s)) + 1.0
        highest = max(highest, level)
    return highest


@given(
    quota=quotas,
    begin_s=st.sampled_from([0.0, 59.999999, 1e6 + 0.3]) | st.floats(0.0, 1e7),
    script=st.lists(ops, max_size=60),
)
@example(  # a permit that comes back late must not be taken off a later one's bucket
    quota=Quota(per_minute=2),
    begin_s=5.0,
    script=[
        Op(0.0, 1, None, 0),
        Op(59.5, 1, None, 0),
        Op(0.1, 0, IGNORED, 0),
        Op(1.5, 2, None, 0),
    ],
)
@settings(deadline=None, max_examples=300)
def test_no_window_of_any_length_ever_has_more_permits_than_its_quota(
    quota: Quota, begin_s: float, script: list[Op]
) -> None:
    state = new_state(quota)

    times_s = drive(state, begin_s, script)

    assert_within(quota, times_s)


@given(quota=quotas, script=st.lists(ops, max_size=30), begin_s=st.floats(0.0, 1e7))
@settings(deadline=None, max_examples=100)
def test_a_refusal_names_a_time_at_which_a_permit_is_to_be_had(
    quota: Quota, script: list[Op], begin_s: float
) -> None:
    state = new_state(quota)
    drive(state, begin_s, script)
    now_s = begin_s + 1e6

    while (until_s := decide_take(state, now_s)) is None:
        if quota.model_copy(update={"burst": None}) == Quota():
            return
    again = decide_take(state, until_s)

    assert until_s > now_s
    assert again is None


@given(quota=quotas, script=st.lists(ops, max_size=30))
@settings(deadline=None, max_examples=100)
def test_ignored_attempts_cost_nothing(quota: Quota, script: list[Op]) -> None:
    state = new_state(quota)
    now_s = 0.0
    for op in script:
        now_s = moment_after(state, now_s, op.gap)
        assert decide_take(state, now_s) is None
        decide_return(state, now_s, IGNORED, now_s, 0.0)

    assert now_s == next_permit_s(state, now_s)
    assert all(window.total == 0 for window in state.windows)


@pytest.mark.parametrize("quota", [Quota(per_minute=60), Quota(per_minute=1000)], ids=str)
@pytest.mark.parametrize("demand_s", [0.01, 0.9])
def test_constant_demand_uses_95_percent_of_a_minutes_quota(quota: Quota, demand_s: float) -> None:
    state, now_s, given_count = new_state(quota), 12.3, 0
    assert quota.per_minute is not None
    while now_s < 12.3 + 1800.0:
        until_s = decide_take(state, now_s)
        given_count += until_s is None
        now_s = now_s + demand_s if until_s is None else until_s

    possible = min(quota.per_minute * 30, 1800.0 / demand_s)
    assert given_count >= 0.95 * possible


def test_a_second_has_as_many_permits_as_its_rate_and_a_burst_of_one_spaces_them() -> None:
    state, now_s, times_s = new_state(Quota(per_s=10.0, burst=1)), 0.0, []
    while now_s < 10.0:
        until_s = decide_take(state, now_s)
        times_s.append(now_s)
        now_s = now_s + 0.001 if until_s is None else until_s

    assert len({round(at_s, 1) for at_s in times_s}) >= 99


# Single decisions


def test_two_permits_of_different_times_are_both_given_back() -> None:
    state = new_state(Quota(per_minute=2))
    decide_take(state, 5.0)
    decide_take(state, 6.0)

    decide_return(state, 5.0, IGNORED, 7.0, 0.0)
    decide_return(state, 6.0, IGNORED, 7.0, 0.0)

    assert 7.0 == next_permit_s(state, 7.0)
    assert 2 == permits_now(state, 7.0)


def test_an_idle_limiter_gives_a_seconds_worth_at_once_and_then_the_rate() -> None:
    state = new_state(Quota(per_s=50.0))

    at_once = [decide_take(state, 10.0) for _ in range(51)]

    assert [None] * 50 == at_once[:50]
    assert at_once[50] == pytest.approx(10.02)
    assert 1 == permits_now(state, next_permit_s(state, 10.0))
    assert 25 == pytest.approx(permits_now(state, 10.5), abs=1)


def test_a_permit_from_the_middle_of_a_burst_is_given_back_and_no_more() -> None:
    state = new_state(Quota(per_s=1.0, burst=3))
    for at_s in (0.0, 0.9, 0.95):
        assert decide_take(state, at_s) is None

    decide_return(state, 0.0, IGNORED, 0.96, 0.0)
    one_more, too_many = decide_take(state, 0.96), decide_take(state, 0.96)

    assert one_more is None
    assert too_many == pytest.approx(1.9)  # as if the permits were those of 0.9, 0.95 and 0.96


def test_spacing_is_undone_for_the_latest_permit_only() -> None:
    state = new_state(Quota(per_s=0.1))
    decide_take(state, 0.0)
    decide_take(state, 10.0)

    decide_return(state, 0.0, IGNORED, 11.0, 0.0)
    after_the_first = next_permit_s(state, 11.0)
    decide_return(state, 10.0, IGNORED, 11.0, 0.0)
    after_both = next_permit_s(state, 11.0)

    assert (20.0, 11.0) == (after_the_first, after_both)


@pytest.mark.parametrize(
    ("outcome", "closed_s"),
    [
        (SENT, 0.0),
        (TOO_FAST, THROTTLE_WAIT_S),
        (Deferred(Scope.PROVIDER, REASON, 0.0, True), THROTTLE_WAIT_S),
        (Deferred(Scope.PROVIDER, REASON, 30.0, True), 30.0),
        (Deferred(Scope.PROVIDER, REASON, 30.0), 30.0),
        (Deferred(Scope.PROVIDER, REASON, 1e9), RETRY_AFTER_MAX_S),
        (Deferred(Scope.PROVIDER, REASON), 0.0),
        (Deferred(Scope.RECIPIENT, REASON, 300.0), 0.0),
        (Deferred(Scope.MESSAGE, REASON, 300.0), 0.0),
        (Rejected(Scope.PROVIDER, REASON), 0.0),
        (Accepted("42", {"r1@x.example": TOO_FAST}), THROTTLE_WAIT_S),
        (NotAttempted(Why.BREAKER, 99.0), 0.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("permit_s", [0.0, None], ids=["with-permit", "after-a-crash"])
def test_a_provider_that_says_when_to_come_back_closes_the_limiter(
    outcome: Outcome, closed_s: float, permit_s: float | None
) -> None:
    state = new_state(Quota())
    decide_take(state, 0.0)

    decide_return(state, permit_s, outcome, 5.0, 0.0)

    assert 5.0 + closed_s == next_permit_s(state, 5.0)


def test_a_shorter_wait_does_not_cut_a_longer_one() -> None:
    state = new_state(Quota())
    decide_return(state, None, Deferred(Scope.PROVIDER, REASON, 30.0), 0.0, 0.0)

    decide_return(state, None, TOO_FAST, 1.0, 0.0)

    assert 30.0 == next_permit_s(state, 1.0)


def test_a_paused_limiter_gives_nothing_for_ever() -> None:
    state = new_state(Quota())
    state.is_paused = True

    until_s = decide_take(state, 5.0)

    assert math.inf == until_s


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        (Quota(), 1_000_000),
        (Quota(per_s=5), 5),
        (Quota(per_s=5, burst=2), 2),
        (Quota(per_s=0.1), 1),
        (Quota(per_minute=7), 7),
        (Quota(per_minute=7, per_hour=3), 3),
        (Quota(per_s=5, per_minute=7), 5),
        (Quota(per_s=50, per_minute=7), 7),
    ],
    ids=str,
)
def test_permits_now_are_what_the_tightest_limit_leaves(quota: Quota, expected: int) -> None:
    assert expected == permits_now(new_state(quota), 0.0)


# The actor


async def no_attempts(_lane: str, _since: float, _bucket_s: float) -> dict[int, int]:
    await trio.lowlevel.checkpoint()
    return {}


class Listening(SilentJournal):
    """Keeps what the limiter said."""

    def __init__(self, notes: list[tuple[str, dict[str, Any]]]) -> None:
        self._notes = notes

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        self._notes.append((event, facts))


class Bench:
    """A limiter under a supervisor; the test plays breaker, provider and dispatcher."""

    def __init__(self, quota: Quota, faults: Faults | None = None) -> None:
        self.outcomes = open_outcomes()
        self.lane = make_lane(concurrency_max=32)
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.entropy = NotingEntropy()
        ports = dataclasses.replace(
            make_ports(faults), journal=Listening(self.notes), entropy=self.entropy
        )

        def build() -> LimiterActor:
            return LimiterActor(self.lane, quota, no_attempts, ports)

        child = Child("limiter", build, (self.lane.limiter_mailbox,))
        self.supervisor = Supervisor([child], ports.clock, SilentJournal())

    async def start(self, nursery: trio.Nursery) -> None:
        await nursery.start(lambda task_status: self.supervisor.run(task_status=task_status))

    async def say(self, *messages: LaneMessage) -> None:
        for message in messages:
            self.lane.limiter_mailbox.put_nowait(message)
        await trio.testing.wait_all_tasks_blocked()

    def attempt(self, number: int = 1, *, is_panic: bool = False) -> Attempt:
        reply_to = self.outcomes.put_nowait
        return make_attempt(self.lane, number, is_panic=is_panic, reply_to=reply_to)

    async def passed(self) -> list[LaneMessage]:
        return await drained(self.lane.breaker_mailbox)

    async def refused(self) -> list[Outcome]:
        return [done.outcome for done in await drained(self.outcomes)]


async def drained(mailbox: Mailbox[Done] | Mailbox[LaneMessage]) -> list[Any]:
    mailbox.nudge()
    await mailbox.wait()
    return list(mailbox.take())


@pytest.mark.parametrize("state", [BreakerState.OPEN, BreakerState.DISABLED])
async def test_an_open_breaker_costs_no_permit(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, state: BreakerState
) -> None:
    bench = Bench(Quota(per_minute=1))
    await bench.start(nursery)
    bench.lane.breaker_status.publish(BreakerStatus(state, until_s=100.0))

    await bench.say(bench.attempt(1))
    refused = await bench.refused()
    bench.lane.breaker_status.publish(BreakerStatus())
    second = bench.attempt(2)
    await bench.say(second)

    assert [NotAttempted(Why.BREAKER, 100.0)] == refused
    assert [second] == await bench.passed()


async def test_an_attempt_in_panic_passes_an_open_breaker_but_not_an_empty_quota(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(Quota(per_minute=1))
    await bench.start(nursery)
    bench.lane.breaker_status.publish(BreakerStatus(BreakerState.OPEN, until_s=100.0))
    first, second = bench.attempt(1, is_panic=True), bench.attempt(2, is_panic=True)

    await bench.say(first, second)

    assert [first] == await bench.passed()
    assert [NotAttempted(Why.LIMITER, 61.0)] == await bench.refused()


async def test_a_breaker_whose_time_is_over_lets_a_probe_through(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(Quota())
    await bench.start(nursery)
    bench.lane.breaker_status.publish(BreakerStatus(BreakerState.OPEN, until_s=5.0))
    await trio.sleep(5.0)
    probe = bench.attempt()

    await bench.say(probe)

    assert [probe] == await bench.passed()


async def test_an_ignored_end_gives_the_permit_back_before_the_dispatcher_hears_of_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(Quota(per_minute=1))
    await bench.start(nursery)
    attempt = bench.attempt()
    await bench.say(attempt)
    taken = bench.lane.limiter_status.value

    await bench.say(Done(attempt, IGNORED, 0.0))

    assert 61.0 == taken.next_permit_s
    assert bench.lane.limiter_status.value.next_permit_s < 0.0
    assert [IGNORED] == await bench.refused()


async def test_pause_and_resume_are_published(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(Quota())
    await bench.start(nursery)

    await bench.say(Pause(), bench.attempt())
    paused, refused = bench.lane.limiter_status.value, await bench.refused()
    await bench.say(Resume())

    assert (True, math.inf) == (paused.is_paused, paused.next_permit_s)
    assert [NotAttempted(Why.PAUSED, math.inf)] == refused
    assert not bench.lane.limiter_status.value.is_paused


async def test_a_reset_lifts_what_the_provider_asked_for(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(Quota())
    await bench.start(nursery)
    attempt = bench.attempt()
    await bench.say(attempt, Done(attempt, Deferred(Scope.PROVIDER, REASON, 600.0), 0.0))
    closed = bench.lane.limiter_status.value

    await bench.say(Reset())

    assert 600.0 <= closed.next_permit_s <= 660.0
    assert bench.lane.limiter_status.value.next_permit_s <= 0.0


# After a crash, after a restart


async def test_a_crash_neither_resumes_a_pause_nor_forgets_a_retry_after(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    paused = Bench(Quota(), CrashAt("limiter.attempt"))
    throttled = Bench(Quota(), CrashAt("limiter.attempt"))
    await paused.start(nursery)
    await throttled.start(nursery)
    end = Done(throttled.attempt(1), Deferred(Scope.PROVIDER, REASON, 600.0), 0.0)

    await paused.say(Pause(), paused.attempt())
    await throttled.say(end, throttled.attempt(2))

    assert paused.lane.limiter_status.value.is_paused
    assert 600.0 <= throttled.lane.limiter_status.value.next_permit_s <= 660.0


async def test_a_crash_does_not_give_permits_again_that_are_not_yet_in_the_spool(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    faults = CrashAt("limiter.reset")
    bench = Bench(Quota(per_minute=3), faults)
    await bench.start(nursery)
    queued, connecting = bench.attempt(1), bench.attempt(2)
    await bench.say(queued, connecting)
    connecting.stage = Stage.CONNECTING

    await bench.say(Reset())
    after_crash = bench.lane.limiter_status.value.permits
    await bench.say(Done(queued, IGNORED, 0.0), Done(connecting, SENT, 0.0))

    assert 0 == faults.times
    assert 1 == after_crash
    assert 2 == bench.lane.limiter_status.value.permits


class Restored(NamedTuple):
    """A past, and when the successor starts."""

    intents_ago_s: list[float]
    wall_offset_s: float


def restored_state(quota: Quota, past: Restored) -> Limiter:
    """Start a limiter on a spool that has these intents; return its state."""
    wall_now = NOW + past.wall_offset_s

    class Clock(TrioClock):
        def wall_time(self) -> float:
            return wall_now

    async def count(_lane: str, since: float, bucket_s: float) -> dict[int, int]:
        await trio.lowlevel.checkpoint()
        started = [wall_now - ago_s for ago_s in past.intents_ago_s]
        return Counter(int(at // bucket_s) for at in started if at >= since)

    async def main() -> Limiter:
        lane = make_lane()
        ports = dataclasses.replace(make_ports(), clock=Clock())
        actor = LimiterActor(lane, quota, count, ports)
        await actor._restore()
        return actor._state

    clock = trio.testing.MockClock(autojump_threshold=0)
    clock.jump(1e5 + 0.7)
    return trio.run(main, clock=clock)


@given(
    per_minute=st.integers(1, 10),
    intents_ago_s=st.lists(st.floats(0.0, 70.0), max_size=15),
    wall_offset_s=st.floats(0.0, 60.0),
    script=st.lists(ops.filter(lambda op: op.back != TOO_FAST), max_size=20),
)
@settings(deadline=None, max_examples=100)
def test_a_restart_never_refills_a_quota(
    per_minute: int, intents_ago_s: list[float], wall_offset_s: float, script: list[Op]
) -> None:
    # What a predecessor gave kept to the quota, too.
    past = sorted(-ago_s for ago_s in intents_ago_s)[-per_minute:]
    quota, begin_s = Quota(per_minute=per_minute), 1e5 + 0.7
    state = restored_state(quota, Restored([-at_s for at_s in past], wall_offset_s))

    times_s = drive(state, begin_s, script)

    all_s = [begin_s + at_s for at_s in past] + times_s
    assert most_in_any_window(all_s, 60.0 - 1e-6) <= per_minute


@pytest.mark.parametrize(("ago_s", "left"), [([], 8), ([0.2, 0.9, 1.1], 6), ([0.1] * 12, 0)])
def test_a_restart_does_not_refill_a_burst(ago_s: list[float], left: int) -> None:
    state = restored_state(Quota(per_s=8.0), Restored(ago_s, 0.0))

    taken = [decide_take(state, 1e5 + 0.7) for _ in range(8)]

    assert left == taken.count(None)


@given(
    intents=st.lists(ops.filter(lambda op: op.back != TOO_FAST), max_size=30),
    quota=st.builds(Quota, per_s=st.floats(0.2, 100.0), burst=st.none() | st.integers(1, 9)),
    rest_s=st.floats(0.0, 3.0),
    script=st.lists(ops.filter(lambda op: op.back != TOO_FAST), max_size=20),
)
@settings(deadline=None, max_examples=100)
def test_what_a_limiter_and_its_successor_give_keeps_to_the_rate(
    intents: list[Op], quota: Quota, rest_s: float, script: list[Op]
) -> None:
    begin_s = 1e5 + 0.7
    given_s = drive(new_state(quota), 0.0, intents)
    ago_s = [given_s[-1] + rest_s - at_s for at_s in given_s]
    state = restored_state(quota, Restored(ago_s, 0.0))

    times_s = drive(state, begin_s, script)

    all_s = [begin_s - each_s for each_s in ago_s] + times_s
    assert quota.per_s is not None
    assert highest_level(all_s, quota.per_s) <= quota.burst_count + 1e-6 * len(all_s)


# A learnt pace


def refuse_too_fast(bench: Bench, first: int, count: int) -> list[LaneMessage]:
    """Return the ends of attempts that had their permits and were too fast."""
    ids = [f"attempt-{number}" for number in range(first, first + count)]
    return [Done(bench.lane.in_flight[each], TOO_FAST, 0.0) for each in ids]


async def learn(bench: Bench) -> LearntPace:
    """Let ten attempts of a second be served and ten refused; return what is published."""
    await bench.say(*(bench.attempt(number) for number in range(20)))
    served = (Done(bench.lane.in_flight[f"attempt-{n}"], SENT, 0.0) for n in range(10))
    await bench.say(*served, *refuse_too_fast(bench, 10, 10))
    await trio.sleep(1.5)
    await bench.say(bench.attempt(99))  # the lesson is over with the first permit after it
    learnt = bench.lane.limiter_status.value.learnt
    assert learnt is not None
    return learnt


async def test_a_learnt_pace_spaces_permits_and_is_published_and_told(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(Quota())
    await bench.start(nursery)
    before = bench.lane.limiter_status.value.learnt

    learnt = await learn(bench)

    pace = bench.lane.limiter_status.value
    assert before is None
    assert (SHARE * 10.0, 10.0) == (learnt.per_s, learnt.limit_per_s)
    assert pace.next_permit_s == pytest.approx(trio.current_time() + 1.0 / 9.5)
    assert 1 == pace.permits
    assert ["pace.learnt"] == [event for event, _ in bench.notes]
    assert {"provider": "primary", "per_s": 9.5} == {
        name: bench.notes[0][1][name] for name in ("provider", "per_s")
    }


async def test_a_crash_does_not_forget_a_learnt_pace(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(Quota())
    await bench.start(nursery)
    learnt = await learn(bench)

    bench.supervisor.crash("limiter")
    await trio.testing.wait_all_tasks_blocked()
    await bench.say(bench.attempt(100))

    assert learnt == bench.lane.limiter_status.value.learnt
    assert bench.lane.limiter_status.value.next_permit_s == pytest.approx(
        trio.current_time() + 1.0 / 9.5
    )
    assert 1 == len(bench.notes)


async def test_a_reset_forgets_a_learnt_pace(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(Quota())
    await bench.start(nursery)
    await learn(bench)
    await bench.passed()

    await bench.say(Reset())
    await bench.say(*(bench.attempt(number) for number in range(100, 105)))

    assert bench.lane.limiter_status.value.learnt is None
    assert 5 == len(await bench.passed())
    assert ["pace.learnt", "pace.forgotten"] == [event for event, _ in bench.notes]


async def test_refusals_that_come_after_their_lesson_teach_nothing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(Quota())
    await bench.start(nursery)
    await bench.say(*(bench.attempt(number) for number in range(50, 55)))
    learnt = await learn(bench)

    await bench.say(*refuse_too_fast(bench, 50, 5))
    await trio.sleep(1.5)
    await bench.say(bench.attempt(100))

    assert learnt == bench.lane.limiter_status.value.learnt


def test_a_learnt_pace_never_speeds_up_a_quota() -> None:
    state = new_state(Quota(per_s=2))
    state.pacing.learnt = LearntPace(100.0, 100.0, 0.0, 0.0, 10.0)

    for at_s in (5.0, 5.01):
        assert decide_take(state, at_s) is None

    assert 5.5 == next_permit_s(state, 5.01)


def test_at_a_learnt_pace_there_is_no_burst() -> None:
    state = new_state(Quota(per_s=50))
    state.pacing.learnt = LearntPace(10.0, 10.0, 0.0, 5.0, 10.0)

    first, second = decide_take(state, 5.0), decide_take(state, 5.0)

    assert (None, 5.1) == (first, second)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (SENT, False),
        (TOO_FAST, True),
        (IGNORED, False),
        (Deferred(Scope.PROVIDER, REASON, 30.0), False),
        (Deferred(Scope.RECIPIENT, REASON, throttled=True), False),
        (Accepted("42", {"a@x.example": TOO_FAST}), True),
    ],
    ids=str,
)
def test_only_too_fast_by_the_provider_teaches_a_pace(outcome: Outcome, expected: bool) -> None:
    assert expected is is_too_fast(outcome)


async def test_each_attempt_has_a_draw_of_its_own(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(Quota())
    await bench.start(nursery)

    attempts = [bench.attempt(number) for number in (1, 2, 3)]
    await bench.say(*attempts)
    now_s = trio.current_time()
    await bench.say(*(Done(each, Accepted("42"), now_s) for each in attempts))

    assert 3 == len(bench.entropy.keys) == len(set(bench.entropy.keys))
