"""The breaker of a lane: whether a provider is worth asking at all.

Owns the breaker's state. It opens on a failure rate over a sliding window, on a run of failures,
and on calls in flight that have become too old, or a provider that never answers would not be
noticed. It stays open for a time that doubles with each relapse, then admits a few probes. A probe
counts from its admission, and is given back when it ends without saying anything of the provider,
or a lost probe would keep the breaker half open for ever.

Never judges a message: it goes by a verdict (`model.outcome.decide_verdict`), and a bounce is a
healthy provider's answer.

Source: Nygard, "Release It!"; resilience4j and Polly v8 for the shape of the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, assert_never

import trio

from mailactors.dispatch.attempt import Attempt, Done, Stage
from mailactors.dispatch.breaker_settings import JITTER, BreakerSettings, open_time_s
from mailactors.dispatch.calls import Calls
from mailactors.dispatch.concurrency import (
    Concurrency,
    collapse,
    cut,
    judge_end,
    new_concurrency,
)
from mailactors.dispatch.lane import (
    NEVER_S,
    BreakerState,
    BreakerStatus,
    Lane,
    Pause,
    Reset,
    Resume,
)
from mailactors.model.outcome import (
    Accepted,
    NotAttempted,
    Outcome,
    Rejected,
    Scope,
    Verdict,
    Why,
    decide_verdict,
)
from mailactors.runtime.ports import Ports
from mailactors.runtime.timer import Timer

FAILURES_IN_A_ROW_MAX: Final = 10
"""Opens the breaker before the window's rate would: at a 30 % error rate, once in 170,000 calls."""
DEAD_IN_A_ROW: Final = 30
"""So many attempts without one accepted make a provider dead: of no use even if all others fail.
At an error rate of 60 % this happens once in millions of calls, at 90 % once in a few hundred."""
DISABLED_S: Final = 900.0
"""How long a provider that refuses us as such (401, 535, suspended) is left alone."""


@dataclass
class Breaker:
    """What a breaker remembers. Times are monotonic."""

    state: BreakerState = BreakerState.CLOSED
    until_s: float = 0.0
    last_resort_s: float = 0.0
    closed_at_s: float = NEVER_S
    opened_count: int = 0
    last_success_s: float = NEVER_S
    failures_in_a_row: int = 0
    unaccepted_in_a_row: int = 0
    """Calls since a message was last accepted, however slowly."""
    calls: Calls = field(default_factory=Calls)
    in_flight: dict[str, float] = field(default_factory=dict)
    """When each admitted attempt began, oldest first."""
    too_old: set[str] = field(default_factory=set)
    """Those in flight that were already counted as failures."""
    excused: set[str] = field(default_factory=set)
    """Those in flight that are late because of their recipients' domains."""
    probes_out: set[str] = field(default_factory=set)
    probes_passed: int = 0
    concurrency: Concurrency = field(default_factory=lambda: new_concurrency(10**6, 0, 10**6))


def decide_admit(
    breaker: Breaker, settings: BreakerSettings, attempt_id: str, is_panic: bool, now_s: float
) -> float | None:
    """Admit an attempt: None, or the time at which asking again makes sense."""
    if is_panic:
        breaker.in_flight[attempt_id] = now_s
        return None
    if breaker.state in {BreakerState.OPEN, BreakerState.DISABLED}:
        if now_s < breaker.until_s:
            return breaker.until_s
        breaker.state, breaker.probes_passed = BreakerState.HALF_OPEN, 0
        breaker.probes_out.clear()
    if breaker.state is BreakerState.HALF_OPEN:
        if probes_free(breaker, settings) <= 0:
            return now_s + settings.slow_call_s
        breaker.probes_out.add(attempt_id)
    breaker.in_flight[attempt_id] = now_s
    return None


