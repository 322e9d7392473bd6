"""Whether to ask a provider: the table of states, its probes, and that it never wedges."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailactors.dispatch.attempt import Done, Stage
from mailactors.dispatch.breaker import (
    DEAD_IN_A_ROW,
    DISABLED_S,
    FAILURES_IN_A_ROW_MAX,
    Breaker,
    BreakerActor,
    close,
    decide_admit,
    decide_age,
    decide_end,
    next_age_s,
    probes_free,
)
from mailactors.dispatch.breaker_settings import (
    JITTER,
    SLOW_OPEN_CAPS,
    SLOW_PROBE_FACTOR,
    BreakerSettings,
    open_time_s,
)
from mailactors.dispatch.concurrency import FLOOR, RAMP_S, new_concurrency
from mailactors.dispatch.lane import BreakerState, LaneMessage, Pause, Reset
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Reason,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.model.outcome import Phase as Lost
from mailactors.runtime.ports import Faults, SilentJournal
from mailactors.runtime.supervisor import Child, Supervisor
from tests.dispatch.makers import CrashAt, make_attempt, make_lane, make_ports

DEFAULTS = BreakerSettings()
REASON = Reason("because")
SENT = Accepted("42")
DOWN = Deferred(Scope.PROVIDER, REASON)
KEY_REVOKED = Rejected(Scope.PROVIDER, REASON)
IGNORED = NotAttempted(Why.SPOOL)
HEALTHY: dict[str, Outcome] = {
    "accepted": SENT,
    **{
        f"{kind.__name__}-{scope.value}".lower(): kind(scope, REASON)
        for kind in (Deferred, Rejected)
        for scope in (Scope.RECIPIENT, Scope.DOMAIN, Scope.MESSAGE)
    },
}
UNHEALTHY: dict[str, Outcome] = {
    "deferred-provider": DOWN,
    "uncertain": Uncertain(Lost.FINAL, REASON),
}
SILENT: dict[str, Outcome] = {
    "throttled": Deferred(Scope.PROVIDER, REASON, throttled=True),
    "not-attempted": IGNORED,
}
NOW_S = 1000.0
LAST_DRAW = 1.0 - 2.0**-53


def call(
    state: Breaker,
    outcome: Outcome,
    now_s: float,
    *,
    took_s: float = 0.0,
    using: BreakerSettings = DEFAULTS,
    draw: float = 0.5,
) -> None:
    """Admit an attempt that ends at `now_s`."""
    name = f"call-{now_s}-{len(state.in_flight)}"
    assert decide_admit(state, using, name, False, now_s - took_s) is None
    decide_end(state, using, name, outcome, now_s, draw)


# The table: every state, every event


def gate_closed() -> Breaker:
    state = Breaker()
    state.in_flight["late"] = NOW_S - 1.0
    return state


def gate_open() -> Breaker:
    state = gate_closed()
    state.state, state.until_s, state.opened_count = BreakerState.OPEN, NOW_S + 5.0, 1
    return state


def gate_half_open() -> Breaker:
    state = gate_open()
    state.until_s = NOW_S - 1.0
    assert decide_admit(state, DEFAULTS, "probe", False, NOW_S - 1.0) is None
    return state


def gate_disabled() -> Breaker:
    state = gate_open()
    state.state, state.until_s = BreakerState.DISABLED, NOW_S + DISABLED_S
    return state


def ends(attempt_id: str, outcome: Outcome) -> Callable[[Breaker], None]:
    return lambda state: decide_end(state, DEFAULTS, attempt_id, outcome, NOW_S, 0.5)


def asks(now_s: float, *, is_panic: bool = False) -> Callable[[Breaker], None]:
    return lambda state: void(decide_admit(state, DEFAULTS, "new", is_panic, now_s))


def void(_value: object) -> None:
    """Drop a value that a test looks at elsewhere."""


BREAKERS = {
    BreakerState.CLOSED: gate_closed,
    BreakerState.OPEN: gate_open,
    BreakerState.HALF_OPEN: gate_half_open,
    BreakerState.DISABLED: gate_disabled,
}
EVENTS: dict[str, Callable[[Breaker], None]] = {
    "asked": asks(NOW_S),
    "asked much later": asks(NOW_S + 1e5),
    "asked in panic": asks(NOW_S + 1e5, is_panic=True),
    "late success": ends("late", SENT),
    "late failure": ends("late", DOWN),
    "late silence": ends("late", IGNORED),
    "late refusal of us": ends("late", KEY_REVOKED),
    "probe's success": ends("probe", SENT),
    "probe's failure": ends("probe", DOWN),
    "probe's silence": ends("probe", IGNORED),
    "probe's refusal of us": ends("probe", KEY_REVOKED),
    "age": lambda state: decide_age(state, DEFAULTS, NOW_S + 100.0, 0.5),
    "reset": lambda state: close(state, NOW_S),
}
C, O, H, D = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.DISABLED  # noqa: E741
TABLE = {
    #                        closed open half disabled
    "asked": (C, O, H, D),
    "asked much later": (C, H, H, H),
    "asked in panic": (C, O, H, D),
    "late success": (C, O, H, D),
    "late failure": (C, O, H, D),
    "late silence": (C, O, H, D),
    "late refusal of us": (D, D, D, D),
    "probe's success": (C, O, H, D),
    "probe's failure": (C, O, O, D),
    "probe's silence": (C, O, H, D),
    "probe's refusal of us": (D, D, D, D),
    "age": (C, O, O, D),
    "reset": (C, C, C, C),
}
ROWS = [
    (before, event, after)
    for event, row in TABLE.items()
    for before, after in zip((C, O, H, D), row, strict=True)
]


@pytest.mark.parametrize(("before", "event", "after"), ROWS)
def test_each_state_moves_on_each_event_as_the_table_says(
    before: BreakerState, event: str, after: BreakerState
) -> None:
    state = BREAKERS[before]()

    EVENTS[event](state)

    assert after is state.state


def test_the_table_has_a_row_for_every_event() -> None:
    assert set(EVENTS) == set(TABLE)


@pytest.mark.parametrize(
    ("before", "at_s", "expected"),
    [
        (BreakerState.CLOSED, NOW_S, None),
        (BreakerState.OPEN, NOW_S, NOW_S + 5.0),
        (BreakerState.OPEN, NOW_S + 5.0, None),
        (BreakerState.HALF_OPEN, NOW_S, None),
        (BreakerState.DISABLED, NOW_S, NOW_S + DISABLED_S),
        (BreakerState.DISABLED, NOW_S + DISABLED_S, None),
    ],
)
def test_a_refusal_says_when_to_ask_again(
    before: BreakerState, at_s: float, expected: float | None
) -> None:
    state = BREAKERS[before]()

    actual = decide_admit(state, DEFAULTS, "new", False, at_s)

    assert expected == actual


# Reasons to open


def test_it_opens_on_the_failure_rate_once_there_are_enough_calls() -> None:
    state = Breaker()
    states = []

    for number in range(20):
        call(state, SENT if number % 2 else DOWN, NOW_S + number)
        states.append(state.state)

    assert [BreakerState.CLOSED] * 19 + [BreakerState.OPEN] == states


def test_it_stays_closed_below_the_failure_rate() -> None:
    state = Breaker()

    for number in range(500):
        call(state, SENT if number % 9 < 5 else DOWN, NOW_S + number / 10)

    assert BreakerState.CLOSED is state.state


def test_failures_that_left_the_window_are_forgotten() -> None:
    state = Breaker()
    for number in range(9):
        call(state, DOWN, NOW_S + number / 10)

    call(state, SENT, NOW_S + 100.0)

    assert (1, 0) == (state.calls.successes, state.calls.failures)


def test_it_opens_on_a_run_of_failures_before_there_are_enough_calls() -> None:
    state = Breaker()
    states = []

    for number in range(FAILURES_IN_A_ROW_MAX):
        call(state, DOWN, NOW_S + number * 100)
        states.append(state.state)

    assert [BreakerState.CLOSED] * (FAILURES_IN_A_ROW_MAX - 1) + [BreakerState.OPEN] == states


def test_it_opens_on_age_for_a_provider_that_never_answers() -> None:
    state = Breaker()
    for number in range(FAILURES_IN_A_ROW_MAX):
        decide_admit(state, DEFAULTS, f"call-{number}", False, NOW_S)
    age_s = next_age_s(state, DEFAULTS)

    decide_age(state, DEFAULTS, age_s, 0.5)

    assert NOW_S + DEFAULTS.slow_call_s == age_s
    assert BreakerState.OPEN is state.state
    assert math.inf == next_age_s(state, DEFAULTS)


def test_a_call_that_was_counted_for_its_age_is_not_counted_again_at_its_end() -> None:
    state = Breaker()
    decide_admit(state, DEFAULTS, "slow", False, NOW_S)
    decide_age(state, DEFAULTS, NOW_S + 9.0, 0.5)

    decide_end(state, DEFAULTS, "slow", DOWN, NOW_S + 20.0, 0.5)

    assert 1 == state.failures_in_a_row
    assert not state.too_old


def test_a_success_that_took_too_long_is_a_failure() -> None:
    state = Breaker()

    for number in range(FAILURES_IN_A_ROW_MAX):
        call(state, SENT, NOW_S + number, took_s=8.1)

    assert BreakerState.OPEN is state.state


@given(began_s=st.floats(0.0, 1e7), slow_call_s=st.floats(0.1, 60.0))
@example(began_s=30.59, slow_call_s=8.1)  # (30.59 + 8.1) - 30.59 < 8.1
@settings(deadline=None, max_examples=500)
def test_looking_at_ages_at_the_time_announced_always_makes_progress(
    began_s: float, slow_call_s: float
) -> None:
    using = BreakerSettings(slow_call_s=slow_call_s)
    state = Breaker()
    decide_admit(state, using, "call", False, began_s)

    decide_age(state, using, next_age_s(state, using), 0.5)

    assert math.inf == next_age_s(state, using)


@pytest.mark.parametrize("outcome", (HEALTHY | SILENT).values(), ids=HEALTHY | SILENT)
def test_bounces_and_throttling_never_open_it(outcome: Outcome) -> None:
    state = Breaker()

    for number in range(1000):
        call(state, outcome, NOW_S + number / 100)

    assert (BreakerState.CLOSED, 0) == (state.state, state.failures_in_a_row)


@pytest.mark.parametrize("outcome", UNHEALTHY.values(), ids=UNHEALTHY)
def test_what_speaks_against_the_provider_opens_it(outcome: Outcome) -> None:
    state = Breaker()

    for number in range(FAILURES_IN_A_ROW_MAX):
        call(state, outcome, NOW_S + number)

    assert BreakerState.OPEN is state.state


def test_a_provider_that_refuses_us_is_left_alone_for_long_at_the_first_word() -> None:
    state = Breaker()

    call(state, KEY_REVOKED, NOW_S)

    assert (BreakerState.DISABLED, NOW_S + DISABLED_S) == (state.state, state.until_s)


# How long it stays open


@pytest.mark.parametrize("draw", [0.0, 0.5, LAST_DRAW])
def test_open_time_doubles_to_its_cap_within_its_jitter(draw: float) -> None:
    plain_s = [min(60.0, 5.0 * 2.0 ** min(n - 1, 60)) for n in range(1, 10_001)]

    actual_s = [open_time_s(DEFAULTS, n, draw) for n in range(1, 10_001)]

    for plain, actual in zip(plain_s, actual_s, strict=True):
        assert plain * (1 - JITTER) <= actual <= plain * (1 + JITTER)


def relapse(state: Breaker, now_s: float) -> float:
    """Let a probe fail; return when the breaker opens again."""
    decide_admit(state, DEFAULTS, "probe", False, now_s)
    decide_end(state, DEFAULTS, "probe", DOWN, now_s, 0.5)
    return state.until_s


def test_each_relapse_doubles_the_open_time() -> None:
    state = gate_open()
    state.until_s = NOW_S

    waits_s = [relapse(state, state.until_s) - now_s for now_s in iter_until(state, 6)]

    assert [10.0, 20.0, 40.0, 60.0, 60.0, 60.0] == waits_s


def iter_until(state: Breaker, times: int) -> Iterator[float]:
    for _ in range(times):
        yield state.until_s


def test_late_results_do_not_lengthen_the_open_time() -> None:
    state = Breaker()
    for number in range(30):
        decide_admit(state, DEFAULTS, f"call-{number}", False, NOW_S)

    for number in range(15):
        decide_end(state, DEFAULTS, f"call-{number}", DOWN, NOW_S, 0.5)
    for number in range(15, 30):
        decide_end(state, DEFAULTS, f"call-{number}", KEY_REVOKED, NOW_S, 0.5)

    assert 1 == state.opened_count


@pytest.mark.parametrize(("stable_s", "expected"), [(119.0, 4), (121.0, 1)])
def test_the_growth_is_forgotten_once_the_provider_proved_stable(
    stable_s: float, expected: int
) -> None:
    state = gate_open()
    state.opened_count = 3
    close(state, NOW_S)

    for _ in range(FAILURES_IN_A_ROW_MAX):
        call(state, DOWN, NOW_S + stable_s)

    assert expected == state.opened_count


# Probes


def test_as_many_probes_as_settings_say_close_the_breaker() -> None:
    state = gate_open()

    states = []
    for number in range(3):
        call(state, SENT, state.until_s + number)
        states.append(state.state)

    assert [BreakerState.HALF_OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED] == states


def test_a_probe_too_many_is_asked_to_come_again() -> None:
    state, at_s = gate_open(), NOW_S + 5.0
    for number in range(3):
        decide_admit(state, DEFAULTS, f"probe-{number}", False, at_s)

    actual = decide_admit(state, DEFAULTS, "one too many", False, at_s)

    assert at_s + DEFAULTS.slow_call_s == actual
    assert "one too many" not in state.in_flight


@pytest.mark.parametrize("outcome", SILENT.values(), ids=SILENT)
def test_a_probe_that_ends_without_a_word_on_the_provider_is_given_back(outcome: Outcome) -> None:
    state, at_s = gate_open(), NOW_S + 5.0

    for number in range(100):
        call(state, outcome, at_s + number)

    assert (BreakerState.HALF_OPEN, 3) == (state.state, probes_free(state, DEFAULTS))


def test_a_late_result_is_no_probes_result() -> None:
    state = gate_half_open()

    for number in range(50):
        decide_end(state, DEFAULTS, f"late-{number}", DOWN, NOW_S, 0.5)

    assert (BreakerState.HALF_OPEN, 2) == (state.state, probes_free(state, DEFAULTS))


class Op(NamedTuple):
    """What happens next."""

    kind: Literal["ask", "panic", "end", "age", "wait", "until"]
    which: int
    outcome: Outcome
    gap_s: float


ops = st.builds(
    Op,
    kind=st.sampled_from(["ask", "ask", "ask", "panic", "end", "end", "age", "wait", "until"]),
    which=st.integers(0, 50),
    outcome=st.sampled_from([SENT, DOWN, DOWN, IGNORED, KEY_REVOKED, *SILENT.values()]),
    gap_s=st.floats(0.0, 20.0),
)
some_settings = st.builds(
    BreakerSettings,
    window_s=st.floats(1.0, 60.0),
    calls_min=st.integers(1, 20),
    failure_rate=st.floats(0.1, 1.0),
    slow_call_s=st.floats(0.5, 30.0),
    open_s=st.floats(0.5, 10.0),
    open_cap_s=st.floats(10.0, 100.0),
    probes=st.integers(1, 5),
)


class Machine:
    """A breaker, what is in flight by the test's own account, and the time."""

    def __init__(self, using: BreakerSettings) -> None:
        self.state = Breaker()
        self.using = using
        self.now_s = 0.0
        self.out: list[str] = []
        self.probes_out: set[str] = set()
        self.count = 0

    def play(self, op: Op) -> None:
        """Do one thing, then check what must always be true."""
        match op.kind:
            case "ask" | "panic":
                self.ask(is_panic=op.kind == "panic")
            case "end" if self.out:
                self.end(self.out[op.which % len(self.out)], op.outcome)
            case "age":
                decide_age(self.state, self.using, self.now_s, 0.5)
            case "wait":
                self.now_s += op.gap_s
            case "until":
                self.now_s = max(self.now_s, self.state.until_s)
            case _:
                pass
        self.check()

    def ask(self, *, is_panic: bool = False) -> bool:
        self.count += 1
        name, before = f"attempt-{self.count}", self.state.state
        until_s = decide_admit(self.state, self.using, name, is_panic, self.now_s)
        if until_s is not None:
            assert not is_panic
            assert until_s > self.now_s
            return False
        self.out.append(name)
        if before in {BreakerState.OPEN, BreakerState.DISABLED}:
            self.probes_out.clear()  # those of an earlier half-open breaker are late results now
        if not is_panic and self.state.state is BreakerState.HALF_OPEN:
            self.probes_out.add(name)
        return True

    def end(self, name: str, outcome: Outcome) -> None:
        self.out.remove(name)
        self.probes_out.discard(name)
        decide_end(self.state, self.using, name, outcome, self.now_s, 0.5)

    def check(self) -> None:
        state = self.state
        assert set(self.out) == set(state.in_flight)
        assert state.too_old <= set(state.in_flight)
        assert state.probes_out <= set(state.in_flight)
        if state.state is BreakerState.HALF_OPEN:
            assert self.probes_out == state.probes_out
            assert len(self.probes_out) + state.probes_passed <= self.using.probes
            assert state.probes_passed < self.using.probes
        longest_s = max(DISABLED_S, self.using.open_cap_s) * (1 + JITTER)
        assert state.until_s <= self.now_s + longest_s


