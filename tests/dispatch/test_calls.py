"""The window over which a breaker counts: no call in it is forgotten, and none is kept for long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailactors.dispatch.calls import Calls

WINDOW_S = 30.0


def test_a_call_counts_for_the_whole_window() -> None:
    calls = Calls()
    calls.add(is_success=False, now_s=0.9, window_s=WINDOW_S)

    calls.add(is_success=True, now_s=30.5, window_s=WINDOW_S)

    assert (1, 1) == (calls.successes, calls.failures)


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.booleans()), min_size=1, max_size=40))
def test_calls_in_the_window_count_and_none_that_is_a_second_older(
    steps: list[tuple[float, bool]],
) -> None:
    calls, now_s, ends = Calls(), 0.0, []
    for gap_s, is_success in steps:
        now_s += gap_s
        ends.append((now_s, is_success))
        calls.add(is_success=is_success, now_s=now_s, window_s=WINDOW_S)

    for is_success, count in ((True, calls.successes), (False, calls.failures)):
        times = [at_s for at_s, each in ends if each is is_success]
        inside = sum(at_s > now_s - WINDOW_S for at_s in times)
        nearly = sum(at_s > now_s - WINDOW_S - 1.0 for at_s in times)
        assert inside <= count <= nearly
