"""How many attempts may be in flight: climbs with time and use, falls at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailactors.dispatch.concurrency import (
    CUT,
    FLOOR,
    RAMP_S,
    Concurrency,
    collapse,
    cut,
    grow,
    judge_end,
    new_concurrency,
    shrink,
)
from mailactors.model.outcome import Verdict

NOW_S = 1000.0
CEILING = 32
FULL = 10**6
"""In use to the last."""


def sick() -> Concurrency:
    state = new_concurrency(CEILING, 3, CEILING)
    collapse(state, NOW_S)
    return state


@pytest.mark.parametrize(
    ("ceiling", "floor", "limit", "expected"),
    [
        (32, 3, 1_000_000, (32, FLOOR)),
        (32, 3, 10, (10, FLOOR)),
        (32, 3, 0, (FLOOR, FLOOR)),
        (32, 10, 0, (10, 10)),
        (2, 3, 1_000_000, (2, 2)),
        (1, 1, 0, (1, 1)),
    ],
)
def test_a_new_limit_lies_between_floor_and_ceiling(
    ceiling: int, floor: int, limit: int, expected: tuple[int, int]
) -> None:
    state = new_concurrency(ceiling, floor, limit)

    assert expected == (state.whole, state.floor)


def test_from_the_floor_to_the_ceiling_takes_its_time_however_much_succeeds() -> None:
    state, limits = sick(), []
    for tick in range(1, 2001):
        grow(state, FULL, NOW_S + tick / 100)
        limits.append(state.limit)

    climb_s = (CEILING - FLOOR) * RAMP_S / CEILING
    assert limits[int(100 * climb_s) - 2] < CEILING
    assert limits[int(100 * climb_s) + 2] == CEILING
    per_s = [after - before for before, after in zip(limits, limits[100:], strict=False)]
    assert max(per_s) <= CEILING / RAMP_S + 1e-9


def test_a_slow_provider_is_climbed_by_one_a_round() -> None:
    state = sick()
    for number in range(FLOOR):
        grow(state, FULL, NOW_S + 5.0 + number)

    assert FLOOR + 1 == pytest.approx(state.limit, abs=0.5)


def test_what_is_not_in_use_does_not_grow() -> None:
    state = sick()

    grow(state, FLOOR // 2 - 1, NOW_S + 100.0)
    idle = state.limit
    grow(state, FLOOR // 2, NOW_S + 100.0)

    assert float(FLOOR) == idle < state.limit


def test_slow_answers_of_one_moment_cut_once() -> None:
    state = new_concurrency(CEILING, 3, CEILING)
    for number in range(10):
        cut(state, NOW_S - 8.0 + number / 10, NOW_S)
    at_once = state.limit
    cut(state, NOW_S + 1.0, NOW_S + 9.0)

    assert (CEILING * CUT, CEILING * CUT * CUT) == (at_once, state.limit)


@pytest.mark.parametrize(("failing", "expected"), [(0.3, CEILING), (0.8, FLOOR)])
def test_it_grows_while_most_succeed_and_falls_while_most_fail(
    failing: float, expected: int
) -> None:
    state = new_concurrency(CEILING, 3, CEILING // 2)
    for number in range(4000):
        is_failure = (number * 7919) % 1000 < failing * 1000
        verdict = Verdict.FAILURE if is_failure else Verdict.SUCCESS
        judge_end(state, verdict, False, FULL, NOW_S, NOW_S + number / 20)

    assert expected == pytest.approx(state.limit, abs=1.0)


def test_a_slow_success_is_no_success() -> None:
    state = new_concurrency(CEILING, 3, CEILING)

    judge_end(state, Verdict.SUCCESS, True, FULL, NOW_S, NOW_S + 9.0)

    assert CEILING * CUT == state.limit


@given(st.lists(st.sampled_from(["grow", "shrink", "cut", "collapse"]), max_size=200))
def test_it_never_leaves_its_bounds(script: list[str]) -> None:
    state = new_concurrency(CEILING, 3, CEILING)
    for tick, what in enumerate(script):
        now_s = NOW_S + tick
        match what:
            case "grow":
                grow(state, FULL, now_s)
            case "shrink":
                shrink(state)
            case "cut":
                cut(state, now_s, now_s)
            case _:
                collapse(state, now_s)
        assert FLOOR <= state.limit <= CEILING