@given(using=some_settings, script=st.lists(ops, max_size=80))
@settings(deadline=None, max_examples=200)
def test_a_half_open_breaker_never_has_more_probes_out_than_it_may(
    using: BreakerSettings, script: list[Op]
) -> None:
    machine = Machine(using)

    for op in script:
        machine.play(op)


@given(using=some_settings, script=st.lists(ops, max_size=60), is_prompt=st.booleans())
@settings(deadline=None, max_examples=200)
def test_from_any_state_a_healthy_provider_closes_the_breaker_again(
    using: BreakerSettings, script: list[Op], is_prompt: bool
) -> None:
    machine = Machine(using)
    for op in script:
        machine.play(op)
    state, begin_s = machine.state, machine.now_s
    was_disabled = state.state is BreakerState.DISABLED

    if is_prompt:  # otherwise what is in flight never ends, and only its age tells
        for name in list(machine.out):
            machine.end(name, SENT)
    calls = 0
    while state.state is not BreakerState.CLOSED and calls < 1000:
        calls += 1
        if state.state in {BreakerState.OPEN, BreakerState.DISABLED}:
            machine.now_s = max(machine.now_s, state.until_s)
        if machine.ask():
            machine.end(machine.out[-1], SENT)
        else:
            machine.now_s = max(machine.now_s, next_age_s(state, using))
            decide_age(state, using, machine.now_s, 0.5)

    open_max_s = SLOW_OPEN_CAPS * using.open_cap_s * (1 + JITTER)
    worst_s = DISABLED_S * (1 + JITTER) if was_disabled else open_max_s
    stuck_s = 0.0 if is_prompt else using.slow_call_s + open_max_s
    assert BreakerState.CLOSED is state.state
    assert calls <= 2 * using.probes + 3
    assert machine.now_s - begin_s <= worst_s + stuck_s + 1e-6