def decide_end(
    breaker: Breaker,
    settings: BreakerSettings,
    attempt_id: str,
    outcome: Outcome,
    now_s: float,
    draw: float,
    *,
    is_domains: bool = False,
) -> None:
    """Learn from an attempt's end; lateness that `is_domains` own (`speeds`) does not count."""
    began_s = breaker.in_flight.pop(attempt_id, now_s)
    was_counted = attempt_id in breaker.too_old
    breaker.too_old.discard(attempt_id)
    breaker.excused.discard(attempt_id)
    was_probe = attempt_id in breaker.probes_out
    breaker.probes_out.discard(attempt_id)
    verdict = decide_verdict(outcome)
    is_slow = now_s - began_s > settings.slow_call_s
    is_excused = is_slow and is_domains
    if verdict is Verdict.IGNORED or (is_excused and verdict is Verdict.FAILURE):
        return
    # Before all counting: one such answer is enough, in whatever state and however late.
    if isinstance(outcome, Rejected) and outcome.scope is Scope.PROVIDER:
        _open(breaker, settings, now_s, draw, BreakerState.DISABLED)
        return
    is_slow = is_slow and not is_excused
    judge_end(breaker.concurrency, verdict, is_slow, len(breaker.in_flight) + 1, began_s, now_s)
    if verdict is Verdict.SUCCESS and is_slow:
        verdict = Verdict.FAILURE
    if not was_counted:
        _count(breaker, settings, verdict, now_s)
    if isinstance(outcome, Accepted):
        breaker.unaccepted_in_a_row = 0
    if was_probe and breaker.state is BreakerState.HALF_OPEN:
        if verdict is Verdict.FAILURE:
            _open(breaker, settings, now_s, draw, BreakerState.OPEN, now_s - began_s)
            return
        breaker.probes_passed += 1
        if breaker.probes_passed >= settings.probes:
            close(breaker, now_s)
    elif breaker.state is BreakerState.CLOSED and is_failing(breaker, settings):
        _open(breaker, settings, now_s, draw, BreakerState.OPEN)


def decide_age(
    breaker: Breaker,
    settings: BreakerSettings,
    now_s: float,
    draw: float,
    is_domains: Callable[[str, float], bool] = lambda _attempt_id, _began_s: False,
) -> None:
    """Count calls in flight that have become slow, unless that `is_domains` own."""
    for attempt_id, began_s in breaker.in_flight.items():
        if now_s < began_s + settings.slow_call_s:  # as `next_age_s`, to the last bit
            break
        if attempt_id in breaker.too_old or attempt_id in breaker.excused:
            continue
        if is_domains(attempt_id, began_s):
            breaker.excused.add(attempt_id)
            continue
        breaker.too_old.add(attempt_id)
        cut(breaker.concurrency, began_s, now_s)
        _count(breaker, settings, Verdict.FAILURE, now_s)
        if breaker.state is BreakerState.HALF_OPEN and attempt_id in breaker.probes_out:
            _open(breaker, settings, now_s, draw, BreakerState.OPEN, now_s - began_s)
    if breaker.state is BreakerState.CLOSED and is_failing(breaker, settings):
        _open(breaker, settings, now_s, draw, BreakerState.OPEN)


def correct_ages(breaker: Breaker, underway: Mapping[str, Attempt], now_s: float) -> None:
    """Let each call's age begin when its own provider's time did."""
    for attempt in underway.values():
        correct_age(breaker, attempt, now_s)
    breaker.in_flight = dict(sorted(breaker.in_flight.items(), key=lambda each: each[1]))


def correct_age(breaker: Breaker, attempt: Attempt, now_s: float) -> None:
    """An attempt that waits for our own disk is no sign of a slow provider."""
    began_s = breaker.in_flight.get(attempt.id)
    if began_s is not None:
        is_ours = attempt.stage is Stage.INTENDING
        breaker.in_flight[attempt.id] = now_s if is_ours else max(began_s, attempt.sending_s)


def next_age_s(breaker: Breaker, settings: BreakerSettings) -> float:
    """Return when the oldest call in flight that is not yet counted becomes slow, or inf."""
    for attempt_id, began_s in breaker.in_flight.items():
        if attempt_id not in breaker.too_old and attempt_id not in breaker.excused:
            return began_s + settings.slow_call_s
    return float("inf")


def is_failing(breaker: Breaker, settings: BreakerSettings) -> bool:
    """Whether the window's failure rate, or a run of failures, is reason to open."""
    if breaker.failures_in_a_row >= min(FAILURES_IN_A_ROW_MAX, settings.calls_min):
        return True
    failures, calls = breaker.calls.failures, breaker.calls.successes + breaker.calls.failures
    return calls >= settings.calls_min and failures >= settings.failure_rate * calls


