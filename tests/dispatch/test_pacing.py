"""A pace learnt from refusals: near the provider's limit, hardly ever above it, and forgotten."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from typing import NamedTuple, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailactors.dispatch.lane import LearntPace
from mailactors.dispatch.limiter import decide_return, decide_take, new_state
from mailactors.dispatch.pacing import (
    CUTS,
    FORGET_S,
    NEAR,
    PACE_MIN_PER_S,
    PATIENCE_PER_WAIT,
    PATIENCE_S,
    SERVED_MAX,
    SHARE,
    Lesson,
    PacingState,
    decide_pace,
    forget,
    interval_at,
    is_forgotten,
    is_notable,
    is_other_quota,
    learn,
    note_refused,
    note_served,
    rate_at,
    served_rate,
)
from mailactors.dispatch.quota import Quota
from mailactors.model.outcome import Accepted, Deferred, Reason, Scope

NOW_S = 1000.0


def learnt(
    per_s: float = 9.5,
    limit_per_s: float = 10.0,
    *,
    since_s: float = NOW_S,
    patience_s: float = PATIENCE_S,
    lessons: int = 0,
) -> LearntPace:
    return LearntPace(per_s, limit_per_s, since_s - 1.0, since_s, patience_s, lessons)


# What was served


def test_only_what_was_served_within_the_second_before_counts() -> None:
    served_s = deque([NOW_S - 1.0, NOW_S - 0.99, NOW_S, NOW_S + 0.01])

    assert 2.0 == served_rate(served_s, NOW_S)


def test_a_full_memory_that_spans_less_than_a_second_is_not_read_as_a_lower_rate() -> None:
    per_s = 5000.0
    served_s = deque((NOW_S - n / per_s for n in range(SERVED_MAX, 0, -1)), maxlen=SERVED_MAX)

    assert served_rate(served_s, NOW_S) == pytest.approx(per_s, rel=0.01)


# Lessons


def test_without_a_refusal_nothing_is_learnt_and_nothing_spaced() -> None:
    state = PacingState()
    for number in range(100):
        note_served(state, NOW_S + number / 100)

    assert not learn(state, NOW_S + 2.0)
    assert (None, 0.0) == (state.learnt, interval_at(state, NOW_S + 2.0))


def test_all_refusals_of_what_was_under_way_are_one_lesson() -> None:
    state = PacingState()
    for number in range(10):
        note_served(state, NOW_S + number * 0.001)
    for number in range(22):
        note_refused(state, NOW_S + 0.01 + number * 0.001, 1.0, NOW_S + 0.05)
    first = learn(state, NOW_S + 1.1)

    note_refused(state, NOW_S + 0.04, 1.0, NOW_S + 1.2)  # of the same burst, answered late

    assert (True, False) == (first, learn(state, NOW_S + 2.3))
    assert state.learnt is not None
    assert (SHARE * 10.0, 10.0) == (state.learnt.per_s, state.learnt.limit_per_s)


def test_answers_that_come_while_the_lane_is_closed_count_as_served() -> None:
    state = PacingState()
    note_refused(state, NOW_S, 1.0, NOW_S + 0.02)
    for number in range(10):
        note_served(state, NOW_S - number * 0.05)

    learn(state, NOW_S + 1.1)

    assert state.learnt is not None
    assert SHARE * 10.0 == state.learnt.per_s


class Case(NamedTuple):
    before: LearntPace | None
    refused_s: float
    served_per_s: float
    per_s: float
    patience_s: float
    lessons: int


WITHIN_S = NOW_S + 5.0
"""Patience is not over yet."""
AFTER_S = NOW_S + PATIENCE_S + 2.0
CLIMBED = rate_at(learnt(), AFTER_S)
FAR_S = NOW_S + PATIENCE_S + 40.0
CASES = {
    "first": Case(None, NOW_S, 10.0, 9.5, PATIENCE_S, 0),
    "first, nothing served": Case(None, NOW_S, 0.0, PACE_MIN_PER_S, PATIENCE_S, 0),
    "again at once": Case(learnt(), WITHIN_S, 9.0, 9.5 * CUTS[1], PATIENCE_S, 1),
    "and again": Case(learnt(lessons=1), WITHIN_S, 9.0, 9.5 * CUTS[2], PATIENCE_S, 2),
    "for the tenth time": Case(learnt(lessons=9), WITHIN_S, 9.0, 9.5 * CUTS[-1], PATIENCE_S, 10),
    "confirmed": Case(learnt(), AFTER_S, 10.0, CLIMBED * CUTS[0], 2 * PATIENCE_S, 0),
    "another, lower": Case(learnt(), WITHIN_S, 3.0, SHARE * 3.0, PATIENCE_S, 0),
    "another, higher": Case(
        learnt(), FAR_S, rate_at(learnt(), FAR_S), rate_at(learnt(), FAR_S) * 0.95, PATIENCE_S, 0
    ),
    "too few to tell": Case(learnt(1.0, 1.05), WITHIN_S, 0.0, CUTS[1], PATIENCE_S, 1),
    "never below the least": Case(learnt(0.2, 0.2), WITHIN_S, 0.0, 0.2, PATIENCE_S, 1),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_lesson_sets_pace_and_patience(case: Case) -> None:
    lesson = Lesson(case.refused_s, case.refused_s + 0.02, 1.0)

    found = decide_pace(case.before, lesson, case.served_per_s, case.refused_s + 1.1)

    assert found.per_s == pytest.approx(case.per_s)
    assert (case.patience_s, case.lessons) == (found.patience_s, found.lessons)
    assert (lesson.first_refusal_s, case.refused_s + 1.1) == (found.first_refusal_s, found.since_s)


def test_patience_ends_at_what_a_refusal_costs() -> None:
    patient = learnt(patience_s=100.0)
    lesson = Lesson(NOW_S + 101.0, NOW_S + 101.0, 1.0)

    found = decide_pace(patient, lesson, 10.0, NOW_S + 102.0)

    assert PATIENCE_PER_WAIT == found.patience_s


@pytest.mark.parametrize(
    ("served_per_s", "kept_per_s", "expected"),
    [(9.0, 9.5, False), (7.0, 9.5, True), (0.0, 1.9, False), (0.0, 2.0, True), (80, 100, False)],
)
def test_another_quota_is_told_by_what_is_missing(
    served_per_s: float, kept_per_s: float, expected: bool
) -> None:
    assert expected is is_other_quota(served_per_s, kept_per_s)


# Climbing and forgetting


@given(
    per_s=st.floats(0.2, 1000.0),
    over=st.floats(1.0, 2.0),
    patience_s=st.floats(1.0, 3600.0),
    at_s=st.floats(0.0, 5000.0),
    later_s=st.floats(0.0, 100.0),
)
def test_the_pace_never_falls_by_itself_and_climbs_slowly_where_it_was_refused(
    per_s: float, over: float, patience_s: float, at_s: float, later_s: float
) -> None:
    known = learnt(per_s, per_s * over, patience_s=patience_s)

    before, after = rate_at(known, NOW_S + at_s), rate_at(known, NOW_S + at_s + later_s)

    assert before <= after * (1 + 1e-9)
    if at_s + later_s <= patience_s:
        assert after == pytest.approx(per_s)
    if after <= NEAR * known.limit_per_s:
        assert after <= before * 1.02**later_s * (1 + 1e-6)


def test_a_pace_that_climbed_for_long_is_forgotten() -> None:
    state = PacingState(learnt=learnt())
    ends_s = NOW_S + PATIENCE_S + FORGET_S

    assert not is_forgotten(state, ends_s)
    assert is_forgotten(state, ends_s + 1.0)
    assert math.isinf(rate_at(learnt(), ends_s + 1.0))


def test_forgetting_forgets_what_is_still_to_be_learnt() -> None:
    state = PacingState(learnt=learnt())
    note_refused(state, NOW_S + 5.0, 1.0, NOW_S + 5.0)

    forget(state)

    assert not learn(state, NOW_S + 7.0)
    assert state.learnt is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, None, False),
        (None, learnt(), True),
        (learnt(), None, True),
        (learnt(9.5), learnt(9.0), False),
        (learnt(9.5), learnt(8.0), True),
        (learnt(9.5), learnt(11.0), True),
    ],
)
def test_only_notable_changes_are_told(
    before: LearntPace | None, after: LearntPace | None, expected: bool
) -> None:
    assert expected is is_notable(before, after)


# Against vendors that count in different ways


class Counting(Protocol):
    def ask(self, now_s: float) -> int | None:
        """Serve a message, or return the whole seconds of Retry-After."""


class Sliding:
    """No more than so many in any window."""

    def __init__(self, count: int, length_s: float) -> None:
        self.count, self.length_s = count, length_s
        self.served: deque[float] = deque()

    def ask(self, now_s: float) -> int | None:
        while self.served and self.served[0] <= now_s - self.length_s:
            self.served.popleft()
        if len(self.served) >= self.count:
            return math.ceil(self.served[-self.count] + self.length_s - now_s)
        self.served.append(now_s)
        return None


class Fixed:
    """No more than so many in each second, minute or hour of the clock."""

    def __init__(self, count: int, length_s: float) -> None:
        self.count, self.length_s = count, length_s
        self.window, self.served = -1, 0

    def ask(self, now_s: float) -> int | None:
        window = int(now_s // self.length_s)
        if window != self.window:
            self.window, self.served = window, 0
        if self.served >= self.count:
            return math.ceil((window + 1) * self.length_s - now_s)
        self.served += 1
        return None


class Bucket:
    """Tokens that come at a rate and are saved up to a number."""

    def __init__(self, per_s: float, size: float) -> None:
        self.per_s, self.size = per_s, size
        self.tokens, self.at_s = size, 0.0

    def ask(self, now_s: float) -> int | None:
        self.tokens = min(self.size, self.tokens + (now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        if self.tokens < 1:
            return 1
        self.tokens -= 1
        return None


class Served(NamedTuple):
    by_minute: list[int]
    refused: int
    early: int
    """Attempts that were sent before the time that the provider had named."""


def serve(
    vendor: Counting, *, demand_per_s: float, minutes: int, jitter_s: float = 0.004
) -> Served:
    """Let more than enough messages go through a limiter, up to 32 at once, 0.15 s each."""
    draw = random.Random(1).random
    state = new_state(Quota())
    ends: list[tuple[float, int, str, float, float | None]] = []
    by_minute = [0] * minutes
    taken = refused = early = number = in_flight = 0
    now_s, opens_s, closed_s = 0.0, 0.0, -1.0
    while now_s < 60.0 * minutes:
        come = int(now_s * demand_per_s + 1e-9)
        while in_flight < 32 and taken < come:
            again_s = decide_take(state, now_s)
            if again_s is not None:
                opens_s = again_s
                break
            taken, number, in_flight = taken + 1, number + 1, in_flight + 1
            early += now_s < closed_s
            arrives_s = now_s + jitter_s * draw()
            heapq.heappush(ends, (arrives_s, number, "arrives", now_s, None))
        times = [(come + 1) / demand_per_s]
        if taken < come and in_flight < 32:
            times.append(opens_s)
        now_s = min([*times, *(each[0] for each in ends[:1])])
        while ends and ends[0][0] <= now_s:
            at_s, which, what, permit_s, asked_s = heapq.heappop(ends)
            if what == "arrives":
                wait_s = vendor.ask(at_s)
                if wait_s is None:
                    by_minute[min(minutes - 1, int(at_s // 60))] += 1
                    heapq.heappush(ends, (at_s + 0.15, which, "served", permit_s, None))
                else:
                    heapq.heappush(ends, (at_s + 0.02, which, "refused", permit_s, float(wait_s)))
                continue
            in_flight -= 1
            if what == "served":
                decide_return(state, permit_s, Accepted("1"), at_s, 0.5)
                continue
            refused, taken = refused + 1, taken - 1
            assert asked_s is not None
            closed_s = max(closed_s, at_s + asked_s)
            reason = Reason("too many requests", 429)
            too_fast = Deferred(Scope.PROVIDER, reason, asked_s, throttled=True)
            decide_return(state, permit_s, too_fast, at_s, draw())
    return Served(by_minute, refused, early)


class Vendor(NamedTuple):
    counting: Counting
    per_s: float
    use_min: float
    waste_max: float


def vendors() -> dict[str, Vendor]:
    """Return vendors anew: they count. Use is that of all minutes but the first two."""
    return {
        "sliding second": Vendor(Sliding(10, 1.0), 10.0, 0.93, 0.005),
        "a slow one": Vendor(Sliding(1, 1.0), 1.0, 0.93, 0.03),
        "a fast one": Vendor(Sliding(100, 1.0), 100.0, 0.93, 0.005),
        "sliding minute": Vendor(Sliding(300, 60.0), 5.0, 0.90, 0.02),
        "the clock's second": Vendor(Fixed(10, 1.0), 10.0, 0.93, 0.005),
        "the clock's minute": Vendor(Fixed(300, 60.0), 5.0, 0.95, 0.01),
        "tokens": Vendor(Bucket(10.0, 10.0), 10.0, 0.93, 0.01),
        "tokens, saved up for long": Vendor(Bucket(10.0, 100.0), 10.0, 0.95, 0.015),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", vendors())
def test_the_pace_comes_near_an_unknown_quota_and_wastes_little(name: str) -> None:
    vendor = vendors()[name]

    minutes = 10 if vendor.per_s <= 10.0 else 4
    served = serve(vendor.counting, demand_per_s=2.0 * vendor.per_s, minutes=minutes)

    assert 0 == served.early
    assert served.refused <= vendor.waste_max * sum(served.by_minute)
    use = sum(served.by_minute[2:]) / (vendor.per_s * 60.0 * (minutes - 2))
    assert use >= vendor.use_min, served


@pytest.mark.slow
def test_late_arrivals_by_a_tenth_of_a_second_cost_little() -> None:
    served = serve(Sliding(10, 1.0), demand_per_s=20.0, minutes=10, jitter_s=0.1)

    assert served.refused <= 0.01 * sum(served.by_minute)
    assert sum(served.by_minute[2:]) >= 0.85 * 10.0 * 60.0 * 8


@pytest.mark.slow
def test_a_limit_that_comes_in_the_middle_and_goes_is_followed_both_ways() -> None:
    class Throttled:
        limit = Sliding(3, 1.0)

        def ask(self, now_s: float) -> int | None:
            return self.limit.ask(now_s) if 120.0 <= now_s < 360.0 else None

    served = serve(Throttled(), demand_per_s=20.0, minutes=10)

    per_s = [count / 60.0 for count in served.by_minute]
    assert per_s[0] == pytest.approx(20.0, rel=0.02)
    assert per_s[4] == pytest.approx(3.0, rel=0.1)
    assert served.refused <= 20
    assert sum(served.by_minute) >= 0.95 * 20.0 * 600.0  # the backlog has gone