# The actor


class Bench:
    """A breaker under a supervisor; the test plays limiter and provider."""

    def __init__(self, faults: Faults | None = None, using: BreakerSettings = DEFAULTS) -> None:
        self.lane = make_lane(concurrency_max=100)
        ports = make_ports(faults)
        child = Child(
            "breaker", lambda: BreakerActor(self.lane, using, ports), (self.lane.breaker_mailbox,)
        )
        self.supervisor = Supervisor([child], ports.clock, SilentJournal())
        self.count = 0

    async def start(self, nursery: trio.Nursery) -> None:
        await nursery.start(lambda task_status: self.supervisor.run(task_status=task_status))

    async def say(self, *messages: LaneMessage) -> None:
        for message in messages:
            self.lane.breaker_mailbox.put_nowait(message)
        await trio.testing.wait_all_tasks_blocked()

    async def fail(self, times: int = FAILURES_IN_A_ROW_MAX) -> None:
        """Let attempts go down and come back with a failure."""
        for _ in range(times):
            self.count += 1
            attempt = make_attempt(self.lane, self.count)
            await self.say(attempt, Done(attempt, DOWN, 0.0))

    async def came_up(self) -> list[Outcome]:
        self.lane.limiter_mailbox.nudge()
        await self.lane.limiter_mailbox.wait()
        return [item.outcome for item in self.lane.limiter_mailbox.take() if isinstance(item, Done)]