def probes_free(breaker: Breaker, settings: BreakerSettings) -> int:
    """Return how many more probes a half-open breaker admits."""
    return settings.probes - len(breaker.probes_out) - breaker.probes_passed


def _count(breaker: Breaker, settings: BreakerSettings, verdict: Verdict, now_s: float) -> None:
    is_success = verdict is Verdict.SUCCESS
    breaker.calls.add(is_success=is_success, now_s=now_s, window_s=settings.window_s)
    if is_success:
        breaker.failures_in_a_row = breaker.unaccepted_in_a_row = 0
        breaker.last_success_s = now_s
    else:
        breaker.failures_in_a_row += 1
        breaker.unaccepted_in_a_row += 1


def close(breaker: Breaker, now_s: float) -> None:
    """Close the breaker and forget its calls; `opened_count` stays until it proves stable."""
    breaker.state, breaker.closed_at_s = BreakerState.CLOSED, now_s
    breaker.calls.clear()
    breaker.failures_in_a_row = breaker.unaccepted_in_a_row = 0
    breaker.probes_out.clear()


def _open(
    breaker: Breaker,
    settings: BreakerSettings,
    now_s: float,
    draw: float,
    state: BreakerState,
    probe_s: float = 0.0,
) -> None:
    was_stable = now_s - breaker.closed_at_s > 2 * settings.open_cap_s
    if breaker.state is BreakerState.CLOSED and was_stable:
        breaker.opened_count = 1
    elif breaker.state in {
        BreakerState.CLOSED,
        BreakerState.HALF_OPEN,
    }:  # a late result is no relapse
        breaker.opened_count += 1
    if state is BreakerState.DISABLED:
        open_s = DISABLED_S * (1.0 - JITTER + 2.0 * JITTER * draw)
    else:
        open_s = open_time_s(settings, breaker.opened_count, draw, probe_s)
        breaker.last_resort_s = now_s + open_time_s(settings, breaker.opened_count, draw)
    breaker.state, breaker.until_s = state, now_s + open_s
    collapse(breaker.concurrency, now_s)
    breaker.probes_out.clear()