async def test_an_open_breaker_is_published_before_the_outcome_that_opened_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)

    await bench.fail()
    attempt = make_attempt(bench.lane, 99)
    await bench.say(attempt)

    health = bench.lane.breaker_status.value
    assert (BreakerState.OPEN, 5.0) == (health.state, health.until_s)
    assert [DOWN] * 10 + [NotAttempted(Why.BREAKER, 5.0)] == await bench.came_up()


async def test_the_actor_wakes_by_itself_when_calls_become_too_old(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)
    await bench.say(*(make_attempt(bench.lane, number) for number in range(10)))

    before = bench.lane.breaker_status.value.state
    await trio.sleep(DEFAULTS.slow_call_s + 0.1)

    assert (BreakerState.CLOSED, BreakerState.OPEN) == (
        before,
        bench.lane.breaker_status.value.state,
    )


async def test_a_crash_leaves_an_open_breaker_open_and_its_count_as_it_was(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)
    await bench.fail()
    before = bench.lane.breaker_status.value

    bench.supervisor.crash("breaker")
    await trio.testing.wait_all_tasks_blocked()

    assert before == bench.lane.breaker_status.value
    await trio.sleep(before.until_s)
    await bench.fail(1)
    assert (BreakerState.OPEN, 2) == (
        bench.lane.breaker_status.value.state,
        bench.lane.breaker_status.value.opened_count,
    )


async def test_a_successor_knows_the_ages_of_what_the_provider_has_under_way(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)
    attempts = [make_attempt(bench.lane, number) for number in range(10)]
    await bench.say(*attempts)
    for attempt in attempts:
        attempt.stage = Stage.SENDING
        bench.lane.underway[attempt.id] = attempt
    await trio.sleep(7.0)
    # The same domain is answered in time elsewhere: it is this provider that is slow.
    domains, now_s = attempts[0].domains, trio.current_time()
    bench.lane.speeds.note("secondary", domains, now_s, is_late=False)

    bench.supervisor.crash("breaker")
    await trio.sleep(1.5)

    assert BreakerState.OPEN is bench.lane.breaker_status.value.state


async def test_ages_of_one_domain_alone_say_nothing_of_the_provider(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)
    attempts = [make_attempt(bench.lane, number) for number in range(10)]
    await bench.say(*attempts)
    for attempt in attempts:
        attempt.stage = Stage.SENDING
        bench.lane.underway[attempt.id] = attempt
    await trio.sleep(7.0)
    await trio.sleep(1.5)

    assert BreakerState.CLOSED is bench.lane.breaker_status.value.state
    assert not bench.lane.speeds.is_prompt(bench.lane.name, "x.example")


async def test_a_reset_closes_the_breaker_at_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)
    await bench.fail()

    await bench.say(Reset())

    assert BreakerState.CLOSED is bench.lane.breaker_status.value.state