class BreakerActor:
    """Admits attempts on their way to the provider, and learns from their ends."""

    def __init__(self, lane: Lane, settings: BreakerSettings, ports: Ports) -> None:
        self._lane = lane
        self._settings = settings
        self._clock = ports.clock
        self._entropy = ports.entropy
        self._faults = ports.faults
        self._journal = ports.journal
        self._breaker = self._restored()
        self._timer = Timer(lane.breaker_mailbox.nudge, ports.clock)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Serve; wake by itself when a call in flight becomes too old."""
        self._publish()
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timer.run)
            await self._serve()

    async def _serve(self) -> None:
        while True:
            self._timer.set(next_age_s(self._breaker, self._settings))
            await self._lane.breaker_mailbox.wait()
            try:
                self._take_turn()
                self._look_at_ages()
            finally:
                self._publish()  # once, and before any reader of what was passed on has its turn

    def _take_turn(self) -> None:
        """Handle what is there; nobody else runs meanwhile."""
        for item in self._lane.breaker_mailbox.take():
            self._faults.point(f"breaker.{type(item).__name__.lower()}")
            match item:
                case Attempt():
                    self._go_down(item)
                case Done():
                    self._come_up(item)
                case Reset():
                    close(self._breaker, self._clock.now_s())
                    self._publish()
                    item.done.resolve(None)
                case Pause() | Resume():
                    raise AssertionError("only the limiter pauses")
                case _:
                    assert_never(item)
            if self._breaker.state is not self._lane.breaker_status.value.state:
                self._publish()  # each move is in the journal

    def _restored(self) -> Breaker:
        """Go on from what was published, and from what the provider actor has under way."""
        status = self._lane.breaker_status.value
        breaker = Breaker(status.state, status.until_s, opened_count=status.opened_count)
        breaker.closed_at_s = self._clock.now_s()  # the count of relapses stands for now
        breaker.last_success_s = status.last_success_s
        breaker.last_resort_s = status.last_resort_s
        breaker.unaccepted_in_a_row = DEAD_IN_A_ROW if status.is_dead else 0
        breaker.concurrency = new_concurrency(
            self._lane.concurrency_max, self._settings.probes, status.concurrency
        )
        breaker.in_flight = {a.id: a.began_s for a in self._lane.underway.values()}
        if status.state is BreakerState.HALF_OPEN:
            breaker.probes_out = set(breaker.in_flight)
        return breaker

    def _go_down(self, attempt: Attempt) -> None:
        now_s = self._clock.now_s()
        until_s = decide_admit(self._breaker, self._settings, attempt.id, attempt.is_panic, now_s)
        if until_s is None:
            self._lane.provider_mailbox.put_nowait(attempt)
        else:
            refusal = NotAttempted(Why.BREAKER, until_s)
            self._lane.limiter_mailbox.put_nowait(Done(attempt, refusal, now_s))

    def _come_up(self, done: Done) -> None:
        now_s = self._clock.now_s()
        correct_age(self._breaker, done.attempt, now_s)
        draw = self._entropy.draw("breaker", self._lane.name, self._breaker.opened_count)
        is_own, breaker, id_ = self._judge_speed(done, now_s), self._breaker, done.attempt.id
        if isinstance(done.outcome, NotAttempted):
            self._publish()  # a probe that was taken and given back in one turn is news, too
        decide_end(breaker, self._settings, id_, done.outcome, now_s, draw, is_domains=is_own)
        self._lane.limiter_mailbox.put_nowait(done)

    def _judge_speed(self, done: Done, now_s: float) -> bool:
        """Return whether an answer was late because of the recipients' domains."""
        attempt, verdict = done.attempt, decide_verdict(done.outcome)
        began_s = self._breaker.in_flight.get(attempt.id, now_s)
        is_late, is_lost = now_s - began_s > self._settings.slow_call_s, verdict is Verdict.FAILURE
        if attempt.stage is not Stage.SENDING or not (is_late or verdict is Verdict.SUCCESS):
            return False
        return self._lane.speeds.judge(
            self._lane.name, attempt.domains, began_s, now_s, is_late=is_late, is_lost=is_lost
        )

    def _is_domains_own(self, attempt_id: str, began_s: float) -> bool:
        lane, attempt = self._lane, self._lane.underway.get(attempt_id)
        if attempt is None or attempt.stage is not Stage.SENDING:
            return False
        now_s = self._clock.now_s()
        return lane.speeds.judge(lane.name, attempt.domains, began_s, now_s, is_late=True)

    def _look_at_ages(self) -> None:
        now_s = self._clock.now_s()
        if now_s >= next_age_s(self._breaker, self._settings):
            correct_ages(self._breaker, self._lane.underway, now_s)
            draw = self._entropy.draw("breaker", self._lane.name, self._breaker.opened_count)
            decide_age(self._breaker, self._settings, now_s, draw, self._is_domains_own)

    def _publish(self) -> None:
        breaker, before = self._breaker, self._lane.breaker_status.value
        is_half_open = breaker.state is BreakerState.HALF_OPEN
        self._lane.breaker_status.publish(
            BreakerStatus(
                state=breaker.state,
                until_s=breaker.until_s,
                probes_free=probes_free(breaker, self._settings) if is_half_open else 0,
                last_resort_s=breaker.last_resort_s,
                is_dead=breaker.unaccepted_in_a_row >= DEAD_IN_A_ROW,
                concurrency=breaker.concurrency.whole,
                last_success_s=float(int(breaker.last_success_s)),
                opened_count=breaker.opened_count,
            )
        )
        if before.state is not breaker.state:
            level = (
                "info"
                if breaker.state in {BreakerState.CLOSED, BreakerState.HALF_OPEN}
                else "warning"
            )
            self._journal.note(
                "breaker.moved",
                level=level,
                provider=self._lane.name,
                before=before.state.value,
                after=breaker.state.value,
                for_s=round(max(0.0, breaker.until_s - self._clock.now_s()), 3),
            )