async def test_a_pause_sent_to_the_wrong_actor_costs_one_crash(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)

    await bench.say(Pause())

    assert [1] == [child.crash_count for child in bench.supervisor.statistics()]


async def test_a_probe_that_a_crash_took_is_given_back(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(CrashAt("breaker.reset"))
    await bench.start(nursery)
    await bench.fail()
    await trio.sleep(5.0)
    probe = make_attempt(bench.lane, 99)
    await bench.say(probe)
    taken = bench.lane.breaker_status.value.probes_free

    bench.lane.underway[probe.id] = probe
    await bench.say(Reset())
    after_crash = bench.lane.breaker_status.value.probes_free
    del bench.lane.underway[probe.id]
    await bench.say(Done(probe, IGNORED, 0.0))

    assert (2, 2, 3) == (taken, after_crash, bench.lane.breaker_status.value.probes_free)


# Dead or only bad, and how much it can bear


def panicking(state: Breaker, outcome: Outcome, now_s: float, took_s: float = 0.0) -> None:
    """Let an attempt in panic end at `now_s`."""
    name = f"panic-{now_s}"
    assert decide_admit(state, DEFAULTS, name, True, now_s - took_s) is None
    decide_end(state, DEFAULTS, name, outcome, now_s, 0.5)


@pytest.mark.parametrize(
    ("last", "took_s", "expected"),
    [
        (DOWN, 0.0, DEAD_IN_A_ROW),
        (IGNORED, 0.0, DEAD_IN_A_ROW - 1),
        (SENT, 0.0, 0),
        (SENT, 29.0, 0),
        (SILENT["throttled"], 0.0, DEAD_IN_A_ROW - 1),
    ],
)
def test_only_what_is_taken_shows_that_a_failing_provider_lives(
    last: Outcome, took_s: float, expected: int
) -> None:
    state = Breaker()
    for number in range(DEAD_IN_A_ROW - 1):
        panicking(state, DOWN, NOW_S + number)

    panicking(state, last, NOW_S + 100.0, took_s)

    assert expected == state.unaccepted_in_a_row


def test_an_error_rate_of_sixty_percent_is_bad_but_not_dead() -> None:
    state, draw, most = Breaker(), random.Random(1).random, 0
    for number in range(20_000):
        panicking(state, DOWN if draw() < 0.6 else SENT, NOW_S + number / 50)
        most = max(most, state.unaccepted_in_a_row)

    assert most < DEAD_IN_A_ROW


def test_a_slow_probe_keeps_the_breaker_shut_for_longer_but_not_as_the_last_resort() -> None:
    state = gate_open()
    state.until_s = NOW_S
    assert decide_admit(state, DEFAULTS, "probe", False, NOW_S) is None

    decide_age(state, DEFAULTS, NOW_S + DEFAULTS.slow_call_s, 0.5)

    since_s = NOW_S + DEFAULTS.slow_call_s
    assert since_s + SLOW_PROBE_FACTOR * DEFAULTS.slow_call_s * 2.0 == state.until_s
    assert since_s + open_time_s(DEFAULTS, 2, 0.5) == state.last_resort_s < state.until_s


def test_a_provider_that_is_slow_for_half_an_hour_moves_the_breaker_a_few_times() -> None:
    state, now_s, moves = Breaker(), NOW_S, 0
    for number in range(10):
        decide_admit(state, DEFAULTS, f"call-{number}", False, now_s)
    now_s += DEFAULTS.slow_call_s
    decide_age(state, DEFAULTS, now_s, 0.5)
    moves += 1
    by_ten_minutes = [0, 0, 0]
    while state.until_s < NOW_S + 1800.0:
        now_s = state.until_s
        assert decide_admit(state, DEFAULTS, f"probe-{now_s}", False, now_s) is None
        by_ten_minutes[int((now_s - NOW_S) // 600)] += 2
        decide_age(state, DEFAULTS, now_s + DEFAULTS.slow_call_s, 0.5)

    assert BreakerState.OPEN is state.state
    assert [8, 4, 6] == by_ten_minutes


def test_opening_leaves_few_in_flight_and_recovery_climbs_from_there() -> None:
    state = Breaker(concurrency=new_concurrency(32, DEFAULTS.probes, 32))
    for number in range(FAILURES_IN_A_ROW_MAX):
        call(state, DOWN, NOW_S + number / 100)
    shut = state.concurrency.whole
    now_s = state.until_s
    for _ in range(DEFAULTS.probes):
        call(state, SENT, now_s, took_s=0.0)
    closed = state.state, state.concurrency.whole

    for number in range(1, 101):  # a burst of successes in a second, all credits in use
        state.in_flight.update({f"other-{n}": now_s for n in range(31)})
        call(state, SENT, now_s + number / 100)

    assert (FLOOR, (BreakerState.CLOSED, FLOOR)) == (shut, closed)
    assert FLOOR < state.concurrency.limit <= FLOOR + 32 / RAMP_S + 1.0


async def test_a_crash_forgets_neither_death_nor_what_the_provider_can_bear(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)
    await bench.fail()
    for number in range(DEAD_IN_A_ROW - FAILURES_IN_A_ROW_MAX):
        attempt = make_attempt(bench.lane, 100 + number, is_panic=True)
        await bench.say(attempt, Done(attempt, DOWN, 0.0))
    before = bench.lane.breaker_status.value

    bench.supervisor.crash("breaker")
    await trio.testing.wait_all_tasks_blocked()

    assert (True, FLOOR) == (before.is_dead, before.concurrency)
    assert before == bench.lane.breaker_status.value


async def test_a_healthy_lane_may_use_all_its_credits(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)

    assert bench.lane.concurrency_max == bench.lane.breaker_status.value.concurrency


def test_calls_that_grow_old_halve_what_may_be_in_flight_without_their_end() -> None:
    state = Breaker(concurrency=new_concurrency(32, DEFAULTS.probes, 32))
    for number in range(4):
        decide_admit(state, DEFAULTS, f"call-{number}", False, NOW_S)

    decide_age(state, DEFAULTS, NOW_S + DEFAULTS.slow_call_s, 0.5)

    assert (BreakerState.CLOSED, 16) == (state.state, state.concurrency.whole)
